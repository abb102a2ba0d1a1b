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

// targetSites is where the targets are.
func (o *Options) targetSites() map[string]string {
	out := make(map[string]string, len(o.Places))
	for name, place := range o.Places {
		out[name] = place.Site
	}
	return out
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
	// Files of several members may differ: a name is put right once all of them say the same.
	own := members == 1
	if !own && p.differs(seat, sites) {
		err := p.disagreement(ctx)
		if own = err == nil; !own {
			p.say("the sites of this member's configuration are not the journal's, which count",
				"seat", seat.Site, "because", err)
		}
	}
	if err := p.takeSeat(seat, own); err != nil {
		return err
	}
	return p.setSites(sites, own)
}

// differs reports whether the configuration has other sites than the journal.
func (p *places) differs(seat state.Seat, sites map[string]map[string]string) bool {
	if seat.Epoch != 0 && seat.Site != p.opts.Site {
		return true
	}
	at := siteOf(sites)
	for name, place := range p.opts.Places {
		if at[name] != "" && at[name] != place.Site {
			return true
		}
	}
	return false
}

// disagreement says which member's configuration has other sites than this one's, or cannot be
// asked; nil is that all have the same.
func (p *places) disagreement(ctx context.Context) error {
	for _, s := range p.members.servers() {
		there, err := p.ask(ctx, s)
		if err == nil && (there.Site != p.opts.Site || !maps.Equal(there.TargetSites, p.opts.targetSites())) {
			err = fail.New(fail.Refused, "ask", "member "+string(s.Address), "its configuration names other sites").
				WithHint("give all members the same sites, and restart them")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// takeSeat says where the journal is, the first time; later it corrects the name, where own says
// that this member's file counts.
func (p *places) takeSeat(seat state.Seat, own bool) error {
	put := state.SeatPut{From: seat.Epoch, Site: p.opts.Site, Epoch: seat.Epoch, Time: clock.Now().UTC()}
	switch {
	case seat.Epoch == 0:
		put.Epoch = p.fsm.figures().id.Epoch
	case seat.Site == p.opts.Site || !own:
		return nil
	}
	_, err := p.proposer.Propose(state.KindSeat, put)
	return err
}

// siteOf is where each target is.
func siteOf(sites map[string]map[string]string) map[string]string {
	at := map[string]string{}
	for site, targets := range sites {
		for name := range targets {
			at[name] = site
		}
	}
	return at
}

// setSites says which targets are where: by this member's file where own says that it counts, else
// only what is not known yet. What the journal knows is then not taken back, even of a target that
// the file lacks: one of which nothing is known counts as elsewhere.
func (p *places) setSites(have map[string]map[string]string, own bool) error {
	at, want := map[string]string{}, map[string]map[string]string{} // target -> site
	for site, targets := range have {
		want[site] = map[string]string{}
		for name, url := range targets {
			if at[name] = site; !own {
				want[site][name] = url
			}
		}
	}
	for name, place := range p.opts.Places {
		if at[name] != "" && !own {
			continue
		}
		if want[place.Site] == nil {
			want[place.Site] = map[string]string{}
		}
		want[place.Site][name] = place.URL
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
		servers := p.members.servers()
		for _, s := range servers {
			if err := p.knowsLevel(ctx, s, level+1); err != nil {
				if _, told := p.told.LoadOrStore(err.Error(), true); !told {
					p.opts.Logger.Info("the journal's feature level stays until all members know the next",
						"level", level, "because", err)
				}
				return nil
			}
		}
		if ctx.Err() != nil || !slices.Equal(servers, p.members.servers()) { // under another lead
			return ctx.Err()
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
	there, err := p.ask(ctx, s)
	if err == nil && there.Level < level {
		err = fail.New(fail.Retry, "ask", "member "+string(s.Address),
			fmt.Sprintf("its release, %s, knows level %d", there.Version, there.Level))
	}
	return err
}

// ask asks a member, this one too, where it stands.
func (p *places) ask(ctx context.Context, s raft.Server) (there change.MemberStatus, err error) {
	if string(s.ID) == p.members.member.id {
		return p.members.self(), nil
	}
	err = p.members.askStatus(ctx, string(s.Address), &there)
	if err == nil && there.Member != string(s.ID) {
		err = fail.New(fail.Retry, "ask", "member "+string(s.ID), "another member answers at "+string(s.Address))
	}
	return there, err
}
