package main

import (
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/quantity"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin/gc"
)

func newGC() *cobra.Command {
	var s cli.StoreFlags
	o := gc.CollectOptions{SparseBelow: gc.DefaultSparseBelow}
	var json bool
	var lock string
	c := &cobra.Command{Use: "gc --store URL", Short: "Make a catalog, and delete what no point that is kept needs",
		Long: `Makes the next catalog, so that points are found and read without the history
before them; drops the points that the groups' retention does not keep; moves
what is still needed of objects that hold little else; and deletes what nothing
has needed for the time of --grace. Run it by a timer, with credentials of its
own: it alone deletes. An interrupted run is gone on from by the next one. A
group without a retention keeps everything, and its journal's log as a whole.

Nothing of a group is deleted before the journal has put the horizon into the
log. --dry-run says what would be dropped and deleted, and why.`,
		Args: cobra.NoArgs}
	s.Add(c)
	s.Writes = true
	grace := quantity.Duration(24 * time.Hour)
	c.Flags().Var(&grace, "grace", "how long what nothing needs stays, for readers by an older catalog; longer than any gc takes")
	c.Flags().StringVar(&lock, "object-lock", "", "keep what is needed from deletion, as in compliance=30d: what the target's object_lock says (default: the bucket's own rule)")
	c.Flags().StringVar(&o.Dir, "tmp", "", "directory for what memory should not hold (default: the one for temporary files)")
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "show, change nothing")
	c.Flags().BoolVar(&json, "json", false, "print one JSON object and nothing else")
	c.RunE = func(c *cobra.Command, _ []string) error {
		var err error
		o.Grace = time.Duration(grace)
		if o.Lock, err = parseLock(lock); err != nil {
			return err
		}
		if err := cli.CheckDirectory("collect garbage", "--tmp", o.Dir); err != nil {
			return err
		}
		s.Options.ReadOnly, s.Options.Lock = o.DryRun, o.Lock
		store, done, err := cli.OpenStore(c.Context(), &s)
		if err != nil {
			return err
		}
		defer done()
		store, end := cli.Counted(store, c.ErrOrStderr(), "collecting garbage")
		defer end()
		o.Logger = slog.New(slog.NewTextHandler(c.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
		rep, err := gc.Collect(c.Context(), store, o)
		end()
		if err != nil {
			return err
		}
		slices.SortFunc(rep.Names, func(a, b gc.Garbage) int { return cmp.Compare(a.Name, b.Name) })
		if json {
			err = cli.PrintJSON(c.OutOrStdout(), rep)
		} else {
			printCollected(c.OutOrStdout(), rep)
		}
		if err == nil && rep.Failed.Objects > 0 {
			err = fail.New(fail.Denied, "delete", fmt.Sprintf("%d objects", rep.Failed.Objects), rep.FailedWhy).
				WithHint("allow these credentials s3:DeleteObject, and s3:DeleteObjectVersion in a bucket with versions; a later run tries again")
		}
		if l := rep.Locked; err == nil && l != nil && l.Failed > 0 {
			err = fail.New(fail.Denied, "extend the dates of", fmt.Sprintf("%d objects", l.Failed), l.FailedWhy).
				WithHint("allow these credentials s3:PutObjectRetention; until a run succeeds, what is needed may become free for deletion" + since(l.Until))
		}
		return err
	}
	return c
}

func printCollected(w io.Writer, r *gc.Report) {
	amount := func(a gc.Amount) string { return fmt.Sprintf("%d objects, %s", a.Objects, text.Bytes(a.Bytes)) }
	fmt.Fprintf(w, "catalog %d covers the log up to position %d; objects below position %d are not needed as such\n", r.Catalog, r.Position, r.Floor)
	verb := map[bool]string{false: "", true: "would be "}[r.DryRun]
	for _, p := range r.Dropped {
		fmt.Fprintf(w, "%sdropped: group %s, LSN %d, %s: its retention does not keep it\n", verb, p.Group, p.LSN, p.Time.Format(time.RFC3339))
	}
	held := ""
	if r.Held.Objects > 0 {
		held = "; held by Object Lock until their dates: " + amount(r.Held)
	}
	if r.DryRun {
		const most = 20
		for i, g := range r.Names {
			if i == most {
				fmt.Fprintf(w, "and so on, %d objects more; --json has them all\n", len(r.Names)-most)
				break
			}
			when := fmt.Sprintf("once the grace is over (since %s)", g.Since.Format(time.RFC3339))
			if g.Due {
				when = "now"
			}
			fmt.Fprintf(w, "would be deleted %s: %s, %s: %s\n", when, g.Name, text.Bytes(g.Bytes), g.Why)
		}
		fmt.Fprintf(w, "would be moved, for little of them is needed: %s\n", amount(r.Moved))
		fmt.Fprintf(w, "would be deleted now: %s; later: %s%s\n", amount(r.Deleted), amount(r.Waiting), held)
		if r.Locked != nil && r.Locked.Extended > 0 {
			fmt.Fprintf(w, "the dates of %d objects would be extended\n", r.Locked.Extended)
		}
		return
	}
	fmt.Fprintf(w, "points dropped: %d\n", len(r.Dropped))
	if r.Moved.Objects > 0 {
		fmt.Fprintf(w, "moved: what was needed of %s, into %s\n", amount(r.Moved), amount(r.Packs))
	}
	fmt.Fprintf(w, "deleted: %s; waiting for the grace to end: %s%s\n", amount(r.Deleted), amount(r.Waiting), held)
	if l := r.Locked; l != nil {
		until := "not all that is needed is kept"
		if !l.Until.IsZero() {
			until = "all that is needed is kept until " + l.Until.Format(time.RFC3339) + " at least"
		}
		fmt.Fprintf(w, "Object Lock (%s, %v): %s; extended: %d objects\n", strings.ToLower(l.Mode), time.Duration(l.ForSeconds)*time.Second, until, l.Extended)
	}
}

func since(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return " at " + t.Format(time.RFC3339)
}

// parseLock reads compliance=30d.
func parseLock(s string) (objstore.LockRule, error) {
	if s == "" {
		return objstore.LockRule{}, nil
	}
	mode, span, _ := strings.Cut(s, "=")
	d, err := quantity.ParseDuration(span)
	mode = strings.ToUpper(mode)
	if err != nil || time.Duration(d) < 24*time.Hour || (mode != objstore.Compliance && mode != objstore.Governance) {
		return objstore.LockRule{}, fail.New(fail.Invalid, "parse", "--object-lock "+s, "neither compliance=TIME nor governance=TIME, of a day at least").WithHint("write what the target's object_lock says, as in compliance=30d")
	}
	return objstore.LockRule{Mode: mode, For: time.Duration(d)}, nil
}
