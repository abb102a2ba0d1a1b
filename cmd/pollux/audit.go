package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/text"
)

func newAudit() *cobra.Command {
	c := &cobra.Command{Use: "audit", Short: "Who changed what: ls"}
	c.AddCommand(newAuditList())
	return c
}

func newAuditList() *cobra.Command {
	var f cli.DaemonFlags
	var s cli.StoreFlags
	var last int
	c := &cobra.Command{Use: "ls", Short: "List the verbs that were to change state, oldest first", Args: cobra.NoArgs,
		Long: `The journal keeps the newest 1024, and an agent's daemon knows those of its own
host. With --store all are read that the object log still has.

Verbs that a caller's role refused are one entry for each caller in ten minutes,
with the number of those that were like it.`}
	f.Add(c)
	s.Add(c)
	c.Flags().IntVar(&last, "last", 0, "the newest N only")
	c.RunE = func(c *cobra.Command, _ []string) error {
		var list []api.AuditEntry
		if s.URL != "" {
			var err error
			if list, err = storedAudit(c.Context(), &s, last); err != nil {
				return err
			}
		} else if err := f.Call(c.Context(), api.VerbAuditList, api.AuditQuery{Last: last}, &list); err != nil {
			return err
		}
		if f.JSON {
			return cli.PrintJSON(c.OutOrStdout(), map[string]any{"audit": list})
		}
		rows := [][]string{{"NUMBER", "TIME", "WHO", "HOST", "VERB", "REQUEST", "OUTCOME"}}
		for _, e := range list {
			rows = append(rows, []string{fmt.Sprint(e.Number), e.Time.Format(time.RFC3339), text.Line(e.Who),
				text.Line(e.Host), text.Line(e.Verb), text.Line(string(e.Request)), text.Line(e.Outcome)})
		}
		text.Table(c.OutOrStdout(), rows)
		return nil
	}
	return c
}

// storedAudit reads the newest entries, or with 0 all, from an object log.
func storedAudit(ctx context.Context, s *cli.StoreFlags, last int) ([]api.AuditEntry, error) {
	l, done, err := cli.OpenLog(ctx, s)
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
	list := []api.AuditEntry{}
	for i := range all {
		list = append(list, api.AuditEntry(all[i]))
	}
	return list, nil
}
