package failover

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/promote"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
)

// running lets the daemon of the configuration do it, where one runs: a standby becomes the agent
// in its own process, and an agent that a failover has made has nothing to do. Both are nil where
// no daemon answers.
func (f *flags) running(c *cobra.Command, conf *config.Agent, backings map[string]string) (*promote.Report, error) {
	daemon := api.Dial(conf.Socket)
	var st api.Status
	switch err := daemon.Call(c.Context(), api.VerbStatus, struct{}{}, &st); {
	case fail.Is(err, fail.Retry): // nobody is there, or it hangs: then the state directory is locked
		return nil, nil
	case err != nil:
		return nil, err
	case st.Standby == nil:
		return promote.DoneAt(conf)
	}
	daemon.Told = func(line string) { fmt.Fprintln(c.ErrOrStderr(), "pollux:", line) }
	req := api.Failover{Target: f.target, At: f.at, Agents: f.agents, Backings: backings, KeepAck: f.keepAck,
		WaitForData: f.wait,
		Overwrite:   f.overwrite, PatienceSeconds: time.Duration(f.patience).Seconds(), By: cli.Operator(),
		DryRun: true}
	found, err := call(c, daemon, req)
	if err != nil || f.dryRun || found.Done {
		return found, err
	}
	if !found.Resumed {
		if err := f.confirm(c, found); err != nil {
			return nil, err
		}
	}
	req.DryRun, req.Journal, req.Epoch = false, found.Name, found.Epoch
	return call(c, daemon, req)
}

func call(c *cobra.Command, daemon *api.Client, req api.Failover) (*promote.Report, error) {
	var body json.RawMessage
	if err := daemon.Call(c.Context(), api.VerbFailover, req, &body); err != nil {
		return nil, err
	}
	rep := &promote.Report{}
	return rep, fail.Wrap(fail.Internal, "decode", "report", json.Unmarshal(body, rep))
}

// warm says which volumes go on from the images of a standby.
func warm(w io.Writer, rep *promote.Report) {
	var names, cold []string
	for _, v := range rep.Volumes {
		if v.Warm {
			names = append(names, v.Name)
		} else {
			cold = append(cold, v.Name)
		}
	}
	if len(names) == 0 {
		return
	}
	fmt.Fprintf(w, "warm, from the standby's images: %s", strings.Join(slices.Sorted(slices.Values(names)), ", "))
	if len(cold) > 0 {
		fmt.Fprintf(w, "; from the store: %s", strings.Join(cold, ", "))
	}
	fmt.Fprintln(w)
}
