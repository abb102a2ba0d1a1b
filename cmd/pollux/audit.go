package main

import (
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
	var last int
	c := &cobra.Command{Use: "ls", Short: "List the verbs that were to change state, oldest first", Args: cobra.NoArgs,
		Long: `The journal keeps the newest 1024; its object log has all (pollux dump log).`}
	f.add(c)
	c.Flags().IntVar(&last, "last", 0, "the newest N only")
	c.RunE = func(c *cobra.Command, _ []string) error {
		var list []control.AuditEntry
		if err := f.call(c.Context(), control.VerbAuditList, control.AuditQuery{Last: last}, &list); err != nil {
			return err
		}
		if f.json {
			return printJSON(c.OutOrStdout(), map[string]any{"audit": list})
		}
		rows := [][]string{{"NUMBER", "TIME", "WHO", "HOST", "VERB", "REQUEST", "OUTCOME"}}
		for _, e := range list {
			rows = append(rows, []string{fmt.Sprint(e.Number), e.Time.Format(time.RFC3339), e.Who, e.Host, e.Verb, string(e.Request), e.Outcome})
		}
		text.Table(c.OutOrStdout(), rows)
		return nil
	}
	return c
}
