package journal

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
)

// The leader brings the journal to the highest feature level that all members know, and says
// in its state where it is and where its targets are, by its own configuration.

// TargetPlace is where a target is.
type TargetPlace struct {
	Site string
	URL  string
}

// settlePlace does all of it. What it cannot do yet it does when it is called again.
func (j *Journal) settlePlace(ctx context.Context) error {
	if err := j.raiseLevel(ctx); err != nil {
		return err
	}
	_, members := j.count()
	var level int
	var seat state.Seat
	var sites map[string]map[string]string // site -> target -> URL
	j.View(func(s *state.State) {
		level, seat, sites = s.Level, s.Seat, map[string]map[string]string{}
		for name, site := range s.Sites {
			sites[name] = maps.Clone(site.Targets)
		}
	})
	if level < state.LevelOf(state.KindSeat) || j.opts.Site == "" {
		return nil
	}
	if err := j.takeSeat(seat, members); err != nil {
		return err
	}
	return j.setSites(sites, members)
}

// takeSeat says where the journal is, the first time; later it corrects the name, of a
// journal that is alone: several members may have different files.
func (j *Journal) takeSeat(seat state.Seat, members int) error {
	put := state.SeatPut{From: seat.Epoch, Site: j.opts.Site, Epoch: seat.Epoch, Time: clock.Now().UTC()}
	switch {
	case seat.Epoch == 0:
		_, put.Epoch, _ = j.ID()
	case seat.Site == j.opts.Site:
		return nil
	case members > 1:
		j.sayOnce("this member's configuration names another site than the journal has; the journal's counts",
			"journal", seat.Site, "configuration", j.opts.Site)
		return nil
	}
	_, err := j.Propose(state.KindSeat, put)
	return err
}

// setSites says which targets are where. Of a journal with several members only what is not
// known yet is said, as it is with the list of targets.
func (j *Journal) setSites(have map[string]map[string]string, members int) error {
	at := map[string]string{} // target -> site
	for site, targets := range have {
		for name := range targets {
			at[name] = site
		}
	}
	want := map[string]map[string]string{}
	for name, place := range j.opts.Places {
		site := place.Site
		if known := at[name]; known != "" && known != site && members > 1 {
			j.sayOnce("this member's configuration has a target at another site than the journal has it; the journal's counts",
				"target", name, "journal", known, "configuration", site)
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
		if _, err := j.Propose(state.KindSite, state.Site{Name: site, Targets: want[site]}); err != nil {
			return err
		}
	}
	return nil
}

// sayOnce logs what an operator has to put right, once for each text.
func (j *Journal) sayOnce(text string, args ...any) {
	if _, told := j.placeTold.LoadOrStore(fmt.Sprint(append([]any{text}, args...)...), true); !told {
		j.opts.Logger.Error(text, args...)
	}
}

// level is the journal's feature level.
func (j *Journal) level() (level int) {
	j.View(func(s *state.State) { level = s.Level })
	return level
}

// raiseLevel raises the feature level as far as all members know it, voters or not. The
// membership stands still meanwhile: whoever comes later is asked at the door.
func (j *Journal) raiseLevel(ctx context.Context) error {
	j.membership.Lock()
	defer j.membership.Unlock()
	for level := j.level(); level < j.opts.knows; level++ {
		for _, s := range j.servers() {
			if err := j.knowsLevel(ctx, s, level+1); err != nil {
				j.opts.Logger.Debug("the feature level stays", "level", level, "because", err)
				return nil
			}
		}
		if _, err := j.Propose(state.KindFeatureLevel, state.FeatureLevel{Level: level + 1}); err != nil {
			return err
		}
		j.opts.Logger.Info("all members know it: the journal's feature level is raised", "level", level+1)
	}
	return nil
}

// knowsLevel says why a member does not know a feature level, or why that is not certain.
func (j *Journal) knowsLevel(ctx context.Context, s raft.Server, level int) error {
	if string(s.ID) == j.member.ID {
		return nil
	}
	var there change.MemberStatus
	err := j.askMember(ctx, string(s.Address), change.MsgMember, struct{}{}, change.MsgMemberStatus, &there)
	if err == nil && there.Member != string(s.ID) {
		err = fail.New(fail.Retry, "ask", "member "+string(s.ID), "another member answers at "+string(s.Address))
	}
	if err == nil && there.Level < level {
		err = fail.New(fail.Retry, "ask", "member "+string(s.Address), fmt.Sprintf("its release, %s, knows level %d", there.Version, there.Level))
	}
	return err
}

// tooOld refuses a member whose release does not know all that the journal's log may hold.
func (j *Journal) tooOld(r *change.Join) error {
	level := j.level()
	if r.Level >= level {
		return nil
	}
	return fail.New(fail.Refused, "join", r.Address, fmt.Sprintf("its release knows feature level %d, the journal has %d", r.Level, level)).
		WithHint("install the release that the other members have: pollux journal ls")
}

// settleEvery is how often a leader of several members looks whether it can do more.
const settleEvery = 2 * time.Second
