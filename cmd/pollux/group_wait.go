package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/quantity"
)

// groupWaitStep is how long one question to the agent may take.
const groupWaitStep = 10 * time.Second

func newGroupWait() *cobra.Command {
	var f cli.DaemonFlags
	var timeout quantity.Duration
	c := &cobra.Command{Use: "wait GROUP", Short: "Wait until everything written by now is durable in the remote store",
		Args: cobra.ExactArgs(1), Long: `Waits until everything that was written to the group by now is durable in every
required target. It ends with an error, and says why, where waiting does not
help: the group is Superseded, Fenced, Faulted, Suspended or Unprotected, or nothing was
written yet and a target has never answered.`}
	f.Add(c)
	c.Flags().Var(&timeout, "timeout", "give up after this time (0: never)")
	c.RunE = func(c *cobra.Command, args []string) error {
		p, err := groupWait(c.Context(), c.ErrOrStderr(), f.Client(), args[0], time.Duration(timeout))
		if err != nil {
			return err
		}
		if f.JSON {
			return cli.PrintJSON(c.OutOrStdout(), p)
		}
		if p.DurableLSN == 0 {
			_, err = fmt.Fprintf(c.OutOrStdout(), "group %s: nothing was written yet\n", p.Group)
			return err
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "group %s: durable up to LSN %d\n", p.Group, p.DurableLSN)
		return err
	}
	return c
}

// groupWaitAsk asks once, and does not wait for an agent that answers nothing longer than
// the whole may take.
func groupWaitAsk(ctx context.Context, client *api.Client, verb string, r, answer any,
	timeout time.Duration, end time.Time) error {
	if timeout > 0 {
		const grace = 500 * time.Millisecond // an answer that is given at the very end gets here
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, end.Add(grace))
		defer cancel()
	}
	return client.Call(ctx, verb, r, answer)
}

// groupWait waits for what the group's newest LSN is at its first answer.
func groupWait(ctx context.Context, w io.Writer, client *api.Client, group string,
	timeout time.Duration) (api.GroupProgress, error) {
	var p api.GroupProgress
	told := time.Now()
	end := told.Add(timeout)
	for goal, first := uint64(0), true; ; first = false {
		r := api.GroupWait{Group: group, AfterLSN: p.DurableLSN, TimeoutSeconds: groupWaitStep.Seconds()}
		if first {
			r.TimeoutSeconds = 1e-3 // only to learn where it stands
		} else if goal == 0 {
			r.TimeoutSeconds = 1 // for a target's first answer
		}
		if !first && timeout > 0 {
			r.TimeoutSeconds = min(r.TimeoutSeconds, max(1e-3, time.Until(end).Seconds()))
		}
		if err := groupWaitAsk(ctx, client, api.VerbGroupWait, r, &p, timeout, end); err != nil {
			return p, err
		}
		if first {
			goal = p.LastLSN
		}
		var st api.Status
		if err := groupWaitAsk(ctx, client, api.VerbStatus, struct{}{}, &st, timeout, end); err != nil {
			return p, err
		}
		unheard, err := groupWaits(&st, &p, goal)
		if err != nil {
			return p, err
		}
		if p.DurableLSN >= goal && (goal > 0 || unheard == "") {
			return p, nil
		}
		stands := fmt.Sprintf("LSN %d of %d is durable", p.DurableLSN, goal)
		if goal == 0 {
			stands = "nothing was written yet, and target " + unheard + " has not answered yet"
		}
		if time.Since(told) > 2*time.Second {
			told = time.Now()
			fmt.Fprintf(w, "pollux: waiting: %s\n", stands)
		}
		if timeout > 0 && time.Now().After(end) {
			return p, fail.New(fail.Retry, "wait for group", group, fmt.Sprintf("%s after %v", stands, timeout)).
				WithHint("`pollux status` says what holds it up")
		}
	}
}

// groupWaits says whether to wait for a group can help. A required target that has not
// answered since the start is unheard of: while nothing was written, no LSN tells that
// anything would arrive there.
func groupWaits(st *api.Status, p *api.GroupProgress, goal uint64) (unheard string, err error) {
	group := p.Group
	for i := range st.Groups {
		g := &st.Groups[i]
		if g.Name != group {
			continue
		}
		kind, hint := fail.Refused, "`pollux status` says more"
		switch g.State {
		case "Fenced":
			kind, hint = fail.Fenced, "another writer holds its object log, or the target is another journal's: "+
				"nothing written here arrives there"
		case "Superseded":
			kind, hint = fail.Fenced, "use it there; pollux failback makes a standby of this host"
		case "Faulted", "Unprotected":
		case "Suspended": // what is durable stays so, and nothing more becomes it
			if goal > 0 && p.DurableLSN >= goal {
				continue
			}
		default:
			continue
		}
		return "", fail.New(kind, "wait for group", group, "it is "+g.State+": "+g.Reason).WithHint(hint)
	}
	if goal > 0 {
		return "", nil
	}
	if st.Journal.Error != "" {
		return "", fail.New(fail.Retry, "wait for group", group,
			"nothing was written yet, and the journal does not go on: "+st.Journal.Error)
	}
	for i := range st.Targets {
		t := &st.Targets[i]
		switch {
		case t.Optional || t.LastSuccess != nil:
		case t.Error != "":
			return "", fail.New(fail.Retry, "wait for group", group,
				fmt.Sprintf("nothing was written yet, and target %s has never answered: %s", t.Name, t.Error)).
				WithHint("check the target's url and the network to it; `pollux doctor` does")
		default:
			unheard = t.Name
		}
	}
	return unheard, nil
}
