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
		Args: cobra.ExactArgs(1)}
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
		_, err = fmt.Fprintf(c.OutOrStdout(), "group %s: durable up to LSN %d\n", p.Group, p.DurableLSN)
		return err
	}
	return c
}

// groupWaitAsk asks once, and does not wait for an agent that answers nothing longer than
// the whole may take.
func groupWaitAsk(ctx context.Context, client *api.Client, r api.GroupWait, p *api.GroupProgress, timeout time.Duration, end time.Time) error {
	if timeout > 0 {
		const grace = 500 * time.Millisecond // an answer that is given at the very end gets here
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, end.Add(grace))
		defer cancel()
	}
	return client.Call(ctx, api.VerbGroupWait, r, p)
}

// groupWait waits for what the group's newest LSN is at its first answer.
func groupWait(ctx context.Context, w io.Writer, client *api.Client, group string, timeout time.Duration) (api.GroupProgress, error) {
	var p api.GroupProgress
	told := time.Now()
	end := told.Add(timeout)
	for goal, first := uint64(0), true; ; first = false {
		r := api.GroupWait{Group: group, AfterLSN: p.DurableLSN, TimeoutSeconds: groupWaitStep.Seconds()}
		if first {
			r.TimeoutSeconds = 1e-3 // only to learn where it stands
		} else if timeout > 0 {
			r.TimeoutSeconds = min(r.TimeoutSeconds, max(1e-3, time.Until(end).Seconds()))
		}
		if err := groupWaitAsk(ctx, client, r, &p, timeout, end); err != nil {
			return p, err
		}
		if first {
			goal = p.LastLSN
		}
		if p.DurableLSN >= goal {
			return p, nil
		}
		if time.Since(told) > 2*time.Second {
			told = time.Now()
			fmt.Fprintf(w, "pollux: waiting: LSN %d of %d is durable\n", p.DurableLSN, goal)
		}
		if timeout > 0 && time.Now().After(end) {
			return p, fail.New(fail.Retry, "wait for group", group, fmt.Sprintf("LSN %d of %d is durable after %v", p.DurableLSN, goal, timeout)).
				WithHint("`pollux status` says what holds it up")
		}
	}
}
