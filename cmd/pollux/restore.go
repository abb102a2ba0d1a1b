package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/hostdev"
	"github.com/pollux-dr/pollux/internal/quantity"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/image"
)

type restoreFlags struct {
	store                  cli.StoreFlags
	out, at, from          string
	overwrite, yes, dryRun bool
	resume, restart        bool
	verify, json           bool
	limit                  quantity.Bytes
}

func newRestore() *cobra.Command {
	var f restoreFlags
	c := &cobra.Command{Use: "restore VOLUME|GROUP --store URL -o FILE|DEVICE|DIRECTORY [--at POINT]", Short: "Write a volume's image at a recovery point, from the object store alone",
		Long: `POINT is an LSN (digits), a time ("2026-11-28 13:32" in this host's zone, with Z or
+01:00 in another, or -10m for ten minutes ago: the last frame that ends at or
before it) or a bookmark's name; without --at it is the newest point. A group's volumes go to DIRECTORY/<volume>.img, all at one point.

A new file is sparse and takes its name only when it is complete. What an
interruption leaves (<file>.partial) is gone on from by the same command, also
toward a newer point; --restart begins anew. --overwrite onto an image that an
earlier restore made, and nobody wrote to since, fetches only what differs; so does
--from POINT onto a device that holds that point, as the volume's own does when
POINT is a bookmark that was set since the last write. A POINT behind which the store
has writes to the volume is refused.`,
		Args: cobra.ExactArgs(1)}
	f.store.Add(c)
	c.Flags().StringVarP(&f.out, "output", "o", "", "file or block device to write; for a group a directory (required)")
	f.store.AddPoint(c, &f.at)
	c.Flags().BoolVar(&f.overwrite, "overwrite", false, "lose what the target holds; a device in use, and the backing of a volume that is served, are refused all the same")
	c.Flags().BoolVar(&f.yes, "yes", false, "with --overwrite: do not ask")
	c.Flags().BoolVar(&f.resume, "resume", false, "onto a device: go on from an interrupted restore; nobody must have written to it since")
	c.Flags().Var(&cli.PointFlag{At: &f.from}, "from",
		"onto a device: it holds this point of the volume, and nobody has written to it since; fetch only what differs")
	c.Flags().BoolVar(&f.restart, "restart", false, "do not go on from an interrupted restore, nor from an older image")
	c.Flags().BoolVar(&f.verify, "verify", false, "read the target back at the end and compare it with the store")
	c.Flags().Var(&f.limit, "limit", "read no more than this from the store each second, as in 50MiB (default: no limit)")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "show what would be read and written, write nothing")
	c.Flags().BoolVar(&f.json, "json", false, "print one JSON object and nothing else")
	c.RunE = func(c *cobra.Command, args []string) error { return restore(c, &f, args[0]) }
	return c
}

func restore(c *cobra.Command, f *restoreFlags, name string) error {
	if f.out == "" {
		return fail.New(fail.Invalid, "restore", name, "no target").WithHint("name a file or a block device with -o")
	}
	if err := hostdev.CheckImage("restore "+name+" to", "-o "+f.out, f.out); err != nil {
		return err
	}
	if f.from != "" && (f.resume || f.restart) {
		return fail.New(fail.Invalid, "restore", name, "--from beside --resume or --restart").
			WithHint("a device holds a point, or half a restore to go on from, or nothing of use: name one of the three")
	}
	l, closeStore, err := cli.OpenLog(c.Context(), &f.store)
	if err != nil {
		return err
	}
	defer closeStore()
	jobs, group, err := restoreJobs(c, f, l, name)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if err := j.check(c, f); err != nil {
			return err
		}
	}
	reports := make([]*image.Report, 0, len(jobs))
	var failures error
	for _, j := range jobs {
		o := f.options(c)
		o.Held = j.held
		rep, err := image.Restore(c.Context(), l, j.point, j.target, o)
		if err != nil && group && c.Context().Err() == nil { // the others are worth having
			err = fail.At("restore", "volume "+j.point.Volume.Name, err)
			fmt.Fprintln(c.ErrOrStderr(), "pollux:", err)
			failures = errors.Join(failures, err)
			continue
		}
		if err != nil {
			return err
		}
		reports = append(reports, rep)
		if !f.json {
			printRestored(c.OutOrStdout(), f, rep, j.target)
		}
	}
	switch {
	case f.json && group:
		err = cli.PrintJSON(c.OutOrStdout(), map[string]any{"group": name, "volumes": reports})
	case f.json:
		err = cli.PrintJSON(c.OutOrStdout(), reports[0])
	}
	if failures != nil {
		first := failures.(interface{ Unwrap() []error }).Unwrap()[0]
		return (&fail.Error{Kind: fail.KindOf(first), Op: "restore group", Object: name, Err: fmt.Errorf("%d of %d volumes failed; the first: %w", len(jobs)-len(reports), len(jobs), first)}).WithHint(fail.HintOf(first))
	}
	if err != nil || !f.dryRun {
		return err
	}
	for _, j := range jobs {
		err = errors.Join(err, j.target.Refused(f.overwrite))
	}
	return err
}

// restoreJob is one volume on its way to its target.
type restoreJob struct {
	point  twin.Point
	target *image.Target
	held   *twin.Point // what the target holds, as the operator says; nil: nothing is said
}

// restoreJobs finds the volumes, their points and their targets.
func restoreJobs(c *cobra.Command, f *restoreFlags, l *twin.Log, name string) (jobs []*restoreJob, group bool, err error) {
	volumes, err := groupVolumes(l, name)
	if err != nil {
		return nil, false, err
	}
	if group = l.State.Volumes[name] == nil && len(volumes) > 0; !group {
		v, err := l.Volume(name)
		if err != nil {
			return nil, false, err
		}
		volumes = []*state.Volume{v}
	} else if st, err := os.Stat(f.out); err != nil || !st.IsDir() {
		return nil, true, fail.New(fail.Invalid, "restore group", name, f.out+" is not a directory").WithHint("make it: each volume becomes <volume>.img in it")
	}
	if group {
		if err := oneInstant(c.ErrOrStderr(), f.at, volumes, l); err != nil {
			return nil, true, err
		}
	}
	var missing error
	for _, v := range volumes {
		p, err := l.Resolve(c.Context(), v, f.at, time.Now())
		if group && (fail.Is(err, fail.Refused) || fail.Is(err, fail.NotFound)) && p.LSN < v.FirstLSN {
			fmt.Fprintf(c.ErrOrStderr(), "pollux: volume %s is left out: its twin is complete from LSN %d on only\n", v.Name, v.FirstLSN)
			missing = err
			continue
		}
		if err != nil {
			return nil, group, fail.At("restore", "volume "+v.Name, err)
		}
		out := f.out
		if group {
			out = filepath.Join(f.out, v.Name+".img")
		}
		t, err := image.Inspect(out, v.SizeBytes)
		if err != nil {
			return nil, group, err
		}
		t.Interrupted(v, &image.Options{Resume: f.resume, Restart: f.restart})
		if p.Note != "" {
			fmt.Fprintf(c.ErrOrStderr(), "pollux: LSN %d (%s): %s\n", p.LSN, p.Time.UTC().Format(time.RFC3339Nano), p.Note)
		}
		job := &restoreJob{point: p, target: t}
		if f.from != "" {
			if job.held, err = t.Held(c.Context(), l, &p, f.from); err != nil {
				return nil, group, err
			}
		}
		jobs = append(jobs, job)
	}
	if len(jobs) == 0 {
		return nil, group, missing
	}
	for _, j := range jobs {
		if damage := cli.DamageText(l, j.point.Volume); damage != "" {
			fmt.Fprintln(c.ErrOrStderr(), "pollux: the log is damaged beyond this point:", damage)
			break
		}
	}
	return jobs, group, nil
}

// groupVolumes lists those of a group that have not been removed; none of what is no
// group, or a volume's name too.
func groupVolumes(l *twin.Log, name string) (out []*state.Volume, err error) {
	if l.State.Groups[name] == nil || l.State.Volumes[name] != nil {
		return nil, nil
	}
	for _, v := range state.Sorted(l.State.Volumes, func(v *state.Volume) string { return v.Name }) {
		if v.Group == name && !v.Removed {
			out = append(out, v)
		}
	}
	if len(out) == 0 {
		return nil, fail.New(fail.NotFound, "restore group", name, "it has no volumes")
	}
	return out, nil
}

// oneInstant says what a point of a group is worth whose volumes lie on several hosts.
func oneInstant(w io.Writer, at string, volumes []*state.Volume, l *twin.Log) error {
	streams := map[string]bool{}
	for _, v := range volumes {
		streams[v.Stream.String()] = true
	}
	group := volumes[0].Group
	switch {
	case len(streams) == 1 || l.State.Bookmarks[group+"/"+at] != nil:
		return nil
	case at != "" && strings.Trim(at, "0123456789") == "":
		return fail.New(fail.Invalid, "restore group", group, fmt.Sprintf("its volumes lie on %d hosts, each with LSNs of its own", len(streams))).
			WithHint("name a bookmark or a time")
	}
	fmt.Fprintf(w, "pollux: the volumes lie on %d hosts: each is consistent in itself; only a bookmark is one instant of all\n", len(streams))
	return nil
}

// check refuses what would destroy something, unless the operator insists.
func (j *restoreJob) check(c *cobra.Command, f *restoreFlags) error {
	t := j.target
	if f.dryRun { // which reports first
		return nil
	}
	if err := t.Refused(f.overwrite); err != nil || len(t.Objections) == 0 {
		return err
	}
	if f.yes {
		fmt.Fprintf(c.ErrOrStderr(), "pollux: %s: overwriting in spite of this: %s\n", t.Path, strings.Join(t.Objections, "; "))
	}
	return cli.Confirm(c, fmt.Sprintf("%s: %s. Restoring overwrites all of it.", t.Path, strings.Join(t.Objections, "; ")), t.Path, f.yes)
}

// options are the flags of one restore.
func (f *restoreFlags) options(c *cobra.Command) image.Options {
	return image.Options{Overwrite: f.overwrite, Resume: f.resume, Restart: f.restart, Verify: f.verify, DryRun: f.dryRun,
		BytesPerSecond: int64(f.limit), Stage: cli.Stages(c.ErrOrStderr()),
		GoingOn: func(path, what string) {
			fmt.Fprintf(c.ErrOrStderr(), "pollux: %s: going on from %s; --restart would begin anew\n", path, what)
		}}
}

func printRestored(w io.Writer, f *restoreFlags, r *image.Report, t *image.Target) {
	fmt.Fprintf(w, "volume %s at epoch %d LSN %d, %s\n", r.Volume, r.Epoch, r.LSN, r.Time.Format(time.RFC3339Nano))
	if r.DryRun {
		fmt.Fprintf(w, "would fetch %s from %d objects for %s of data, in a volume of %s, and write to %s (%s)\n", text.Bytes(r.FetchBytes), r.Objects,
			text.Bytes(r.LiveBytes), quantity.Bytes(r.SizeBytes), r.Output, r.Target)
		if r.Base != "" {
			fmt.Fprintf(w, "would go on from %s\n", r.Base)
		}
		for _, o := range t.Objections {
			if t.Refused(f.overwrite) == nil {
				fmt.Fprintf(w, "would overwrite in spite of this: %s\n", o)
			}
		}
		return
	}
	zeroed, verified := "", ""
	if r.ZeroedBytes > 0 {
		zeroed = fmt.Sprintf(", %s zeroed", text.Bytes(r.ZeroedBytes))
	}
	if r.Verified {
		verified = "; read back and compared"
	}
	fmt.Fprintf(w, "restored %s: %s fetched, %s written%s, in %s%s\n", r.Output, text.Bytes(r.ReadBytes), text.Bytes(r.WrittenBytes), zeroed,
		text.Duration(time.Duration(r.Seconds*1e9)), verified)
}
