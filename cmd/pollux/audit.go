package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/internal/control"
	"github.com/pollux-dr/pollux/internal/text"
)

func newAudit() *cobra.Command {
	c := &cobra.Command{Use: "audit", Short: "Who changed what: ls"}
	c.AddCommand(newAuditList())
	return c
}

func newAuditList() *cobra.Command {
	var f daemonFlags
	var s storeFlags
	var last int
	c := &cobra.Command{Use: "ls", Short: "List the verbs that were to change state, oldest first", Args: cobra.NoArgs,
		Long: `The journal keeps the newest 1024, and an agent's daemon knows those of its own
host. With --store all are read that the object log still has.

Verbs that a caller's role refused are one entry for each caller in ten minutes,
with the number of those that were like it.`}
	f.add(c)
	s.add(c)
	c.Flags().IntVar(&last, "last", 0, "the newest N only")
	c.RunE = func(c *cobra.Command, _ []string) error {
		var list []control.AuditEntry
		if s.url != "" {
			var err error
			if list, err = storedAudit(c.Context(), &s, last); err != nil {
				return err
			}
		} else if err := f.call(c.Context(), control.VerbAuditList, control.AuditQuery{Last: last}, &list); err != nil {
			return err
		}
		if f.json {
			return printJSON(c.OutOrStdout(), map[string]any{"audit": list})
		}
		rows := [][]string{{"NUMBER", "TIME", "WHO", "HOST", "VERB", "REQUEST", "OUTCOME"}}
		for _, e := range list {
			rows = append(rows, []string{fmt.Sprint(e.Number), e.Time.Format(time.RFC3339), text.Line(e.Who), text.Line(e.Host), text.Line(e.Verb),
				text.Line(string(e.Request)), text.Line(e.Outcome)})
		}
		text.Table(c.OutOrStdout(), rows)
		return nil
	}
	return c
}

// storedAudit reads the newest entries, or with 0 all, from an object log.
func storedAudit(ctx context.Context, s *storeFlags, last int) ([]control.AuditEntry, error) {
	l, done, err := openLog(ctx, s)
	if err != nil {
		return nil, err
	}
	defer done()
	all, err := l.Audits(ctx)
	if err != nil {
		return nil, err
	}
	if last > 0 && last < len(all) {
		all = all[len(all)-last:]
	}
	list := []control.AuditEntry{}
	for i := range all {
		list = append(list, control.AuditEntry(all[i]))
	}
	return list, nil
}
