// Package failover is the verb that moves a journal to this site: its flags, what it shows before
// and after, and what is typed. Package control/promote does it.
package failover

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/control/promote"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/quantity"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/journal/journalnode"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

type flags struct {
	planned   planned
	force     bool
	path      string
	target    string
	at        string
	point     cli.PointFlag
	agents    []string
	backings  []string
	patience  quantity.Duration
	keepAck   bool
	wait      bool
	serve     bool
	overwrite bool
	yes       bool
	dryRun    bool
}

// New makes `pollux failover`.
func New(version string) *cobra.Command {
	var f flags
	c := &cobra.Command{Use: "failover {--force -c agent.yaml | --planned --to SITE | --commit | --rollback}",
		Short: "Move a journal to another site, in order, or without its former seat",
		Long: `With --planned, the journal's seat, which is asked (--socket, --address), has I/O wait,
brings all of it into the log that the standby at SITE follows, and hands over; there it
goes on. Nothing is lost. Where it is not taken up within the limit, it is taken back, and
I/O goes on at the seat. At the new seat, the way back is open until --commit gives it up;
--rollback takes it: the volumes go on at the former site, from the point of the hand-over,
and what was written since stays in the log.

With --force, for the loss of a site. On a host at this site, whose configuration names the object
store that outlived the loss, it takes the farthest log that it can reach and fences it
under the next epoch, so that nothing counts any more that the lost site still writes;
makes the journal's state of what the log holds; gives the volumes to the agent of the
configuration. Then start the agent, or let --serve go on as the agent: it goes on with the
same log, and serves the volumes at once, at their newest point, while their blocks still
come from the object store. Nothing is asked of the lost site.

What the log did not get is lost. It shows what it found, and asks for the journal's name,
before it changes anything. A run that was cut short goes on when it is called again.`,
		Args: cobra.NoArgs}
	fl := c.Flags()
	fl.BoolVar(&f.force, "force", false, "without the former seat: what it did not hand over is lost")
	fl.StringVarP(&f.path, "config", "c", "/etc/pollux/agent.yaml", "the configuration of the agent at this site")
	fl.StringVar(&f.target, "store", "", "name or URL of the target whose log is taken (default: the farthest that "+
		"is not at the lost site)")
	f.point.At = &f.at
	fl.Var(&f.point, "at", "point to go on from: LSN, time or bookmark (default: the newest); later writes "+
		"stay in the log, and can be restored")
	fl.StringSliceVar(&f.agents, "agent", nil, "agent of the lost site whose volumes are taken (default: all)")
	fl.StringSliceVar(&f.backings, "backing", nil, "where a volume goes: VOLUME=PATH "+
		"(default: below the state directory)")
	fl.Var(&f.patience, "patience", "how long to try a store that does not answer")
	fl.BoolVar(&f.keepAck, "keep-ack", false, "leave groups at an ack that cannot be kept here: their writers wait")
	fl.BoolVar(&f.wait, "wait-for-data", false, "restore the volumes wholly before they can be served "+
		"(default: they are served while they are filled)")
	fl.BoolVar(&f.serve, "serve", false, "go on as the agent of the configuration, until SIGTERM or SIGINT")
	fl.BoolVar(&f.overwrite, "overwrite", false, "restore even where a backing is there already")
	fl.BoolVar(&f.yes, "yes", false, "do not ask")
	fl.BoolVar(&f.dryRun, "dry-run", false, "show what would be taken over, change nothing")
	f.planned.add(c)
	c.RunE = func(c *cobra.Command, _ []string) error { return f.run(c, version) }
	return c
}

func (f *flags) run(c *cobra.Command, version string) error {
	ways := 0
	for _, way := range []bool{f.force, f.planned.on, f.planned.commit, f.planned.back} {
		if way {
			ways++
		}
	}
	switch {
	case ways != 1:
		return fail.New(fail.Invalid, "failover", "", "say how").
			WithHint("--planned --to SITE hands the journal over in order, with its seat, and --commit or --rollback " +
				"decides about it afterwards; --force takes it over without")
	case f.planned.on:
		return f.planned.run(c, f.dryRun)
	case f.planned.commit:
		return f.planned.commitIt(c, f.dryRun)
	case f.planned.back:
		return f.planned.rollBack(c, f.dryRun, f.yes)
	}
	backings, err := f.places()
	if err != nil {
		return err
	}
	conf, err := config.LoadAgent(f.path)
	if err != nil {
		return err
	}
	if rep, err := f.running(c, conf, backings); rep != nil || err != nil {
		return f.show(c, rep, err)
	}
	rep, err := promote.Force(c.Context(), promote.Options{Conf: conf, Path: f.path, Target: f.target, At: f.at,
		Agents: f.agents, Backings: backings, KeepAck: f.keepAck, Overwrite: f.overwrite, DryRun: f.dryRun,
		WaitForData: f.wait, Version: version, Operator: cli.Operator(),
		Open:    func(ctx context.Context, t config.Target) (objstore.Store, func(), error) { return f.open(ctx, t) },
		Confirm: func(found *promote.Report) error { return f.confirm(c, found) },
		Tell:    func(text string) { fmt.Fprintln(c.ErrOrStderr(), "pollux:", text) },
		Stage:   cli.Stages(c.ErrOrStderr()), Logger: cli.NewQuiet()})
	if err := f.show(c, rep, err); err != nil || !f.serve || rep.DryRun {
		return err
	}
	return cli.RunAgent(c.Context(), conf, f.path, version)
}

// show prints what became of it.
func (f *flags) show(c *cobra.Command, rep *promote.Report, err error) error {
	if err != nil {
		return err
	}
	if f.planned.daemon.JSON {
		return cli.PrintJSON(c.OutOrStdout(), rep)
	}
	f.report(c.OutOrStdout(), rep)
	return nil
}

// places reads --backing.
func (f *flags) places() (map[string]string, error) {
	out := map[string]string{}
	for _, b := range f.backings {
		name, path, ok := strings.Cut(b, "=")
		if !ok || name == "" || !strings.HasPrefix(path, "/") {
			return nil, fail.New(fail.Invalid, "failover", "--backing "+b, "it is not VOLUME=/PATH").
				WithHint("--backing db=/dev/vg0/db, say")
		}
		out[name] = path
	}
	return out, nil
}

// open opens a target's store to write to it. One that is not there has no log.
func (f *flags) open(ctx context.Context, t config.Target) (objstore.Store, func(), error) {
	o := journalnode.StoreOptions(t)
	o.Existing = true
	return cli.OpenStore(ctx, &cli.StoreFlags{URL: t.URL, Writes: true, Patience: f.patience, Options: o})
}

// confirm shows what was found, and what is going to be lost.
func (f *flags) confirm(c *cobra.Command, rep *promote.Report) error {
	var b strings.Builder
	describe(&b, rep)
	fmt.Fprintf(&b, "The former seat%s is fenced for good: what it wrote and did not upload is lost, "+
		"unless it comes back.", at(rep.FromSite))
	return cli.Confirm(c, b.String(), rep.Name, f.yes)
}

func at(site string) string {
	if site == "" {
		return ""
	}
	return " at " + site
}

// describe says what was found.
func describe(w io.Writer, rep *promote.Report) {
	fmt.Fprintf(w, "journal %s (%s), epoch %d%s: its log in target %s ends at journal index %d\n", rep.Name,
		rep.Journal, rep.FromEpoch, at(rep.FromSite), rep.Target, rep.Index)
	if !rep.LastSign.IsZero() {
		fmt.Fprintf(w, "it was written to last at %s\n", rep.LastSign.Format(time.DateTime))
	}
	for _, o := range rep.Others {
		fmt.Fprintf(w, "target %s%s: %s", o.Target, at(o.Site), o.State)
		if o.Error != "" {
			fmt.Fprintf(w, ": %s", o.Error)
		}
		fmt.Fprintln(w)
	}
	rows := [][]string{{"GROUP", "POINT", "TIME", "AGE", "ACK", ""}}
	for _, g := range rep.Groups {
		ack, note := g.Ack, g.Note
		if g.AckWas != "" {
			ack = g.AckWas + " -> " + g.Ack
		}
		if g.Unprotected {
			note = strings.TrimPrefix(note+"; unprotected from then on: no target outside "+rep.Site+" has it", "; ")
		}
		rows = append(rows, []string{g.Name, fmt.Sprintf("LSN %d of %d", g.LSN, g.HeadLSN),
			g.Time.Format(time.DateTime), text.Duration(time.Duration(g.AgeSeconds * 1e9)), ack, note})
	}
	text.Table(w, rows)
	rows = [][]string{{"VOLUME", "GROUP", "SIZE", "BACKING", "WAS", "SERVED"}}
	for _, v := range rep.Volumes {
		served := "when it is restored"
		switch {
		case v.Warm:
			served = "at once"
		case v.Hydrates:
			served = "at once, while it is filled"
		}
		rows = append(rows, []string{v.Name, v.Group, quantity.Bytes(v.Size).String(), v.Backing, v.Was, served})
	}
	text.Table(w, rows)
	for _, name := range rep.Skipped {
		fmt.Fprintf(w, "volume %s was never complete in the store: it is lost\n", name)
	}
}

func (f *flags) report(w io.Writer, rep *promote.Report) {
	switch {
	case rep.DryRun:
		describe(w, rep)
		fmt.Fprintf(w, "nothing was changed; --force without --dry-run would take journal %s to %s as epoch %d\n",
			rep.Name, rep.Site, rep.Epoch)
		return
	case rep.Done:
		fmt.Fprintf(w, "journal %s has its seat at %s since epoch %d already: nothing was changed\n", rep.Name,
			rep.Site, rep.Epoch)
		return
	}
	fmt.Fprintf(w, "journal %s has its seat at %s now, epoch %d\n", rep.Name, rep.Site, rep.Epoch)
	for _, g := range rep.Groups {
		fmt.Fprintf(w, "group %s goes on from LSN %d, %s old when it was taken", g.Name, g.LSN,
			text.Duration(time.Duration(g.AgeSeconds*1e9)))
		if g.Unprotected {
			fmt.Fprint(w, "; it is unprotected: add a target outside this site")
		}
		fmt.Fprintln(w)
	}
	warm(w, rep)
	if rep.RTOSeconds > 0 {
		fmt.Fprintf(w, "%d volumes are served here, %s after the verb\n", len(rep.Volumes),
			text.Duration(time.Duration(rep.RTOSeconds*1e9)))
		return
	}
	filled := 0
	for _, v := range rep.Volumes {
		if v.Hydrates {
			filled++
		}
	}
	fmt.Fprintf(w, "%d volumes in %s", len(rep.Volumes), text.Duration(time.Duration(rep.Seconds*1e9)))
	if filled > 0 {
		fmt.Fprintf(w, "; %d of them are filled from %s while they serve: pollux status says how far", filled,
			rep.Store)
	}
	if !f.serve {
		fmt.Fprintf(w, "; start the agent now: pollux agent -c %s", f.path)
	}
	fmt.Fprintln(w)
}
