package node

import (
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/replicator/state"
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
