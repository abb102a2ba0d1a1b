package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/internal/control"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/wal"
)

// Status reports where everything stands.
func (d service) Status(context.Context, struct{}) (control.Status, error) {
	a, j := d.agent.Status(), d.journal.Status()
	id, _, _ := d.journal.ID()
	st := control.Status{
		Groups: []control.GroupStatus{},
		Journal: control.JournalStatus{ID: id.String(), Leader: j.Leader, Term: j.Term, Epoch: j.Epoch,
			LogBytes: j.LogBytes, LogBudgetBytes: j.LogBudget},
		Agent: control.AgentStatus{Name: d.conf.Name, Version: d.version, MemoryBytes: a.Arena.UsedBytes, MemoryBudget: a.Arena.TotalBytes,
			WALBytes: a.WAL.LiveBytes, WALBudgetBytes: a.WAL.BudgetBytes, WrittenBytes: a.PlainBytes, StoredBytes: a.StoredBytes,
			NewGeneration: a.NewArena, UptimeSeconds: time.Since(d.start).Seconds()},
	}
	if d.nbd != nil {
		st.Agent.Connections = d.nbd.Connections()
	}
	if err := d.journal.Err(); err != nil {
		st.Journal.Error = err.Error()
	}
	for _, t := range d.targets {
		st.Targets = append(st.Targets, t.status())
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
	for i := range groups {
		s := streams[groups[i].Name]
		st.Groups = append(st.Groups, d.groupStatus(&groups[i], &s, &a, initializing[groups[i].Name]))
	}
	return st, nil
}

func (t *target) status() control.TargetStatus {
	u := t.up.Status()
	out := control.TargetStatus{Name: t.conf.Name, URL: u.URL, Site: t.conf.Site, Position: u.Position,
		ShippedBytes: u.Bytes, ShippedObject: u.Objects}
	if !u.LastSuccess.IsZero() {
		out.LastSuccess = &u.LastSuccess
	}
	if u.Err != nil {
		out.Error = reason(u.Err)
	}
	return out
}

func (d *Daemon) groupStatus(g *state.Group, s *agent.StreamStatus, a *agent.Status, initializing bool) control.GroupStatus {
	out := control.GroupStatus{Name: g.Name, Role: "primary", Ack: g.Ack, RPOTargetSeconds: g.RPOTargetSeconds,
		LagSeconds: s.Lag.Seconds(), LagBytes: s.LagBytes, LastLSN: s.LastLSN, DurableLSN: s.RemoteLSN, BacklogBytes: s.LagBytes}
	if s.RemoteLSN > 0 {
		t := time.Now().Add(-s.Lag)
		out.LastPointTime = &t
	}
	out.State, out.Reason = d.groupState(g, s, a, initializing)
	return out
}

// heldBy names the suspended groups: the WAL, which all groups share, keeps their
// frames, and with them all later ones.
func heldBy(a *agent.Status) string {
	out := ""
	for _, s := range a.Streams {
		if s.Suspended != nil {
			out += fmt.Sprintf("; group %s is suspended and holds it: %s", s.Conf.Group, reason(s.Suspended))
		}
	}
	return out
}

// slowRequest is how long a store may take before the status says so.
const slowRequest = 3 * time.Second

// reason is an error and what to do about it.
func reason(err error) string {
	if hint := fail.HintOf(err); hint != "" {
		return err.Error() + " (" + hint + ")"
	}
	return err.Error()
}

// groupState names the worst thing that is true of a group, in the words of the
// design.
func (d *Daemon) groupState(g *state.Group, s *agent.StreamStatus, a *agent.Status, initializing bool) (string, string) {
	fenced, stopped, storeErr := "", "", ""
	for _, t := range d.targets {
		u := t.up.Status()
		if u.Fenced {
			fenced = reason(u.Err)
		} else if u.Stopped && u.Err != nil {
			stopped = "target " + t.conf.Name + ": " + reason(u.Err)
		} else if u.Err != nil && storeErr == "" {
			storeErr = "target " + t.conf.Name + ": " + reason(u.Err)
		} else if d := time.Since(u.OldestRequest); storeErr == "" && !u.OldestRequest.IsZero() && d > slowRequest {
			storeErr = fmt.Sprintf("target %s: %s has not answered a request for %.0f s", t.conf.Name, u.URL, d.Seconds())
		}
	}
	because := func(own string) string {
		switch {
		case storeErr != "":
			return storeErr
		case a.ShipErr != nil:
			return a.ShipErr.Error()
		}
		return own
	}
	switch {
	case a.Err != nil:
		return "Faulted", a.Err.Error()
	case s.Fault != nil && fail.Is(s.Fault, fail.Fenced):
		return "Fenced", reason(s.Fault)
	case fenced != "":
		return "Fenced", fenced
	case s.Fault != nil:
		return "Suspended", reason(s.Fault)
	case s.Suspended != nil:
		return "Suspended", reason(s.Suspended)
	case s.BackErr != nil:
		return "Suspended", reason(s.BackErr)
	case stopped != "":
		return "Suspended", stopped
	case g.Paused:
		return "Paused", "paused by an operator"
	case s.ApplyErr != nil:
		return "Throttled", s.ApplyErr.Error()
	case s.FullErr != nil && errors.Is(s.FullErr, wal.ErrFull):
		return "Throttled", because("the WAL's budget is used up" + heldBy(a))
	case s.FullErr != nil:
		return "Throttled", reason(s.FullErr)
	case a.Slow:
		return "Throttled", because("the WAL is nearly full" + heldBy(a))
	case initializing:
		return "Initializing", "initial sync"
	case s.Lag.Seconds() > g.RPOTargetSeconds:
		return "Lagging", because("lag is above the RPO target")
	}
	return "Replicating", storeErr
}
