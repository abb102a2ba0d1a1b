package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/control/adminhttp"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/wal"
)

// Status reports where everything stands.
func (d service) Status(context.Context, struct{}) (api.Status, error) {
	a, j := d.agent.Status(), d.journal.Info()
	st := api.Status{
		Groups:       []api.GroupStatus{},
		Certificates: adminhttp.Certificates(d.conf.Certificates(), time.Now()),
		Journal: api.JournalStatus{ID: j.Journal.String(), Leader: d.host != nil && d.host.Leads(), LeaderAddress: j.Leader, Term: j.Term, Epoch: j.Epoch,
			Voters: j.Voters, Members: j.Members, LogBytes: j.LogBytes, LogBudgetBytes: j.LogBudget},
		Agent: api.AgentStatus{Name: d.conf.Name, Version: d.version, MemoryBytes: a.Arena.UsedBytes, MemoryBudget: a.Arena.TotalBytes,
			WALBytes: a.WAL.LiveBytes, WALBudgetBytes: a.WAL.BudgetBytes, WrittenBytes: a.PlainBytes, StoredBytes: a.StoredBytes,
			NewGeneration: a.NewArena, UptimeSeconds: time.Since(d.start).Seconds()},
	}
	if d.nbd != nil {
		st.Agent.Connections = d.nbd.Connections()
	}
	if err := d.journal.Err(); err != nil {
		st.Journal.Error = fail.Explain(err)
	}
	if d.remote != nil && st.Journal.Error == "" && a.ShipErr != nil {
		st.Journal.Error = fail.Explain(a.ShipErr)
	}
	if j.Journal == uuid.Nil {
		st.Journal.ID = "" // not heard of yet
	}
	for i := range j.Targets {
		st.Targets = append(st.Targets, api.TargetStatusOf(&j.Targets[i]))
	}
	streams := map[string]agent.StreamStatus{}
	for _, s := range a.Streams {
		streams[s.Conf.Group] = s
	}
	var groups []state.Group
	initializing := map[string]bool{}
	d.journal.View(func(s *state.State) {
		for _, g := range state.Sorted(s.Groups, func(g *state.Group) string { return g.Name }) {
			groups = append(groups, *g)
		}
		for _, v := range s.Volumes {
			if !v.Removed && !v.Ready {
				initializing[v.Group] = true
			}
		}
	})
	if d.remote != nil && !d.remote.Synced() { // what this host knows by itself
		for _, s := range a.Streams {
			groups = append(groups, state.Group{Name: s.Conf.Group, Ack: s.Kept.Asked, RPOTargetSeconds: defaultRPOTargetSeconds, Paused: s.Conf.Paused})
		}
	}
	for i := range groups {
		s := streams[groups[i].Name]
		st.Groups = append(st.Groups, d.groupStatus(&groups[i], &s, &a, j.Targets, initializing[groups[i].Name]))
	}
	return st, nil
}

func (d *Daemon) groupStatus(g *state.Group, s *agent.StreamStatus, a *agent.Status, targets []change.TargetInfo, initializing bool) api.GroupStatus {
	out := api.GroupStatus{Name: g.Name, Role: "primary", Ack: g.Ack, RPOTargetSeconds: g.RPOTargetSeconds,
		LagSeconds: s.Lag.Seconds(), LagBytes: s.LagBytes, LastLSN: s.LastLSN, DurableLSN: s.RemoteLSN, BacklogBytes: s.LagBytes}
	if s.RemoteLSN > 0 {
		t := clock.Now().Add(-s.Lag)
		out.LastPointTime = &t
	}
	out.AckKept, out.AckReason, out.AckDegraded, out.FlushesWaiting = s.Kept.Ack, s.Kept.Why, s.Kept.Degraded, s.Kept.Waiting
	out.InitialSync = initialStatus(s.Initial)
	out.State, out.Reason = groupState(g, s, a, targets, initializing)
	if name, ok := d.accepted.Load(g.Name); ok && s.Suspended != nil {
		out.Reason = fmt.Sprintf("the backing of volume %s is accepted: restart the agent, which then goes on from it", name)
	}
	return out
}

// heldBy names the groups that are suspended, or whose checkpoints fail: the WAL, which
// all groups share, keeps their frames, and with them all later ones.
func heldBy(a *agent.Status) string {
	out := ""
	for _, s := range a.Streams {
		if s.CheckpointErr != nil {
			out += "; " + checkpointFails(&s) + ", and holds it"
		}
		if s.Suspended != nil {
			out += fmt.Sprintf("; group %s is suspended and holds it: %s", s.Conf.Group, fail.Explain(s.Suspended))
		}
	}
	return out
}

// checkpointFails says why a group's last checkpoint failed; "" is that it did not.
func checkpointFails(s *agent.StreamStatus) string {
	if s.CheckpointErr == nil {
		return ""
	}
	return fmt.Sprintf("the checkpoint of group %s failed: %s", s.Conf.Group, fail.Explain(s.CheckpointErr))
}

// resyncing says how far a group with a dirty bitmap is.
func resyncing(o *agent.Overflow, because func(string) string) string {
	if o.Err != nil {
		return fmt.Sprintf("the resync does not get on: %v; the newest point is LSN %d", o.Err, o.After)
	}
	if o.Copying {
		return fmt.Sprintf("%s of %s that changed are copied; the newest point is LSN %d", text.Bytes(o.CopiedBytes), text.Bytes(o.Bytes), o.After)
	}
	return because(fmt.Sprintf("the WAL overflowed, and %s have changed since LSN %d, the newest point", text.Bytes(o.Bytes), o.After))
}

// initialSync says how far the initial syncs of a group are.
func initialSync(i *agent.InitialSync) string {
	if i == nil || i.Bytes == 0 {
		return "initial sync"
	}
	left := "ETA ?"
	if d, ok := i.Left(time.Now()); ok {
		left = "ETA " + d.Round(time.Second).String()
	}
	return fmt.Sprintf("initial sync: %d%%, %s of %s, %s", i.Percent(), text.Bytes(i.CopiedBytes), text.Bytes(i.Bytes), left)
}

// initialStatus is initialSync in figures.
func initialStatus(i *agent.InitialSync) *api.InitialSync {
	if i == nil {
		return nil
	}
	out := &api.InitialSync{Bytes: i.Bytes, CopiedBytes: i.CopiedBytes, Percent: i.Percent()}
	if d, ok := i.Left(time.Now()); ok {
		s := d.Seconds()
		out.LeftSeconds = &s
	}
	return out
}

// slowRequest is how long a store may take before the status says so.
const slowRequest = 3 * time.Second

// groupState names the worst thing that is true of a group, in the words of the
// design.
func groupState(g *state.Group, s *agent.StreamStatus, a *agent.Status, targets []change.TargetInfo, initializing bool) (string, string) {
	fenced, stopped, storeErr, aside := "", "", "", ""
	for i := range targets {
		t := &targets[i]
		switch {
		case t.Optional: // it holds nothing back, so that it is never the reason of a state
			if aside == "" && (t.State != "" || t.Error != "") {
				aside = optionalReason(t)
			}
		case t.Fenced:
			fenced = t.Error
		case t.Stopped && t.Error != "":
			stopped = "target " + t.Name + ": " + t.Error
		case storeErr != "":
		case t.Error != "":
			storeErr = "target " + t.Name + ": " + t.Error
		case !t.OldestRequest.IsZero() && time.Since(t.OldestRequest) > slowRequest:
			storeErr = fmt.Sprintf("target %s: %s has not answered a request for %.0f s", t.Name, t.URL, time.Since(t.OldestRequest).Seconds())
		}
	}
	because := func(own string) string {
		switch {
		case storeErr != "":
			return own + ": " + storeErr
		case a.ShipErr != nil:
			return own + ": " + a.ShipErr.Error()
		}
		return own
	}
	switch {
	case a.Err != nil:
		return "Faulted", a.Err.Error()
	case s.Fault != nil && fail.Is(s.Fault, fail.Fenced):
		return "Fenced", fail.Explain(s.Fault)
	case fenced != "":
		return "Fenced", fenced
	case s.Fault != nil:
		return "Suspended", fail.Explain(s.Fault)
	case s.Suspended != nil:
		return "Suspended", fail.Explain(s.Suspended)
	case s.BackErr != nil:
		return "Suspended", fail.Explain(s.BackErr)
	case stopped != "":
		return "Suspended", stopped
	case g.Paused:
		return "Paused", "paused by an operator"
	case s.Kept.Degraded:
		return "Lagging", because(s.Kept.Why)
	case s.Kept.Waiting > 0 && a.ShipErr != nil:
		return "Throttled", s.Kept.Why + ": " + a.ShipErr.Error()
	case s.ApplyErr != nil:
		return "Throttled", s.ApplyErr.Error()
	case s.Overflow != nil:
		return "Resyncing", resyncing(s.Overflow, because)
	case s.FullErr != nil && errors.Is(s.FullErr, wal.ErrFull):
		return "Throttled", because("the WAL's budget is used up" + heldBy(a))
	case s.FullErr != nil:
		return "Throttled", fail.Explain(s.FullErr)
	case a.Slow:
		return "Throttled", because("the WAL is nearly full" + heldBy(a))
	case initializing:
		return "Initializing", initialSync(s.Initial)
	case s.Lag.Seconds() > g.RPOTargetSeconds:
		return "Lagging", because("lag is above the RPO target")
	}
	return "Replicating", cmp.Or(storeErr, checkpointFails(s), aside)
}

// optionalReason says what is the matter with an optional target.
func optionalReason(t *change.TargetInfo) string {
	out := "optional target " + t.Name
	switch t.State {
	case change.TargetLetGo:
		out += " was let go: " + t.Reason
	case change.TargetFilling:
		out += " is filled again from another target"
	}
	if t.Error != "" {
		out += ": " + t.Error
	}
	return out
}
