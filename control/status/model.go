package status

import (
	"time"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/replicator/state"
)

// Model is what a daemon knows at one moment. It is plain data, and no function of this
// package asks anything else.
type Model struct {
	Now  time.Time // durations are measured up to it
	Wall time.Time // the time of day that people are told
	// Journal is where the journal stands, as this process sees it.
	Journal Journal
	Groups  []Group // by name
	// Agent is what the agent in this process says; nil in that of a journal's member.
	Agent        *Agent
	Version      string
	Uptime       time.Duration
	Certificates []api.CertificateStatus
}

// Journal is where a journal stands, with its targets.
type Journal struct {
	change.JournalInfo
	Leads  bool // from this process
	Alone  bool // its only member is in this process
	Level  int  // its feature level
	Synced bool // its control state is known here
	// Handing is a hand-over of which nobody knows yet whether it is taken up.
	Handing *state.HandOver
	// WayBack is open while a hand-over to here is neither committed nor rolled back.
	WayBack *state.WayBack
	Err     error // why it does not go on here, or cannot be reached
}

// Group is a group's policy, and what the control state says of its volumes and streams.
type Group struct {
	state.Group
	Volumes      int
	Initializing bool     // a volume's initial sync has not ended
	Streams      []Stream // by agent
}

// Stream is one agent's part of a group.
type Stream struct {
	ID    change.StreamID
	Agent string
	// ResyncAfter is the newest point where a resync has not ended.
	Resyncing   bool
	ResyncAfter uint64
	// Last is the newest LSN that the journal has, and Durable that in every remote target;
	// both are known only where a member of the journal runs.
	Known         bool
	Last, Durable uint64
}

// Agent is an agent's own figures.
type Agent struct {
	agent.Status
	Name        string
	Connections int // to its NBD server
	// Accepted are volumes by their group: a backing was accepted for them, which the next start
	// takes.
	Accepted map[string]string
	// Hydrating are backings that are still being filled from the object store, by volume.
	Hydrating []api.Hydration
}

// Read takes what the model needs of a control state, which it does not keep.
func (m *Model) Read(s *state.State) {
	m.Journal.Level = s.Level
	if s.HandedOver() {
		m.Journal.Handing = s.HandOver
	}
	if w := s.WayBack; w != nil && w.Step == state.WayBackOpen {
		m.Journal.WayBack = w
	}
	m.Groups = make([]Group, 0, len(s.Groups))
	at := make(map[string]int, len(s.Groups))
	for i, g := range state.Sorted(s.Groups, func(g *state.Group) string { return g.Name }) {
		m.Groups = append(m.Groups, Group{Group: *g})
		at[g.Name] = i
	}
	for _, v := range s.Volumes {
		if i, ok := at[v.Group]; ok && !v.Removed {
			m.Groups[i].Volumes++
			m.Groups[i].Initializing = m.Groups[i].Initializing || !v.Ready
		}
	}
	for _, st := range state.Sorted(s.Streams, func(st *state.Stream) string { return st.Agent }) {
		i, ok := at[st.Group]
		if !ok {
			continue
		}
		out := Stream{ID: st.ID, Agent: st.Agent, Resyncing: st.Resyncing()}
		if out.Resyncing {
			out.ResyncAfter = st.Resyncs[len(st.Resyncs)-1].After
		}
		m.Groups[i].Streams = append(m.Groups[i].Streams, out)
	}
}

// groups are those of the control state, or where that is not known yet, those that the
// agent knows by itself.
func (m *Model) groups() []Group {
	if m.Journal.Synced || m.Agent == nil {
		return m.Groups
	}
	out := make([]Group, 0, len(m.Agent.Streams))
	for i := range m.Agent.Streams {
		s := &m.Agent.Streams[i]
		out = append(out, Group{
			Group: state.Group{Name: s.Conf.Group, Ack: s.Kept.Asked, RPOTargetSeconds: DefaultRPOTargetSeconds,
				Paused: s.Conf.Paused},
			Streams: []Stream{{ID: s.Conf.ID, Agent: m.Agent.Name}}})
	}
	return out
}

// DefaultRPOTargetSeconds is the RPO target of a group that was given none.
const DefaultRPOTargetSeconds = 10

// own is where the agent's stream of a group stands; nil where it has none.
func (m *Model) own(group string) *agent.StreamStatus {
	if m.Agent == nil {
		return nil
	}
	for i := range m.Agent.Streams {
		if m.Agent.Streams[i].Conf.Group == group {
			return &m.Agent.Streams[i]
		}
	}
	return nil
}
