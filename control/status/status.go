package status

import (
	"cmp"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
)

// Status is where everything stands.
func (m *Model) Status() api.Status {
	out := api.Status{Groups: []api.GroupStatus{}, Targets: []api.TargetStatus{}, Journal: m.journal(),
		Agent: api.AgentStatus{Version: m.Version, UptimeSeconds: m.Uptime.Seconds()}, Certificates: m.Certificates}
	if a := m.Agent; a != nil {
		out.Agent.Name, out.Agent.Connections, out.Agent.NewGeneration = a.Name, a.Connections, a.NewArena
		out.Agent.MemoryBytes, out.Agent.MemoryBudget = a.Arena.UsedBytes, a.Arena.TotalBytes
		out.Agent.WALBytes, out.Agent.WALBudgetBytes = a.WAL.LiveBytes, a.WAL.BudgetBytes
		out.Agent.Hydrating = a.Hydrating
		out.Agent.WrittenBytes, out.Agent.StoredBytes = a.PlainBytes, a.StoredBytes
	}
	for i := range m.Journal.Targets {
		out.Targets = append(out.Targets, api.TargetStatusOf(&m.Journal.Targets[i]))
	}
	targets, groups := judge(&m.Journal.JournalInfo, m.Now), m.groups()
	for i := range groups {
		out.Groups = append(out.Groups, m.group(&groups[i], targets))
	}
	return out
}

// noLeader is the error of a journal that nobody leads.
const noLeader = "no leader is known: is a majority of the members up?"

func (m *Model) journal() api.JournalStatus {
	j := &m.Journal
	out := api.JournalStatus{ID: j.Journal.String(), Leader: j.Leads, LeaderAddress: j.Leader, Term: j.Term,
		Epoch: j.Epoch, Site: j.Site, FeatureLevel: j.Level, Voters: j.Voters, Members: j.Members, LogBytes: j.LogBytes,
		LogBudgetBytes: j.LogBudget, Superseded: j.Superseded}
	if j.WayBack != nil && j.Superseded == nil {
		out.WayBack = m.wayBack(j.WayBack)
	}
	if j.Journal == uuid.Nil {
		out.ID = "" // not heard of yet
	}
	switch {
	case j.Err != nil:
		out.Error = fail.Explain(j.Err)
	case m.Agent != nil && !j.Alone && m.Agent.ShipErr != nil:
		out.Error = fail.Explain(m.Agent.ShipErr)
	case !j.Leads && j.Leader == "":
		out.Error = noLeader
	}
	return out
}

func (m *Model) group(g *Group, t targets) api.GroupStatus {
	f := facts{Group: g, now: m.Now, targets: t, over: m.Journal.Superseded, handing: m.Journal.Handing}
	out := api.GroupStatus{Name: g.Name, Role: "primary", Site: m.Journal.Site, Standbys: standbys(g.Standbys),
		Ack: g.Ack, RPOTargetSeconds: g.RPOTargetSeconds, Streams: []api.StreamStatus{}}
	own := m.own(g.Name)
	if m.Agent != nil {
		f.agent, f.owner, f.accepted = m.Agent.Status, m.Agent.Name, m.Agent.Accepted[g.Name]
	}
	for i := range g.Streams {
		out.Streams = append(out.Streams, m.stream(&g.Streams[i], own))
	}
	if own != nil {
		f.stream, f.lag = *own, own.Lag
		out.LastLSN, out.DurableLSN, out.LagBytes = own.LastLSN, own.RemoteLSN, own.LagBytes
		if own.RemoteLSN > 0 {
			at := m.Wall.Add(-own.Lag)
			out.LastPointTime = &at
		}
		out.AckKept, out.AckReason = own.Kept.Ack, own.Kept.Why
		out.AckDegraded, out.FlushesWaiting = own.Kept.Degraded, own.Kept.Waiting
		out.InitialSync = initialFigures(own.Initial, m.Now)
	} else {
		if len(out.Streams) == 1 && out.Streams[0].LastLSN != nil {
			out.LastLSN, out.DurableLSN = *out.Streams[0].LastLSN, *out.Streams[0].DurableLSN
		}
		f.lag, out.LagBytes = m.behind(g)
	}
	out.LagSeconds, out.BacklogBytes = f.lag.Seconds(), out.LagBytes
	out.State, out.Reason = f.state()
	if out.State == api.Superseded {
		out.Role = "superseded"
	}
	return out
}

// stream is where one stream stands: the agent in this process knows its own better than
// the journal.
func (m *Model) stream(s *Stream, own *agent.StreamStatus) api.StreamStatus {
	out := api.StreamStatus{Agent: s.Agent}
	last, durable, known := s.Last, s.Durable, s.Known
	if own != nil && own.Conf.ID == s.ID {
		last, durable, known = own.LastLSN, own.RemoteLSN, true
	}
	if known {
		out.LastLSN, out.DurableLSN = &last, &durable
	}
	return out
}

// behind is how far the farthest required target is, where one of the group's streams is
// not in all of them. It is what the journal alone can tell of a group's lag.
func (m *Model) behind(g *Group) (lag time.Duration, bytes int64) {
	late := false
	for _, s := range g.Streams {
		late = late || s.Known && s.Durable < s.Last
	}
	for i := range m.Journal.Targets {
		if t := &m.Journal.Targets[i]; late && !t.Optional {
			lag = max(lag, time.Duration(t.LagSeconds*float64(time.Second)))
			bytes = max(bytes, t.BacklogBytes)
		}
	}
	return lag, bytes
}

// initialFigures is initialSync in figures.
func initialFigures(i *agent.InitialSync, now time.Time) *api.InitialSync {
	if i == nil {
		return nil
	}
	out := &api.InitialSync{Bytes: i.Bytes, CopiedBytes: i.CopiedBytes, Percent: i.Percent()}
	if d, ok := i.Left(now); ok {
		s := d.Seconds()
		out.LeftSeconds = &s
	}
	return out
}

// GroupList is the group of a name, or all where that is ""; false: there is none.
func (m *Model) GroupList(name string) (out []api.Group, found bool) {
	out = []api.Group{}
	for i := range m.Groups {
		if g := &m.Groups[i]; name == "" || g.Name == name {
			out = append(out, g.API())
		}
	}
	return out, name == "" || len(out) > 0
}

// API is a group as the control API tells it.
func (g *Group) API() api.Group {
	return api.Group{Name: g.Name, Ack: g.Ack, OnAckLoss: cmp.Or(g.OnAckLoss, agent.LossWait), Overflow: g.Overflow,
		PITR: g.PITR, RPOTargetSeconds: g.RPOTargetSeconds, Paused: g.Paused, Owner: g.Owner, Agents: g.Agents,
		Retention: g.Retention.String(), Standbys: standbys(g.Standbys), Volumes: g.Volumes}
}

func standbys(all []state.Standby) []api.Standby {
	out := make([]api.Standby, 0, len(all))
	for _, b := range all {
		out = append(out, api.Standby(b))
	}
	return out
}
