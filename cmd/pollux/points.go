package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
)

func newPoints() *cobra.Command {
	var s cli.StoreFlags
	var json bool
	c := &cobra.Command{Use: "points VOLUME|GROUP --store URL",
		Short: "The recovery points that an object store has of a volume, or of a group's volumes",
		Long: `Every write from the first point to the newest is a recovery point, but for the
ranges that are listed: where writes were folded because replication was behind,
and where the primary's WAL had overflowed. From the object store alone.`,
		Args: cobra.ExactArgs(1)}
	s.Add(c)
	s.AddCache(c)
	c.Flags().BoolVar(&json, "json", false, "print one JSON object and nothing else")
	c.RunE = func(c *cobra.Command, args []string) error {
		l, closeStore, err := cli.OpenLog(c.Context(), &s)
		if err != nil {
			return err
		}
		defer closeStore()
		volumes, err := volumesNamed(l, args[0])
		if err != nil {
			return err
		}
		points := make([]twin.Points, 0, len(volumes))
		for _, v := range volumes {
			points = append(points, l.PointsOf(c.Context(), v))
		}
		if json {
			err := cli.PrintJSON(c.OutOrStdout(), map[string]any{"store": s.URL, "epoch": l.Epoch, "volumes": points,
				"damage": cli.DamageText(l, volumes...)})
			return errors.Join(err, cli.ErrListed(l, volumes...))
		}
		for i := range points {
			printPoints(c.OutOrStdout(), &points[i])
		}
		return cli.ErrListed(l, volumes...)
	}
	return c
}

// volumesNamed returns the volume of that name, or those of the group of that name.
func volumesNamed(l *twin.Log, name string) ([]*state.Volume, error) {
	if v := l.State.Volumes[name]; v != nil {
		return []*state.Volume{v}, nil
	}
	var out []*state.Volume
	for _, v := range state.Sorted(l.State.Volumes, func(v *state.Volume) string { return v.Name }) {
		if v.Group == name {
			out = append(out, v)
		}
	}
	if len(out) == 0 && l.State.Groups[name] != nil {
		return nil, fail.New(fail.NotFound, "find points of", "group "+name, "it has no volume")
	}
	if len(out) == 0 {
		_, err := l.Volume(name) // says what is damaged, if anything is
		return nil, err
	}
	return out, nil
}

func printPoints(w io.Writer, p *twin.Points) {
	at := func(a twin.At) string { return fmt.Sprintf("LSN %d (%s)", a.LSN, a.Time.Format(time.RFC3339Nano)) }
	what := ""
	if p.Removed {
		what = ", no longer protected"
	}
	fmt.Fprintf(w, "volume %s of group %s%s\n", p.Volume, p.Group, what)
	if !p.Ready {
		fmt.Fprintln(w, "  no point: the initial sync is not complete in the store")
		return
	}
	for _, k := range p.Retained {
		fmt.Fprintf(w, "  kept: %s\n", at(k))
	}
	fmt.Fprintf(w, "  from %s to %s, %s ago; retention: %s\n", at(p.Window), at(p.Newest),
		text.Duration(time.Since(p.Newest.Time)), p.Retention)
	for _, c := range p.Coarse {
		fmt.Fprintf(w, "  folded: %d points only from %s to %s\n", c.Points, at(c.First), at(c.Last))
	}
	for _, b := range p.Breaks {
		until := "and none since: the resync has not ended"
		if b.Until != nil {
			until = "until " + at(*b.Until)
		}
		fmt.Fprintf(w, "  no point after %s %s\n", at(b.After), until)
	}
	for _, b := range p.Bookmarks {
		state := ""
		if !b.InLog {
			state = ", which the store does not have, or before this volume's first point"
		}
		fmt.Fprintf(w, "  bookmark %s: %s%s\n", b.Name, at(b.At), state)
	}
}
