package failover

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/text"
)

// commitIt gives up the way back of a hand-over; the present seat's daemon does it.
func (p *planned) commitIt(c *cobra.Command, dryRun bool) error {
	var out api.CommitReport
	err := p.daemon.Call(c.Context(), api.VerbCommit, api.Commit{DryRun: dryRun, By: cli.Operator()}, &out)
	if err != nil {
		return err
	}
	w := c.OutOrStdout()
	switch {
	case p.daemon.JSON:
		return cli.PrintJSON(w, out)
	case out.Outcome == "nothing to commit" && out.Epoch > 0:
		fmt.Fprintf(w, "nothing to commit: %s has given up the way back to %s at %s\n", out.Who, out.To,
			out.Time.Format(time.RFC3339))
	case out.Outcome == "nothing to commit":
		fmt.Fprintln(w, "nothing to commit: the journal's newest epoch was not begun by a hand-over")
	case dryRun:
		fmt.Fprintf(w, "nothing was changed; the way back to host %s at %s would be given up, and bookmark %s\n",
			out.Host, out.To, out.Bookmark)
	default:
		fmt.Fprintf(w, "the way back to host %s at %s is given up, and bookmark %s is gone\n", out.Host, out.To,
			out.Bookmark)
	}
	return nil
}

// rollBack hands the journal back, at the point of the hand-over.
func (p *planned) rollBack(c *cobra.Command, dryRun, yes bool) error {
	r := api.RollBack{LimitSeconds: time.Duration(p.limit).Seconds(), WaitSeconds: time.Duration(p.wait).Seconds(),
		DryRun: true, By: cli.Operator()}
	var out api.RollBackReport
	if err := p.daemon.Call(c.Context(), api.VerbRollBack, r, &out); err != nil {
		return err
	}
	w := c.OutOrStdout()
	var b strings.Builder
	describeUndone(&b, &out)
	if !dryRun {
		fmt.Fprintf(&b, "All I/O waits here until site %s has taken the journal up; it serves the volumes then.",
			out.To)
		if err := cli.Confirm(c, b.String(), out.Journal, yes); err != nil {
			return err
		}
		r.DryRun, r.Journal, r.Epoch = false, out.Journal, out.Epoch
		if err := p.daemon.Call(c.Context(), api.VerbRollBack, r, &out); err != nil {
			return err
		}
	}
	switch {
	case p.daemon.JSON:
		return cli.PrintJSON(w, out)
	case dryRun:
		fmt.Fprintf(w, "%snothing was changed\n", b.String())
		return nil
	}
	fmt.Fprintf(w, "journal %s has its seat at %s again, host %s; its volumes go on from the point of the hand-over\n",
		out.Journal, out.To, out.Host)
	fmt.Fprintf(w, "I/O waited %s here; this site serves nothing any more. Bookmark %s keeps what was last here: "+
		"pollux restore --at %[2]s\n", text.Duration(time.Duration(out.HeldSeconds*float64(time.Second))), out.Keeps)
	return nil
}

// describeUndone says what a rollback takes back.
func describeUndone(w io.Writer, out *api.RollBackReport) {
	fmt.Fprintf(w, "journal %s goes back from epoch %d to site %s, as it was handed over at %s. Undone are:\n",
		out.Journal, out.Epoch, out.To, out.Since.Format(time.RFC3339))
	rows := [][]string{{"GROUP", "POINT", "WRITES", "BYTES", "NEWEST"}}
	for _, u := range out.Groups {
		bytes, last := "not known", "-"
		if u.Bytes >= 0 {
			bytes = text.Bytes(u.Bytes)
		}
		if !u.Last.IsZero() {
			last = u.Last.Format(time.RFC3339)
		}
		rows = append(rows, []string{u.Group, fmt.Sprintf("LSN %d of %d", u.LSN, u.LastLSN), fmt.Sprint(u.Writes),
			bytes, last})
	}
	text.Table(w, rows)
	fmt.Fprintf(w, "It stays in the log, and bookmark %s keeps it.\n", out.Keeps)
}
