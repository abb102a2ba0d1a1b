package node

import (
	"context"
	"testing"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/verbs"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
)

// meddler is a journal in which somebody else changes a group whenever it is about to be
// changed here.
type meddler struct {
	verbs.Journal
	t     *testing.T
	times int
}

func (m *meddler) Propose(kind state.Kind, v any) (uint64, error) {
	if kind == state.KindGroupPatch && m.times > 0 {
		m.times--
		var revision uint64
		m.View(func(s *state.State) { revision = s.Groups["g"].Revision })
		seconds := float64(100 + m.times)
		if _, err := m.Journal.Propose(kind,
			state.GroupPatch{Name: "g", Revision: revision, RPOTargetSeconds: &seconds}); err != nil {
			m.t.Error(err)
		}
	}
	return m.Journal.Propose(kind, v)
}

// TestGroupPutTogether: two who change different settings of a group at once both find their
// change in it; one that is overtaken without end says so.
func TestGroupPutTogether(t *testing.T) {
	conf, _ := regressConf(t)
	d := startTest(t, conf, testHooks{})
	defer d.Close()
	ctx, cancel := context.WithTimeout(context.Background(), crashTimeout)
	defer cancel()
	if _, err := d.service().GroupPut(ctx, api.GroupPut{Name: "g", Create: true}); err != nil {
		t.Fatal(err)
	}
	m := &meddler{Journal: d.journal, t: t, times: 3}
	d.journal = m
	g, err := d.service().GroupPut(ctx, api.GroupPut{Name: "g", Ack: new(agent.AckRemote)})
	if err != nil || g.Ack != agent.AckRemote || g.RPOTargetSeconds != 100 {
		t.Errorf("%+v, %v", g, err)
	}
	m.times = 1000
	if _, err := d.service().GroupPut(ctx,
		api.GroupPut{Name: "g", Ack: new(agent.AckLocal)}); !fail.Is(err, fail.Retry) {
		t.Errorf("a change that is always overtaken: %v", err)
	}
	m.times = 0
}

// TestAckRemoteNeedsAnotherSite: what all targets are lost with is not promised to survive.
func TestAckRemoteNeedsAnotherSite(t *testing.T) {
	here := change.JournalInfo{Site: "here", Targets: []change.TargetInfo{{Name: "x", Site: "here"}}}
	there := change.JournalInfo{Site: "here",
		Targets: []change.TargetInfo{{Name: "x", Site: "here"}, {Name: "y", Site: "there"}}}
	for info, want := range map[*change.JournalInfo]bool{&here: true, &there: false} {
		err := applySettings(&state.Group{Name: "g"}, &api.GroupPut{Ack: new(agent.AckRemote)}, *info, false)
		if fail.Is(err, fail.Invalid) != want {
			t.Errorf("%+v: %v", info.Targets, err)
		}
	}
}
