package status

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/wal"
)

var now = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

// world is a model with one group "g", whose only stream is agent "a"'s.
type world struct {
	*Model
	group  *Group
	stream *agent.StreamStatus
}

func newWorld() world {
	id := uuid.New()
	m := &Model{Now: now, Wall: now,
		Journal: Journal{JournalInfo: change.JournalInfo{Journal: uuid.New(), Leader: "j:1",
			Targets: []change.TargetInfo{{Name: "x", URL: "s3://x"}}}, Synced: true},
		Groups: []Group{{Group: state.Group{Name: "g", RPOTargetSeconds: 10}, Volumes: 1,
			Streams: []Stream{{ID: id, Agent: "a"}}}},
		Agent: &Agent{Name: "a", Status: agent.Status{Streams: []agent.StreamStatus{
			{Conf: agent.StreamConf{ID: id, Group: "g"}, LastLSN: 9, RemoteLSN: 9}}}}}
	return world{m, &m.Groups[0], &m.Agent.Streams[0]}
}

var full = fail.Wrap(fail.Full, "append to wal", "/wal", wal.ErrFull)

// conditions is what can be the matter with a group: the state that comes of it, what the
// reason says, and how it comes about. They are in the order in which one hides those
// below it.
var conditions = []struct {
	name, state, reason string
	make                func(world)
}{
	{"the journal is elsewhere", "Superseded", "at busan under epoch 2; LSN 7 to 9 of agent a never left this site",
		func(w world) {
			w.Journal.Superseded = &change.Superseded{Own: 1, Epoch: 2, Site: "busan", Branch: 12,
				Streams: map[change.StreamID]change.Point{w.group.Streams[0].ID: {LSN: 6}}}
		}},
	{"the journal is elsewhere, nobody knows where", "Superseded", "under epoch 2; nothing is served here",
		func(w world) {
			if w.Journal.Superseded == nil {
				w.Journal.Superseded = &change.Superseded{Own: 1, Epoch: 2}
			}
		}},
	{"it is taken back", "FailingOver", "being taken back; all I/O waits until the log of target x has that: late",
		func(w world) {
			w.Journal.Handing = &state.HandOver{Phase: state.HandOverBack, To: "busan", Target: "x", Reason: "late"}
		}},
	{"it is handed over", "FailingOver", "handed over to host b at busan; all I/O waits, for 30 s at most",
		func(w world) {
			if w.Journal.Handing == nil {
				w.Journal.Handing = &state.HandOver{Phase: state.HandOverHand, To: "busan", Host: "b", LimitSeconds: 30}
			}
		}},
	{"the agent cannot go on", "Faulted", "poisoned",
		func(w world) { w.Agent.Err = errors.New("the WAL is poisoned") }},
	{"the stream is fenced", "Fenced", "another lease", func(w world) {
		w.stream.Fault = fail.New(fail.Fenced, "append", "stream", "another lease")
	}},
	{"a target is fenced", "Fenced", "another writer", func(w world) {
		t := &w.Journal.Targets[0]
		t.Fenced, t.Stopped, t.Error = true, true, "another writer"
	}},
	{"a target is fenced, and says no more", "Fenced", "target x", func(w world) {
		w.Journal.Targets[0].Fenced, w.Journal.Targets[0].Error = true, ""
	}},
	{"the stream has another fault", "Suspended", "another history", func(w world) {
		w.stream.Fault = fail.New(fail.Damaged, "append", "stream", "another history")
	}},
	{"an accepted backing", "Suspended", "restart the agent", func(w world) {
		w.stream.Suspended = fail.New(fail.Refused, "open", "b", "gone")
		w.Agent.Accepted = map[string]string{"g": "v"}
	}},
	{"a backing was missing", "Suspended", "gone", func(w world) {
		w.stream.Suspended = fail.New(fail.Refused, "open", "b", "gone")
	}},
	{"a backing was cut", "Suspended", "shorter", func(w world) { w.stream.BackErr = errors.New("shorter") }},
	{"a target is given up", "Suspended", "target x: not ours", func(w world) {
		w.Journal.Targets[0].Stopped, w.Journal.Targets[0].Error = true, "not ours"
	}},
	{"the only target elsewhere is optional", "Unprotected", "make target spare required",
		func(w world) {
			w.Journal.Site, w.Journal.Targets[0].Site = "here", "here"
			w.Journal.Targets = append(w.Journal.Targets,
				change.TargetInfo{Name: "spare", Site: "there", Optional: true})
		}},
	{"the only target elsewhere is not in line", "Unprotected", "target x is filled from another target: 3 of 9",
		func(w world) {
			w.Journal.Site, w.Journal.Targets[0].Site = "here", "there"
			w.Journal.Targets[0].State, w.Journal.Targets[0].Filled = change.TargetFilling, "3 of 9"
		}},
	{"all targets are at the journal's site", "Unprotected", "all required targets are at site here", func(w world) {
		w.Journal.Site, w.Journal.Targets[0].Site = "here", "here"
	}},
	{"an operator paused it", "Paused", "operator", func(w world) { w.group.Paused = true }},
	{"its ack was given up", "Lagging", "too few voters", func(w world) {
		w.stream.Kept = agent.EffectiveAck{Asked: "journal", Ack: "local", Degraded: true, Why: "too few voters"}
	}},
	{"flushes wait for a journal out of reach", "Throttled", "waits: no route", func(w world) {
		w.stream.Kept, w.Agent.ShipErr = agent.EffectiveAck{Waiting: 1, Why: "waits"}, errors.New("no route")
	}},
	{"the backing cannot be written", "Throttled", "EIO", func(w world) { w.stream.ApplyErr = errors.New("EIO") }},
	{"a resync stands still", "Resyncing", "does not get on: why", func(w world) {
		w.stream.Overflow = &agent.Overflow{After: 7, Copying: true, Err: errors.New("why")}
	}},
	{"a resync runs", "Resyncing", "1.0 KiB of 2.0 KiB that changed are copied; the newest point is LSN 7",
		func(w world) {
			w.stream.Overflow = &agent.Overflow{After: 7, Copying: true, CopiedBytes: 1024, Bytes: 2048}
		}},
	{"its WAL overflowed", "Resyncing", "have changed since LSN 7, the newest point", func(w world) {
		w.stream.Overflow = &agent.Overflow{After: 7, Bytes: 2048}
	}},
	{"another agent's resync", "Resyncing", "agent b", func(w world) {
		w.group.Streams = append(w.group.Streams, Stream{ID: uuid.New(), Agent: "b", Resyncing: true, ResyncAfter: 3})
	}},
	{"the WAL is full", "Throttled", "budget is used up", func(w world) { w.stream.FullErr = full }},
	{"the WAL's disk is full", "Throttled", "no space", func(w world) {
		w.stream.FullErr = fail.Wrap(fail.Full, "append to wal", "/wal", syscall.ENOSPC)
	}},
	{"the WAL is nearly full", "Throttled", "nearly full", func(w world) { w.Agent.Slow = true }},
	{"a volume is new", "Initializing", "initial sync: 50%, 2.0 KiB of 4.0 KiB, ETA 10s", func(w world) {
		w.group.Initializing = true
		w.stream.Initial = &agent.InitialSync{Bytes: 4096, CopiedBytes: 2048, Since: now.Add(-10 * time.Second)}
	}},
	{"another agent's volume is new", "Initializing", "initial sync", func(w world) { w.group.Initializing = true }},
	{"lag", "Lagging", "above the RPO target: target x: 403", func(w world) {
		w.stream.Lag, w.Journal.Targets[0].Error = time.Minute, "403"
	}},
	{"a target fails", "Replicating", "target x: 403", func(w world) { w.Journal.Targets[0].Error = "403" }},
	{"a target does not answer", "Replicating", "has not answered a request for 5 s", func(w world) {
		w.Journal.Targets[0].OldestRequest = now.Add(-5 * time.Second)
	}},
	{"a checkpoint fails", "Replicating", "checkpoint of group g failed",
		func(w world) { w.stream.CheckpointErr = errors.New("no") }},
	{"an optional target was let go", "Replicating", "optional target spare was let go: its share", func(w world) {
		w.Journal.Targets = append(w.Journal.Targets,
			change.TargetInfo{Name: "spare", Optional: true, State: change.TargetLetGo, Reason: "its share"})
	}},
	{"nothing", "Replicating", "", func(world) {}},
}

// TestGroupStates: each condition alone, and each with every one below it, which it hides.
func TestGroupStates(t *testing.T) {
	for i, c := range conditions {
		w := newWorld()
		c.make(w)
		checkState(t, c.name, w, c.state, c.reason)
		for _, below := range conditions[i+1:] {
			w := newWorld()
			below.make(w)
			c.make(w)
			checkState(t, c.name+", and "+below.name, w, c.state, c.reason)
		}
	}
}

func checkState(t *testing.T, name string, w world, state, reason string) {
	t.Helper()
	got := w.Status().Groups[0]
	if got.State != state || !strings.Contains(got.Reason, reason) || (reason == "") != (got.Reason == "") {
		t.Errorf("%s: %s, %q; want %s, %q", name, got.State, got.Reason, state, reason)
	}
}

// TestEveryStateHasItsCondition: none of the list is without a test.
func TestEveryStateHasItsCondition(t *testing.T) {
	tested := map[string]bool{}
	for _, c := range conditions {
		tested[c.state] = true
	}
	for _, row := range precedence {
		if !tested[row.state] {
			t.Errorf("no condition leads to %s", row.state)
		}
	}
	if last := precedence[len(precedence)-1]; last.state != api.Replicating {
		t.Errorf("the list ends with %s", last.state)
	}
}

// TestReasonNamesWhatHoldsItUp: of a state that comes of what is not durable in time, the
// reason says why it is not: a target's error, else the way to the journal.
func TestReasonNamesWhatHoldsItUp(t *testing.T) {
	for name, make := range map[string]func(world){
		"the WAL overflowed":          func(w world) { w.stream.Overflow = &agent.Overflow{After: 7, Bytes: 2048} },
		"the WAL's budget is used up": func(w world) { w.stream.FullErr = full },
		"the WAL is nearly full":      func(w world) { w.Agent.Slow = true },
		"too few voters": func(w world) {
			w.stream.Kept = agent.EffectiveAck{Degraded: true, Why: "too few voters"}
		},
		"lag is above the RPO target": func(w world) { w.stream.Lag = time.Minute },
	} {
		w := newWorld()
		make(w)
		w.Agent.ShipErr = errors.New("no route")
		if got := w.Status().Groups[0].Reason; !strings.HasPrefix(got, name) || !strings.HasSuffix(got, ": no route") {
			t.Errorf("%s: %q", name, got)
		}
		w.Journal.Targets[0].Error = "403"
		if got := w.Status().Groups[0].Reason; !strings.HasPrefix(got, name) ||
			!strings.HasSuffix(got, ": target x: 403") {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestMemberStates: a journal's member knows less, and says by the same rules what it does.
func TestMemberStates(t *testing.T) {
	late := func(w world) {
		s := &w.group.Streams[0]
		s.Known, s.Last, s.Durable = true, 9, 4
		w.Journal.Targets[0].LagSeconds, w.Journal.Targets[0].BacklogBytes = 60, 4096
	}
	for name, c := range map[string]struct {
		state, reason string
		make          func(world)
	}{
		"nothing": {"Replicating", "", func(world) {}},
		"fenced": {"Fenced", "another",
			func(w world) { w.Journal.Targets[0].Fenced, w.Journal.Targets[0].Error = true, "another" }},
		"given up": {"Suspended", "x: no",
			func(w world) { w.Journal.Targets[0].Stopped, w.Journal.Targets[0].Error = true, "no" }},
		"paused":       {"Paused", "operator", func(w world) { late(w); w.group.Paused = true }},
		"resyncing":    {"Resyncing", "agent a", func(w world) { w.group.Streams[0].Resyncing = true }},
		"initializing": {"Initializing", "initial sync", func(w world) { w.group.Initializing = true }},
		"lagging":      {"Lagging", "RPO target", late},
		"of another group": {"Replicating", "", func(w world) {
			late(w)
			w.group.Streams[0].Durable = 9
		}},
	} {
		w := newWorld()
		w.Agent = nil
		c.make(w)
		checkState(t, name, w, c.state, c.reason)
	}
}

// TestOptionalTargetIsNoState: whatever an optional target is, the group's state is what
// it would be without it, and the reason says what the matter is.
func TestOptionalTargetIsNoState(t *testing.T) {
	for says, info := range map[string]change.TargetInfo{
		"403":         {Error: "403"},
		"let go: why": {State: change.TargetLetGo, Reason: "why"},
		"why: 403":    {State: change.TargetLetGo, Reason: "why", Error: "403"},
		"filled":      {State: change.TargetFilling, Reason: "why"},
		"lost":        {Fenced: true, Stopped: true, Error: "lost"},
		"":            {OldestRequest: now.Add(-time.Hour)},
	} {
		info.Name, info.Optional = "spare", true
		w := newWorld()
		w.Journal.Targets = append(w.Journal.Targets, info)
		checkState(t, says, w, "Replicating", says)
		w.stream.Lag = time.Minute
		if got := w.Status().Groups[0]; got.State != "Lagging" || strings.Contains(got.Reason, "spare") {
			t.Errorf("lag is ascribed to it: %s, %q", got.State, got.Reason)
		}
	}
}

// TestFullStateDiskIsNamed: a checkpoint that fails keeps the WAL from being trimmed, so
// that a WAL that is full for it is not a matter of its budget.
func TestFullStateDiskIsNamed(t *testing.T) {
	failed := fail.Wrap(fail.Full, "save", "/state/ckpt", syscall.ENOSPC)
	other := agent.StreamStatus{Conf: agent.StreamConf{ID: uuid.New(), Group: "h"}, FullErr: full,
		CheckpointErr: failed}
	for name, c := range map[string]struct {
		make  func(world)
		state string
	}{
		"full": {func(w world) { w.stream.FullErr, w.stream.CheckpointErr = full, failed }, "Throttled"},
		"full by another": {func(w world) {
			w.stream.FullErr = full
			w.Agent.Streams = append(w.Agent.Streams, other)
		}, "Throttled"},
		"nearly full":       {func(w world) { w.stream.CheckpointErr, w.Agent.Slow = failed, true }, "Throttled"},
		"before it is full": {func(w world) { w.stream.CheckpointErr = failed }, "Replicating"},
	} {
		w := newWorld()
		c.make(w)
		checkState(t, name, w, c.state, "checkpoint of group")
		checkState(t, name, w, c.state, errors.Unwrap(failed).Error())
	}
}
