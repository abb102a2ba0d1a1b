package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/agent/backing"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/twin"
)

type restoreFlags struct {
	store                  storeFlags
	out, at                string
	overwrite, yes, dryRun bool
	json                   bool
}

func newRestore() *cobra.Command {
	var f restoreFlags
	c := &cobra.Command{Use: "restore VOLUME --store URL -o FILE|DEVICE [--at POINT]", Short: "Write a volume's image at a recovery point, from the object store alone",
		Long: `POINT is an LSN (digits), a time (RFC 3339, or -10m for ten minutes ago: the last
frame that ends at or before it) or a bookmark's name; without --at it is the
newest point. A new file is sparse and takes its name only when it is complete.`,
		Args: cobra.ExactArgs(1)}
	f.store.add(c)
	c.Flags().StringVarP(&f.out, "output", "o", "", "file or block device to write (required)")
	c.Flags().StringVar(&f.at, "at", "", "recovery point: LSN, time or bookmark (default: the newest)")
	c.Flags().BoolVar(&f.overwrite, "overwrite", false, "write even where the target is in use or not empty")
	c.Flags().BoolVar(&f.yes, "yes", false, "with --overwrite: do not ask")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "show what would be read and written, write nothing")
	c.Flags().BoolVar(&f.json, "json", false, "print one JSON object and nothing else")
	c.RunE = func(c *cobra.Command, args []string) error { return restore(c, &f, args[0]) }
	return c
}

// restoreReport is what `pollux restore --json` prints.
type restoreReport struct {
	Volume     string    `json:"volume"`
	Output     string    `json:"output"`
	Epoch      uint64    `json:"epoch"`
	LSN        uint64    `json:"lsn"`
	Time       time.Time `json:"time"`
	SizeBytes  int64     `json:"size_bytes"`
	Objects    int       `json:"objects"`
	FetchBytes int64     `json:"fetch_bytes"`
	DryRun     bool      `json:"dry_run"`
	Target     string    `json:"target"`               // what was there before
	Objections []string  `json:"objections,omitempty"` // of a dry run: why it would be refused without --overwrite
	Seconds    float64   `json:"seconds"`
	LogDamage  string    `json:"log_damage,omitempty"` // of objects behind the point's
	Note       string    `json:"note,omitempty"`       // why the point is not quite what was asked for
	twin.Result
}

func restore(c *cobra.Command, f *restoreFlags, name string) error {
	if f.out == "" {
		return fail.New(fail.Invalid, "restore", name, "no target").WithHint("name a file or a block device with -o")
	}
	if f.at != "" && f.at[0] == '-' && len(f.at) == 1 {
		return fail.New(fail.Invalid, "restore", name, "--at - is not a point").WithHint("write an LSN, a time (RFC 3339, or -10m for ten minutes ago) or a bookmark's name")
	}
	start := time.Now()
	l, closeStore, err := openLog(c.Context(), &f.store, nil)
	if err != nil {
		return err
	}
	defer closeStore()
	v, err := l.Volume(name)
	if err != nil {
		return err
	}
	p, err := l.Resolve(v, f.at, time.Now())
	if err != nil {
		return err
	}
	plan := l.Plan(p)
	t, err := inspectTarget(f.out, v.SizeBytes)
	if err != nil {
		return err
	}
	if p.Note != "" {
		fmt.Fprintf(c.ErrOrStderr(), "pollux: LSN %d (%s): %s\n", p.LSN, p.Time.UTC().Format(time.RFC3339Nano), p.Note)
	}
	if l.Damage != nil {
		fmt.Fprintln(c.ErrOrStderr(), "pollux: the log is damaged beyond this point:", l.Damage)
	}
	rep := restoreReport{Volume: name, Output: f.out, Epoch: p.Epoch, LSN: p.LSN, Time: p.Time.UTC(), SizeBytes: v.SizeBytes,
		Note: p.Note, Objects: plan.Objects, FetchBytes: plan.Bytes, DryRun: f.dryRun, Target: t.what,
		LogDamage: damageText(l)}
	if f.dryRun {
		rep.Objections = t.objections
		if err := report(c, f, &rep, t); err != nil || f.overwrite {
			return err
		}
		return refused(f, t)
	}
	if err := allowTarget(c, f, t); err != nil {
		return err
	}
	if rep.Result, err = writeTarget(c.Context(), c.ErrOrStderr(), l, plan, t); err != nil {
		return err
	}
	rep.Seconds = time.Since(start).Seconds()
	return report(c, f, &rep, t)
}

// allowTarget refuses what would destroy something, unless the operator insists.
func allowTarget(c *cobra.Command, f *restoreFlags, t *restoreTarget) error {
	if !f.overwrite || len(t.objections) == 0 {
		return refused(f, t)
	}
	return confirm(c, fmt.Sprintf("%s: %s. Restoring overwrites all of it.", f.out, strings.Join(t.objections, "; ")), f.out, f.yes)
}

// refused is the error of a target with objections, nil where there are none.
func refused(f *restoreFlags, t *restoreTarget) error {
	if len(t.objections) == 0 {
		return nil
	}
	return fail.New(fail.Refused, "restore to", f.out, strings.Join(t.objections, "; ")).
		WithHint("choose another target, or add --overwrite to lose what is there")
}

func writeTarget(ctx context.Context, w io.Writer, l *twin.Log, plan *twin.Plan, t *restoreTarget) (twin.Result, error) {
	if err := t.open(); err != nil {
		return twin.Result{}, err
	}
	bar := newProgress(w, "restoring")
	res, err := l.Restore(ctx, plan, t.file, bar.update)
	bar.end()
	if err == nil && !t.device {
		v := plan.Point.Volume // best effort: `pollux volume accept` looks at it
		_ = backing.SetRestored(t.file, backing.Restored{Stream: v.Stream.String(), Volume: v.Number, LSN: plan.Point.LSN})
	}
	return res, t.finish(err)
}

func report(c *cobra.Command, f *restoreFlags, r *restoreReport, t *restoreTarget) error {
	if f.json {
		return printJSON(c.OutOrStdout(), r)
	}
	w := c.OutOrStdout()
	fmt.Fprintf(w, "volume %s at epoch %d LSN %d, %s\n", r.Volume, r.Epoch, r.LSN, r.Time.Format(time.RFC3339Nano))
	if r.DryRun {
		fmt.Fprintf(w, "would fetch %s in %d objects and write up to %s to %s (%s)\n", text.Bytes(r.FetchBytes), r.Objects,
			config.Bytes(r.SizeBytes), r.Output, r.Target)
		if f.overwrite {
			for _, o := range t.objections {
				fmt.Fprintf(w, "would overwrite in spite of this: %s\n", o)
			}
		}
		return nil
	}
	fmt.Fprintf(w, "restored %s: %s fetched, %s written, in %s\n", r.Output, text.Bytes(r.ReadBytes), text.Bytes(r.WrittenBytes),
		text.Duration(time.Duration(r.Seconds*1e9)))
	return nil
}

// progress is a bar with rate and ETA on a terminal, and silent elsewhere.
type progress struct {
	w     io.Writer
	what  string
	start time.Time
	last  time.Time
	shown bool
}

func newProgress(w io.Writer, what string) *progress {
	p := &progress{what: what, start: time.Now()}
	if f, ok := w.(*os.File); ok && isTerminal(f) {
		p.w = w
	}
	return p
}

func (p *progress) update(done, total int64) {
	now := time.Now()
	if p.w == nil || (now.Sub(p.last) < 200*time.Millisecond && done < total) {
		return
	}
	p.last, p.shown = now, true
	const width = 30
	part := float64(done) / float64(max(total, 1))
	rate := float64(done) / max(now.Sub(p.start).Seconds(), 0.001)
	eta := time.Duration(float64(total-done) / max(rate, 1) * 1e9)
	bar := ""
	for i := range width {
		if float64(i) < part*width {
			bar += "="
		} else {
			bar += " "
		}
	}
	fmt.Fprintf(p.w, "\r%s [%s] %3.0f%%  %s of %s  %s/s  ETA %s   ", p.what, bar, part*100, text.Bytes(done), text.Bytes(total),
		text.Bytes(int64(rate)), eta.Round(time.Second))
}

func (p *progress) end() {
	if p.shown {
		fmt.Fprintln(p.w)
	}
}
