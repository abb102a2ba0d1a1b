package node

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/wal"
)

// TestOptionalTargetIsNoState: whatever an optional target is, the group's state is what
// it would be without it, and the reason says what the matter is.
func TestOptionalTargetIsNoState(t *testing.T) {
	long := time.Now().Add(-time.Hour)
	for says, info := range map[string]change.TargetInfo{
		"403":         {Error: "403"},
		"let go: why": {State: change.TargetLetGo, Reason: "why"},
		"why: 403":    {State: change.TargetLetGo, Reason: "why", Error: "403"},
		"filled":      {State: change.TargetFilling, Reason: "why"},
		"lost":        {Fenced: true, Stopped: true, Error: "lost"},
		"":            {OldestRequest: long},
	} {
		info.Name, info.Optional = "spare", true
		g := &state.Group{Name: "g", RPOTargetSeconds: 10}
		targets := []change.TargetInfo{{Name: "x"}, info}
		got, reason := groupState(g, &agent.StreamStatus{}, &agent.Status{}, targets, false)
		if got != "Replicating" || !strings.Contains(reason, says) || (says == "") != (reason == "") {
			t.Errorf("%+v: %s, %q", info, got, reason)
		}
		_, reason = groupState(g, &agent.StreamStatus{Lag: time.Minute}, &agent.Status{}, targets, false)
		if strings.Contains(reason, "spare") {
			t.Errorf("lag is ascribed to it: %q", reason)
		}
	}
}

// TestFullStateDiskIsNamed: a checkpoint that fails keeps the WAL from being trimmed, so
// that a WAL that is full for it is not a matter of its budget.
func TestFullStateDiskIsNamed(t *testing.T) {
	full := fail.Wrap(fail.Full, "append to wal", "/wal", wal.ErrFull)
	failed := fail.Wrap(fail.Full, "save", "/state/ckpt", syscall.ENOSPC)
	mine := agent.StreamStatus{FullErr: full, CheckpointErr: failed, Conf: agent.StreamConf{Group: "g"}}
	other := agent.StreamStatus{FullErr: full, Conf: agent.StreamConf{Group: "h"}}
	g := &state.Group{Name: "g", RPOTargetSeconds: 10}
	for name, c := range map[string]struct {
		s     agent.StreamStatus
		slow  bool
		state string
	}{
		"full":              {mine, false, "Throttled"},
		"full by another":   {other, false, "Throttled"},
		"nearly full":       {agent.StreamStatus{CheckpointErr: failed}, true, "Throttled"},
		"before it is full": {agent.StreamStatus{CheckpointErr: failed}, false, "Replicating"},
	} {
		got, reason := groupState(g, &c.s, &agent.Status{Streams: []agent.StreamStatus{mine, other}, Slow: c.slow}, nil, false)
		if got != c.state || !strings.Contains(reason, errors.Unwrap(failed).Error()) || !strings.Contains(reason, "checkpoint of group") {
			t.Errorf("%s: %s, %q", name, got, reason)
		}
	}
}
