// Package failback is the verb that makes a former seat a standby: its flags, what it shows before and
// after, and what is typed. Package control/failback does it.
package failback

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/control/failback"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/quantity"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

type flags struct {
	path     string
	target   string
	compare  bool
	patience quantity.Duration
	yes      bool
	dryRun   bool
	json     bool
}

// New makes `pollux failback`.
func New() *cobra.Command {
	var f flags
	c := &cobra.Command{Use: "failback -c agent.yaml",
		Short: "Make a former seat, whose journal went on elsewhere, a standby of it",
		Long: `On the host of a former seat, with the configuration of its agent, which must not run.
What was written here and never reached the journal is saved first as a branch below the
state directory, which pollux branch lists, mounts and compares. Then those extents, and no
others, are put back from the log to the point at which the journal went on elsewhere, and
pollux standby -c with the same configuration follows from there. The former agent's state
is put aside, with the branch. A run that was cut short goes on when it is called again.`,
		Args: cobra.NoArgs}
	fl := c.Flags()
	fl.StringVarP(&f.path, "config", "c", "/etc/pollux/agent.yaml", "the configuration of the agent that was here")
	fl.StringVar(&f.target, "store", "", "name or URL of the target whose log is read, and followed (default: "+
		"standby.target, else the farthest)")
	fl.BoolVar(&f.compare, "compare", false, "compare the volumes with the log, whatever the WAL says was written: "+
		"reads all of both")
	fl.Var(&f.patience, "patience", "how long to try a store that does not answer")
	fl.BoolVar(&f.yes, "yes", false, "do not ask")
	fl.BoolVar(&f.dryRun, "dry-run", false, "show what would be saved and put back, change nothing")
	fl.BoolVar(&f.json, "json", false, "print one JSON object and nothing else")
	c.RunE = func(c *cobra.Command, _ []string) error { return f.run(c) }
	return c
}

func (f *flags) run(c *cobra.Command) error {
	conf, err := config.LoadAgent(f.path)
	if err != nil {
		return err
	}
	rep, err := failback.Run(c.Context(), failback.Options{Conf: conf, Path: f.path, Target: f.target,
		Compare: f.compare, DryRun: f.dryRun, Open: f.open,
		Confirm: func(found *failback.Report) error { return f.confirm(c, found) },
		Tell:    func(text string) { fmt.Fprintln(c.ErrOrStderr(), "pollux:", text) },
		Stage:   cli.Stages(c.ErrOrStderr()), Logger: cli.NewQuiet()})
	if err != nil {
		return err
	}
	if f.json {
		return cli.PrintJSON(c.OutOrStdout(), rep)
	}
	f.report(c.OutOrStdout(), rep)
	return nil
}

// open opens a target's store to read it.
func (f *flags) open(ctx context.Context, t config.Target) (objstore.Store, func(), error) {
	return cli.OpenStore(ctx, cli.StoreOf(t, f.patience))
}

// confirm shows what was found, and what is going to be put back.
func (f *flags) confirm(c *cobra.Command, rep *failback.Report) error {
	var b strings.Builder
	describe(&b, rep)
	fmt.Fprintf(&b, "What only this host has is saved below %s, and then put back in the backings.", rep.Path)
	return cli.Confirm(c, b.String(), rep.Name, f.yes)
}

func site(name string) string {
	if name == "" {
		return ""
	}
	return " at " + name
}

// describe says what was found.
func describe(w io.Writer, rep *failback.Report) {
	s := rep.Successor
	fmt.Fprintf(w, "journal %s (%s), epoch %d%s: it went on%s under epoch %d at %s, behind journal index %d\n",
		rep.Name, rep.Journal, rep.Epoch, site(rep.Site), site(s.Site), s.Epoch, s.Time.Format(time.DateTime),
		s.Index-1)
	rows := [][]string{{"GROUP", "BRANCH POINT", "BACK TO", "LAST HERE", "WRITTEN", ""}}
	for _, g := range rep.Groups {
		when, note := "-", g.Why
		if !g.From.IsZero() {
			when = g.From.Format(time.DateTime) + " to " + g.To.Format(time.DateTime)
		}
		if g.Compare {
			note = "compared with the log: " + note
		} else if g.Rounded {
			note = "rounded: a bitmap says what was written"
		}
		rows = append(rows, []string{g.Name, lsn(g.PointLSN), lsn(g.BaseLSN), lsn(g.LastLSN), when, note})
	}
	text.Table(w, rows)
	rows = [][]string{{"VOLUME", "GROUP", "SIZE", "ONLY HERE", "BACKING"}}
	for _, v := range rep.Volumes {
		only := "not known yet"
		if v.DivergentBytes >= 0 {
			only = fmt.Sprintf("%s in %d extents", text.Bytes(v.DivergentBytes), v.Extents)
		}
		rows = append(rows, []string{v.Name, v.Group, quantity.Bytes(v.Size).String(), only, v.Backing})
	}
	text.Table(w, rows)
	for _, v := range rep.Left {
		fmt.Fprintf(w, "volume %s stays as it is, and is not followed: %s\n", v.Volume, v.Why)
	}
}

func lsn(n uint64) string { return fmt.Sprintf("LSN %d", n) }

func (f *flags) report(w io.Writer, rep *failback.Report) {
	switch {
	case rep.DryRun:
		describe(w, rep)
		fmt.Fprintln(w, "nothing was changed")
		return
	case rep.Done:
		fmt.Fprintf(w, "this host is a standby of journal %s already; what only it had is branch %s: nothing was "+
			"changed\n", rep.Name, rep.Branch)
		return
	}
	fmt.Fprintf(w, "branch %s has what only this host had: %s in %d volumes (pollux branch ls -c %s)\n", rep.Branch,
		text.Bytes(rep.DivergentBytes), len(rep.Volumes), f.path)
	for _, g := range rep.Groups {
		fmt.Fprintf(w, "group %s is back at LSN %d", g.Name, g.BaseLSN)
		if g.Compare {
			fmt.Fprintf(w, "; what it had written was not known (%s), so it was compared with the log", g.Why)
		}
		fmt.Fprintln(w)
	}
	for _, v := range rep.Left {
		fmt.Fprintf(w, "volume %s stays as it is, and is not followed: %s\n", v.Volume, v.Why)
	}
	fmt.Fprintf(w, "%s were put back, %s read from the store, in %s; follow the journal now: pollux standby -c %s\n",
		text.Bytes(rep.PayloadBytes), text.Bytes(rep.ReadBytes), text.Duration(time.Duration(rep.Seconds*1e9)), f.path)
}
