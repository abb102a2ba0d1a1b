package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/internal/control"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/state"
)

func newBookmark() *cobra.Command {
	c := &cobra.Command{Use: "bookmark", Short: "Named recovery points: add, ls"}
	c.AddCommand(newBookmarkAdd(), newBookmarkList())
	return c
}

func newBookmarkAdd() *cobra.Command {
	var f daemonFlags
	var r control.BookmarkAdd
	c := &cobra.Command{Use: "add BOOKMARK --group GROUP", Short: "Name the present point of a group", Args: cobra.ExactArgs(1)}
	f.add(c)
	c.Flags().StringVar(&r.Group, "group", "", "consistency group (required)")
	c.Flags().BoolVar(&r.DryRun, "dry-run", false, "check, change nothing")
	c.RunE = func(c *cobra.Command, args []string) error {
		if r.Group == "" {
			return fail.New(fail.Invalid, "add bookmark", args[0], "no group").WithHint("name one with --group; pollux group ls lists them")
		}
		r.Name, r.By = args[0], operator()
		var b control.Bookmark
		if err := f.call(c.Context(), control.VerbBookmarkAdd, r, &b); err != nil {
			return err
		}
		if f.json {
			return printJSON(c.OutOrStdout(), b)
		}
		printBookmarks(c, []control.Bookmark{b})
		return nil
	}
	return c
}

func newBookmarkList() *cobra.Command {
	var f daemonFlags
	var s storeFlags
	var group string
	c := &cobra.Command{Use: "ls [--store URL]", Short: "List the bookmarks of the agent, or of an object store", Args: cobra.NoArgs}
	f.add(c)
	s.add(c)
	c.Flags().StringVar(&group, "group", "", "only this group's")
	c.RunE = func(c *cobra.Command, _ []string) error {
		marks := []control.Bookmark{}
		var damage error
		if s.url != "" {
			l, closeStore, err := openLog(c.Context(), &s, nil)
			if err != nil {
				return err
			}
			defer closeStore()
			damage = listed(l)
			for _, b := range state.Sorted(l.State.Bookmarks, func(b *state.Bookmark) string { return b.Group + "/" + b.Name }) {
				if group == "" || b.Group == group {
					r, _ := l.RangeOf(b.Stream)
					marks = append(marks, control.Bookmark{Name: b.Name, Group: b.Group, LSN: b.LSN, Epoch: b.Epoch, Time: b.Time, Durable: b.LSN <= r.LastLSN})
				}
			}
		} else if err := f.call(c.Context(), control.VerbBookmarkList, control.List{Group: group}, &marks); err != nil {
			return err
		}
		if f.json {
			return errors.Join(printJSON(c.OutOrStdout(), map[string]any{"bookmarks": marks}), damage)
		}
		printBookmarks(c, marks)
		return damage
	}
	return c
}

func printBookmarks(c *cobra.Command, marks []control.Bookmark) {
	rows := [][]string{{"BOOKMARK", "GROUP", "LSN", "EPOCH", "TIME", "AGE", "IN STORE"}}
	for _, b := range marks {
		rows = append(rows, []string{b.Name, b.Group, fmt.Sprint(b.LSN), fmt.Sprint(b.Epoch), b.Time.Format(time.RFC3339),
			text.Duration(time.Since(b.Time)), fmt.Sprint(b.Durable)})
	}
	text.Table(c.OutOrStdout(), rows)
}
