package journal

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

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
	if _, err := p.moveSeat(); err != nil { // where it was handed over, nothing else comes before
		return err
	}
	if err := p.raiseLevel(ctx); err != nil {
		return err
	}
	if p.fsm.level() < state.LevelOf(state.KindSeat) || p.opts.Site == "" {
		return nil
	}
	// Files of several members may differ: a name is put right once all of them say the same.
	_, members := p.members.count()
	own := members == 1
	if !own && p.differs() {
		err := p.disagreement(ctx)
		if own = err == nil; !own {
			p.say(slog.LevelError, "the sites of this member's configuration are not the journal's, which count",
				"because", err)
		}
	}
	if moved, err := p.moveSeat(); !moved || err != nil {
		return err
	}
	if err := p.takeSeat(own); err != nil {
		return err
	}
	return p.setSites(own)
}

// differs reports whether the configuration has other sites than the journal.
func (p *places) differs() (differs bool) {
	p.fsm.view(func(s *state.State) {
		differs = s.Seat.Epoch != 0 && s.Seat.Site != p.opts.Site
		for name, place := range p.opts.Places {
			at := s.SiteOf(name)
			differs = differs || at != "" && at != place.Site
		}
	})
	return differs
}

// disagreement says which member's configuration has other sites than this one's, or cannot be
// asked; nil is that all have the same.
func (p *places) disagreement(ctx context.Context) error {
	for _, s := range p.members.servers() {
		there, err := p.members.ask(ctx, s)
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

// moveSeat says that the journal went on here under its present epoch, where it was inherited. It
// reports whether the seat is of that epoch.
func (p *places) moveSeat() (bool, error) {
	var seat state.Seat
	p.fsm.view(func(s *state.State) { seat = s.Seat })
	id := p.fsm.figures().id
	if id.Inherited == nil || id.Epoch <= seat.Epoch {
		return true, nil
	}
	if p.fsm.level() < state.LevelOf(state.KindSeatMove) {
		return false, nil
	}
	_, err := p.proposer.Propose(state.KindSeatMove, state.SeatMove{From: max(seat.Epoch, 1), Epoch: id.Epoch,
		Site: id.Site, First: id.Inherited.First, How: id.Inherited.How, Time: id.Inherited.Time})
	return err == nil, err
}

// takeSeat says where the journal is, the first time; later it corrects the name, where own says
// that this member's file counts.
func (p *places) takeSeat(own bool) error {
	var seat state.Seat
	p.fsm.view(func(s *state.State) { seat = s.Seat })
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

// setSites says which targets are where: by this member's file where own says that it counts, else
// only what is not known yet. What the journal knows is then not taken back, even of a target that
// the file lacks: one of which nothing is known counts as elsewhere.
func (p *places) setSites(own bool) error {
	have, want := map[string]map[string]string{}, map[string]map[string]string{} // site -> target -> URL
	at := map[string]string{}                                                    // target -> site
	p.fsm.view(func(s *state.State) {
		for _, site := range s.Sites {
			have[site.Name], want[site.Name] = maps.Clone(site.Targets), map[string]string{}
			for name := range site.Targets {
				at[name] = site.Name
			}
			if !own {
				maps.Copy(want[site.Name], site.Targets)
			}
		}
	})
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

// say logs what an operator may have to do something about, once for each text.
func (p *places) say(level slog.Level, text string, args ...any) {
	if _, told := p.told.LoadOrStore(fmt.Sprint(append([]any{text}, args...)...), true); !told {
		p.opts.Logger.Log(context.Background(), level, text, args...)
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
				p.say(slog.LevelInfo, "the journal's feature level stays until all members know the next",
					"level", level, "because", err)
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
	there, err := p.members.ask(ctx, s)
	if err == nil && there.Level < level {
		err = fail.New(fail.Retry, "ask", "member "+string(s.Address),
			fmt.Sprintf("its release, %s, knows level %d", there.Version, there.Level))
	}
	return err
}
