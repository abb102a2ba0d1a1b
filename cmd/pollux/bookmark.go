package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/quantity"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
)

func newBookmark() *cobra.Command {
	c := &cobra.Command{Use: "bookmark", Short: "Named recovery points: add, ls, rm"}
	c.AddCommand(newBookmarkAdd(), newBookmarkList(), newBookmarkRemove())
	return c
}

func newBookmarkAdd() *cobra.Command {
	var f cli.DaemonFlags
	var r api.BookmarkAdd
	c := &cobra.Command{Use: "add BOOKMARK --group GROUP", Short: "Name the present point of a group", Args: cobra.ExactArgs(1)}
	f.Add(c)
	c.Flags().StringVar(&r.Group, "group", "", "consistency group (required)")
	var hold quantity.Duration
	c.Flags().Var(&hold, "hold-limit", "how long writers may wait where the group has volumes on several hosts (default 5s)")
	c.Flags().BoolVar(&r.Quiesce, "quiesce", false, "run the group's hooks of the agent's configuration round the mark: an application-consistent point")
	c.Flags().BoolVar(&r.DryRun, "dry-run", false, "check, change nothing")
	c.RunE = func(c *cobra.Command, args []string) error {
		if r.Group == "" {
			return fail.New(fail.Invalid, "add bookmark", args[0], "no group").WithHint("name one with --group; pollux group ls lists them")
		}
		r.Name, r.By, r.HoldSeconds = args[0], cli.Operator(), time.Duration(hold).Seconds()
		var b api.Bookmark
		if err := f.Call(c.Context(), api.VerbBookmarkAdd, r, &b); err != nil {
			return err
		}
		if f.JSON {
			return cli.PrintJSON(c.OutOrStdout(), b)
		}
		printBookmarks(c, []api.Bookmark{b})
		cli.SayDry(c, r.DryRun)
		if b.HeldSeconds > 0 {
			fmt.Fprintf(c.OutOrStdout(), "one point on %d hosts; writers were held for up to %s\n", len(b.Points), text.Duration(time.Duration(b.HeldSeconds*1e9)))
		}
		return nil
	}
	return c
}

func newBookmarkRemove() *cobra.Command {
	var f cli.DaemonFlags
	var r api.BookmarkRemove
	var yes bool
	c := &cobra.Command{Use: "rm BOOKMARK --group GROUP", Short: "Remove a bookmark; its point is kept as long as any other", Args: cobra.ExactArgs(1)}
	f.Add(c)
	c.Flags().StringVar(&r.Group, "group", "", "consistency group (required)")
	c.Flags().BoolVar(&r.DryRun, "dry-run", false, "show, change nothing")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.RunE = func(c *cobra.Command, args []string) error {
		if r.Group == "" {
			return fail.New(fail.Invalid, "remove bookmark", args[0], "no group").WithHint("name one with --group; pollux bookmark ls lists them")
		}
		r.Name, r.By = args[0], cli.Operator()
		if !r.DryRun {
			if err := cli.Look(c.Context(), &f, api.VerbBookmarkRemove, r, func(dry *api.BookmarkRemove) { dry.DryRun = true }); err != nil {
				return err
			}
			if err := cli.Confirm(c, "This removes bookmark "+r.Name+" of group "+r.Group+". Where the group has a retention, its point may be deleted later.", r.Name, yes); err != nil {
				return err
			}
		}
		var b api.Bookmark
		if err := f.Call(c.Context(), api.VerbBookmarkRemove, r, &b); err != nil {
			return err
		}
		if f.JSON {
			return cli.PrintJSON(c.OutOrStdout(), b)
		}
		printBookmarks(c, []api.Bookmark{b})
		cli.SayDry(c, r.DryRun)
		return nil
	}
	return c
}

func newBookmarkList() *cobra.Command {
	var f cli.DaemonFlags
	var s cli.StoreFlags
	var group string
	c := &cobra.Command{Use: "ls [--store URL]", Short: "List the bookmarks of the agent, or of an object store", Args: cobra.NoArgs}
	f.Add(c)
	s.Add(c)
	s.AddCache(c)
	c.Flags().StringVar(&group, "group", "", "only this group's")
	c.RunE = func(c *cobra.Command, _ []string) error {
		marks := []api.Bookmark{}
		var damage error
		if s.URL != "" {
			l, closeStore, err := cli.OpenLog(c.Context(), &s)
			if err != nil {
				return err
			}
			defer closeStore()
			if group != "" && l.State.Groups[group] == nil {
				return fail.New(fail.NotFound, "find", "group "+group, "no such group in "+s.URL).WithHint("pollux points --store lists what is there")
			}
			var volumes []*state.Volume
			for _, v := range l.State.Volumes {
				if group == "" || v.Group == group {
					volumes = append(volumes, v)
				}
			}
			damage = cli.ErrListed(l, volumes...)
			for _, b := range state.Sorted(l.State.Bookmarks, func(b *state.Bookmark) string { return b.Group + "/" + b.Name }) {
				if group == "" || b.Group == group {
					marks = append(marks, bookmarkIn(l, b))
				}
			}
		} else if err := f.Call(c.Context(), api.VerbBookmarkList, api.List{Group: group}, &marks); err != nil {
			return err
		}
		if f.JSON {
			return errors.Join(cli.PrintJSON(c.OutOrStdout(), map[string]any{"bookmarks": marks}), damage)
		}
		printBookmarks(c, marks)
		return damage
	}
	return c
}

// bookmarkIn describes a bookmark of a store's log.
func bookmarkIn(l *twin.Log, b *state.Bookmark) api.Bookmark {
	out := api.Bookmark{Name: b.Name, Group: b.Group, LSN: b.LSN, Epoch: b.Epoch, Time: b.Time, HeldSeconds: b.HeldSeconds, Quiesced: b.Quiesced}
	r, _ := l.RangeOf(b.Stream)
	out.Durable = b.LSN <= r.LastLSN
	for id, lsn := range b.Points {
		r, _ := l.RangeOf(id)
		out.Durable = out.Durable && lsn <= r.LastLSN
		agent := id.String()
		if st := l.State.Streams[id]; st != nil {
			agent = st.Agent
		}
		out.Points = append(out.Points, api.BookmarkPoint{Agent: agent, LSN: lsn})
	}
	slices.SortFunc(out.Points, func(a, b api.BookmarkPoint) int { return strings.Compare(a.Agent, b.Agent) })
	return out
}

func printBookmarks(c *cobra.Command, marks []api.Bookmark) {
	rows := [][]string{{"BOOKMARK", "GROUP", "LSN", "EPOCH", "TIME", "AGE", "IN STORE"}}
	for _, b := range marks {
		rows = append(rows, []string{b.Name, b.Group, fmt.Sprint(b.LSN), fmt.Sprint(b.Epoch), b.Time.Format(time.RFC3339),
			text.Duration(time.Since(b.Time)), fmt.Sprint(b.Durable)})
	}
	text.Table(c.OutOrStdout(), rows)
}
