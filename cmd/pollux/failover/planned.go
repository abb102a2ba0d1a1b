package failover

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/quantity"
	"github.com/pollux-dr/pollux/internal/text"
)

// planned are the flags of a hand-over, which the seat's daemon carries out.
type planned struct {
	on     bool
	commit bool
	back   bool
	daemon cli.DaemonFlags
	to     string
	limit  quantity.Duration
	wait   quantity.Duration
}

func (p *planned) add(c *cobra.Command) {
	fl := c.Flags()
	fl.BoolVar(&p.on, "planned", false, "in order, nothing lost: the journal's seat, which is asked, hands it over")
	fl.BoolVar(&p.commit, "commit", false, "give up the way back of the hand-over that the seat has taken up")
	fl.BoolVar(&p.back, "rollback", false, "hand the journal back to the site that had it, at the point of the "+
		"hand-over: what was written since stays in the log")
	fl.StringVar(&p.to, "to", "", "with --planned: the site that goes on, where a standby follows")
	fl.Var(&p.limit, "limit", "with --planned, --rollback: for how long I/O may wait before it is taken back "+
		"(default 30s)")
	fl.Var(&p.wait, "wait", "with --planned, --rollback: how long the standby there has to answer before "+
		"(default 30s)")
	p.daemon.Add(c)
}

func (p *planned) run(c *cobra.Command, dryRun bool) error {
	if p.to == "" {
		return fail.New(fail.Invalid, "failover", "--planned", "no site").WithHint("--planned --to SITE")
	}
	r := api.HandOver{To: p.to, LimitSeconds: time.Duration(p.limit).Seconds(),
		WaitSeconds: time.Duration(p.wait).Seconds(), DryRun: dryRun, By: cli.Operator()}
	var out api.HandOverReport
	if err := p.daemon.Call(c.Context(), api.VerbHandOver, r, &out); err != nil {
		return err
	}
	if p.daemon.JSON {
		return cli.PrintJSON(c.OutOrStdout(), out)
	}
	w := c.OutOrStdout()
	if out.Outcome == "dry run" { // else it was handed over before
		fmt.Fprintf(w, "nothing was changed; all groups replicate, and the log of target %s would decide who goes on\n",
			out.Target)
		return nil
	}
	fmt.Fprintf(w, "the journal was handed over to host %s at %s, behind journal index %d of epoch %d\n", out.Host,
		out.To, out.Index, out.Epoch)
	fmt.Fprintf(w, "I/O waited %s here; this site serves nothing any more: point its clients there. Its agent "+
		"follows as a standby; there, pollux failover --commit or --rollback decides\n",
		text.Duration(time.Duration(out.HeldSeconds*float64(time.Second))))
	return nil
}
