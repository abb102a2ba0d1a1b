package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/cmd/pollux/standby"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/text"
)

func newStatus() *cobra.Command {
	var f cli.DaemonFlags
	var watch, check bool
	c := &cobra.Command{Use: "status", Short: "Show groups, lag, journal and targets", Args: cobra.NoArgs,
		Long: `With --check it prints one line and exits 0 when all groups replicate within their
RPO target, 1 when one is Lagging, Throttled, Paused, Resyncing or Initializing, or a target has
failed for half a minute, and 2 when
one is Superseded, Fenced, Faulted, Suspended or Unprotected, replication to a target has
stopped for good, or the agent does not answer. It takes five seconds at most.`}
	f.Add(c)
	c.Flags().BoolVar(&watch, "watch", false, "repeat every second until interrupted")
	c.Flags().BoolVar(&check, "check", false, "for monitoring: one line and exit status 0, 1 or 2")
	c.RunE = func(c *cobra.Command, _ []string) error {
		for seen := false; ; seen = true {
			var st api.Status
			ctx, cancel := c.Context(), context.CancelFunc(func() {})
			if check {
				ctx, cancel = context.WithTimeout(ctx, checkTimeout)
			}
			err := f.Call(ctx, api.VerbStatus, struct{}{}, &st)
			cancel()
			if check {
				return checkStatus(c.OutOrStdout(), &f, &st, err)
			}
			if err != nil && watch && seen && c.Context().Err() == nil && fail.Is(err, fail.Retry) {
				fmt.Fprintf(c.ErrOrStderr(), "%v; trying again\n", err) // the agent restarts
				if !pause(c.Context(), time.Second) {
					return nil
				}
				continue
			}
			if err != nil {
				return err
			}
			if f.JSON {
				err = cli.PrintJSON(c.OutOrStdout(), st)
			} else {
				if watch {
					cli.SendControl(c.OutOrStdout(), "\x1b[H\x1b[2J")
				}
				printStatus(c.OutOrStdout(), &st)
			}
			if err != nil || !watch {
				return err
			}
			if !pause(c.Context(), time.Second) {
				return nil
			}
		}
	}
	return c
}

// pause waits, and reports false when ctx ends before that.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// checkTimeout leaves --check, which must answer within five seconds, one to do so.
const checkTimeout = 4 * time.Second

// severity is a group state's exit status under --check.
func severity(state string) int {
	switch state {
	case "Replicating":
		return 0
	case "Lagging", "Throttled", "Paused", "Initializing", "Resyncing", "Testing", "FailingOver":
		return 1
	}
	return 2
}

// failingAfter is how long a target may fail before --check says so, although
// nothing lags: a host that writes nothing would else learn too late.
const failingAfter = 30 * time.Second

func failing(t *api.TargetStatus, now time.Time) bool {
	return t.Error != "" && (t.LastSuccess == nil || now.Sub(*t.LastSuccess) > failingAfter)
}

// groupsWell speaks of all groups, where all replicate.
func groupsWell(groups []api.GroupStatus) string {
	if len(groups) == 0 {
		return "no groups"
	}
	most, names := groups[0], []string{}
	for _, g := range groups {
		names = append(names, g.Name)
		if g.LagSeconds > most.LagSeconds {
			most = g
		}
	}
	return fmt.Sprintf("all groups replicate: %s; lag up to %.3f s, of group %s (target %g s)",
		strings.Join(names, ", "), most.LagSeconds, most.Name, most.RPOTargetSeconds)
}

func checkStatus(w io.Writer, f *cli.DaemonFlags, st *api.Status, err error) error {
	code, line := 0, groupsWell(st.Groups)
	if err != nil {
		code, line = 2, err.Error()
	} else if st.Standby != nil {
		code, line = standby.Check(st.Standby, time.Now())
	}
	var bad []string // the worst first
	for s := 2; s > 0; s-- {
		for _, g := range st.Groups {
			if severity(g.State) != s {
				continue
			}
			code = max(code, s)
			text := fmt.Sprintf("group %s is %s, lag %.3f s (target %g s)", g.Name, g.State,
				g.LagSeconds, g.RPOTargetSeconds)
			if g.Reason != "" {
				text += ": " + g.Reason
			}
			bad = append(bad, text)
		}
	}
	if len(bad) > 0 {
		line = fmt.Sprintf("%d of %d groups: %s", len(bad), len(st.Groups), strings.Join(bad, "; "))
	}
	for _, t := range st.Targets {
		switch {
		case t.Stopped && !t.Optional && code < 2: // where a group is, its state says it
			code, line = 2, fmt.Sprintf("replication to target %s has stopped: %s", t.Name, t.Error)
		case code > 0:
		case t.State != "":
			code, line = 1, fmt.Sprintf("optional target %s is not complete: %s", t.Name, targetNote(&t))
		case failing(&t, time.Now()):
			code, line = 1, fmt.Sprintf("target %s takes no objects: %s", t.Name, t.Error)
		}
	}
	for _, c := range st.Certificates {
		s := 1
		if c.Urgent {
			s = 2
		}
		if c.Warning != "" && s > code {
			code, line = s, fmt.Sprintf("certificate %s: %s", c.File, c.Warning)
		}
	}
	if code == 0 && st.Journal.Error != "" {
		code, line = 1, "the journal cannot be reached or does not go on: "+st.Journal.Error
	}
	word := [...]string{"OK", "WARNING", "CRITICAL"}[code]
	if f.JSON {
		if err := cli.PrintJSON(w, map[string]any{"check": word, "text": line, "status": st}); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(w, "%s: %s\n", word, line)
	}
	if code != 0 {
		return exitCode(code)
	}
	return nil
}

// targetNote is what there is to say of a target.
func targetNote(t *api.TargetStatus) string {
	switch {
	case t.State == "":
		return t.Error
	case t.Error == "":
		return t.State + ": " + t.Reason
	}
	return t.State + ": " + t.Reason + "; " + t.Error
}

// printStreams shows the parts of those groups that several hosts have part in.
func printStreams(w io.Writer, groups []api.GroupStatus) {
	lsn := func(n *uint64) string {
		if n == nil {
			return "its host knows"
		}
		return fmt.Sprint(*n)
	}
	rows := [][]string{{"PART OF GROUP", "AGENT", "LAST LSN", "DURABLE LSN"}}
	for _, g := range groups {
		for _, s := range g.Streams {
			if len(g.Streams) > 1 {
				rows = append(rows, []string{g.Name, s.Agent, lsn(s.LastLSN), lsn(s.DurableLSN)})
			}
		}
	}
	if len(rows) > 1 {
		fmt.Fprintln(w)
		text.Table(w, rows)
	}
}

func printStatus(w io.Writer, st *api.Status) {
	if st.Standby != nil {
		standby.Print(w, st.Standby, time.Now())
		return
	}
	rows := [][]string{{"GROUP", "ROLE", "STATE", "ACK", "LAG", "BEHIND", "LAST LSN", "DURABLE LSN", "REASON"}}
	for _, g := range st.Groups {
		ack := g.Ack
		if g.AckKept != "" && g.AckKept != g.Ack {
			ack = g.AckKept + " (not " + g.Ack + ")"
		}
		last, durable := fmt.Sprint(g.LastLSN), fmt.Sprint(g.DurableLSN)
		if !g.HasLSN() {
			last, durable = "-", "-"
		}
		rows = append(rows, []string{g.Name, g.Role, g.State, ack,
			text.Duration(time.Duration(g.LagSeconds * 1e9)), text.Bytes(g.LagBytes), last, durable, g.Reason})
	}
	text.Table(w, rows)
	printStreams(w, st.Groups)
	fmt.Fprintln(w)
	rows = [][]string{{"TARGET", "SITE", "URL", "OBJECTS", "LAG", "BEHIND", "FOLDED", "LAST SUCCESS", "ERROR"}}
	for _, t := range st.Targets {
		last := "never"
		if st.Agent.Name == "" && !st.Journal.Leader {
			last = "the leader knows"
		}
		if t.LastSuccess != nil {
			last = text.Duration(time.Since(*t.LastSuccess)) + " ago"
		}
		folded := "-"
		if t.FoldedFrom > 0 {
			folded = text.Bytes(t.FoldedFrom) + " to " + text.Bytes(t.FoldedTo)
		}
		rows = append(rows, []string{t.Name, t.Site, t.URL, fmt.Sprint(t.Position),
			text.Duration(time.Duration(t.LagSeconds * 1e9)), text.Bytes(t.BacklogBytes), folded, last, targetNote(&t)})
	}
	text.Table(w, rows)
	for _, t := range st.Targets {
		if t.Catalog != nil && t.Catalog.Error != "" {
			fmt.Fprintf(w, "\ntarget %s: no catalog behind position %d is made: %s\n", t.Name,
				t.Catalog.Position, t.Catalog.Error)
		}
	}
	for i := range st.Agent.Hydrating {
		fmt.Fprintf(w, "\n%v\n", &st.Agent.Hydrating[i])
	}
	for _, c := range st.Certificates {
		if c.Warning != "" {
			fmt.Fprintf(w, "\ncertificate %s: %s\n", c.File, c.Warning)
		}
	}
	role := "led from here"
	switch {
	case st.Journal.Leader:
	case st.Journal.LeaderAddress != "":
		role = "led from " + st.Journal.LeaderAddress
	default:
		role = "no leader is known"
	}
	if st.Journal.Voters > 1 {
		role += fmt.Sprintf(", %d voters", st.Journal.Voters)
	}
	if st.Journal.ID == "" {
		fmt.Fprintf(w, "\nno journal has been heard of yet: %s\n", st.Journal.Error)
	} else if st.Journal.Error != "" {
		fmt.Fprintf(w, "\njournal: %s", st.Journal.Error)
	}
	if st.Journal.ID != "" {
		fmt.Fprintf(w, "\njournal %s: %s, epoch %d, term %d, log %s of %s\n", st.Journal.ID, role,
			st.Journal.Epoch, st.Journal.Term, text.Bytes(st.Journal.LogBytes), text.Bytes(st.Journal.LogBudgetBytes))
		printWayBack(w, st.Journal.WayBack)
	}
	if st.Agent.Name == "" {
		return // a journal's member, no agent
	}
	fmt.Fprintf(w, "agent %s: memory %s of %s, WAL %s of %s, %d NBD connections\n", st.Agent.Name,
		text.Bytes(st.Agent.MemoryBytes), text.Bytes(st.Agent.MemoryBudget), text.Bytes(st.Agent.WALBytes),
		text.Bytes(st.Agent.WALBudgetBytes), st.Agent.Connections)
}
