package journal

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
)

// The leader brings the journal to the highest feature level that all members know, and says
// in its state where it is and where its targets are, by its own configuration.

// places says where the journal and its targets are.
type places struct {
	opts     *Options
	members  *membership
	proposer *proposer
	fsm      *fsm
	told     sync.Map // say's
}

// TargetPlace is where a target is.
type TargetPlace struct {
	Site string
	URL  string
}

// settleEvery is how often a leader of several members looks whether it can do more.
const settleEvery = 2 * time.Second

// keep settles the journal of several members while this one leads.
func (p *places) keep(ctx context.Context) {
	for {
		if err := p.settle(ctx); err != nil && ctx.Err() == nil {
			p.opts.Logger.Warn("the journal's place is not in its state yet", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(settleEvery):
		}
	}
}

// settle does all of it. What it cannot do yet it does when it is called again.
func (p *places) settle(ctx context.Context) error {
	if err := p.raiseLevel(ctx); err != nil {
		return err
	}
	_, members := p.members.count()
	var level int
	var seat state.Seat
	var sites map[string]map[string]string // site -> target -> URL
	p.fsm.view(func(s *state.State) {
		level, seat, sites = s.Level, s.Seat, map[string]map[string]string{}
		for name, site := range s.Sites {
			sites[name] = maps.Clone(site.Targets)
		}
	})
	if level < state.LevelOf(state.KindSeat) || p.opts.Site == "" {
		return nil
	}
	if err := p.takeSeat(seat, members); err != nil {
		return err
	}
	return p.setSites(sites, members)
}

// takeSeat says where the journal is, the first time; later it corrects the name, of a
// journal that is alone: several members may have different files.
func (p *places) takeSeat(seat state.Seat, members int) error {
	put := state.SeatPut{From: seat.Epoch, Site: p.opts.Site, Epoch: seat.Epoch, Time: clock.Now().UTC()}
	switch {
	case seat.Epoch == 0:
		p.fsm.read(func(v view) { _, put.Epoch, _ = v.who() })
	case seat.Site == p.opts.Site:
		return nil
	case members > 1:
		p.say("this member's configuration names another site than the journal has; the journal's counts",
			"journal", seat.Site, "configuration", p.opts.Site)
		return nil
	}
	_, err := p.proposer.Propose(state.KindSeat, put)
	return err
}

// setSites says which targets are where. Of a journal with several members only what is not
// known yet is said, as it is with the list of targets.
func (p *places) setSites(have map[string]map[string]string, members int) error {
	at := map[string]string{} // target -> site
	for site, targets := range have {
		for name := range targets {
			at[name] = site
		}
	}
	want := map[string]map[string]string{}
	for name, place := range p.opts.Places {
		site := place.Site
		if known := at[name]; known != "" && known != site && members > 1 {
			p.say("this member's configuration has a target at another site than the journal has it; "+
				"the journal's counts", "target", name, "journal", known, "configuration", site)
			site = known
		}
		if want[site] == nil {
			want[site] = map[string]string{}
		}
		if want[site][name] = place.URL; members > 1 && at[name] == site {
			want[site][name] = have[site][name]
		}
	}
	for site := range have {
		if want[site] == nil {
			want[site] = map[string]string{}
		}
	}
	for _, site := range slices.Sorted(maps.Keys(want)) {
		if known, there := have[site]; there && maps.Equal(known, want[site]) {
			continue
		}
		if _, err := p.proposer.Propose(state.KindSite, state.Site{Name: site, Targets: want[site]}); err != nil {
			return err
		}
	}
	return nil
}

// say logs what an operator has to put right, once for each text.
func (p *places) say(text string, args ...any) {
	if _, told := p.told.LoadOrStore(fmt.Sprint(append([]any{text}, args...)...), true); !told {
		p.opts.Logger.Error(text, args...)
	}
}

// raiseLevel raises the feature level as far as all members know it, voters or not. The
// membership stands still meanwhile: whoever comes later is asked at the door.
func (p *places) raiseLevel(ctx context.Context) error {
	p.members.changing.Lock()
	defer p.members.changing.Unlock()
	for level := p.fsm.level(); level < p.opts.knows; level++ {
		for _, s := range p.members.servers() {
			if err := p.knowsLevel(ctx, s, level+1); err != nil {
				p.opts.Logger.Debug("the feature level stays", "level", level, "because", err)
				return nil
			}
		}
		if _, err := p.proposer.Propose(state.KindFeatureLevel, state.FeatureLevel{Level: level + 1}); err != nil {
			return err
		}
		p.opts.Logger.Info("all members know it: the journal's feature level is raised", "level", level+1)
	}
	return nil
}

// knowsLevel says why a member does not know a feature level, or why that is not certain.
func (p *places) knowsLevel(ctx context.Context, s raft.Server, level int) error {
	if string(s.ID) == p.members.member.id {
		return nil
	}
	var there change.MemberStatus
	err := p.members.askStatus(ctx, string(s.Address), &there)
	if err == nil && there.Member != string(s.ID) {
		err = fail.New(fail.Retry, "ask", "member "+string(s.ID), "another member answers at "+string(s.Address))
	}
	if err == nil && there.Level < level {
		err = fail.New(fail.Retry, "ask", "member "+string(s.Address),
			fmt.Sprintf("its release, %s, knows level %d", there.Version, there.Level))
	}
	return err
}
