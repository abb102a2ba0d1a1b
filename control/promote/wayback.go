package promote

import (
	"context"
	"fmt"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/journal"
	"github.com/pollux-dr/pollux/replicator/state"
)

// A hand-over that was taken up leaves a way back: a bookmark in each group at exactly its point, and
// what the journal's state says of it. One that goes back leaves a bookmark at the last point before,
// and nothing else: what was written until then stays in the log.

// levelLimit is how long the new seat may take to bring the journal to the feature level of a way
// back, where the former one had not.
const levelLimit = 5 * time.Second

// keepHandOver sets the bookmarks of a hand-over that is taken up, and opens the way back.
func (r *run) keepHandOver(ctx context.Context, j *journal.Journal) error {
	in := r.intent
	if in.HandOver == nil {
		return nil
	}
	points := map[change.StreamID]uint64{}
	for _, st := range r.streams() {
		if b := in.Points[st.ID]; !in.HandOver.goesBack() || b.back() {
			points[st.ID] = b.Head.LSN
		}
	}
	base := fmt.Sprintf("handover-%d", in.Token.Epoch)
	if in.HandOver.goesBack() {
		base = fmt.Sprintf("before-rollback-%d", in.Token.Epoch)
	}
	name, err := r.bookmarkAll(j, base, points)
	if err != nil || in.HandOver.goesBack() {
		return err
	}
	return r.openWayBack(ctx, j, name, points)
}

// bookmarkAll sets a bookmark in the group of each stream, of one name that nobody else has used. A
// point that a retention has let go of cannot have one.
func (r *run) bookmarkAll(j *journal.Journal, name string, points map[change.StreamID]uint64) (string, error) {
	streams := r.streams()
	free := true
	j.View(func(s *state.State) {
		for _, st := range streams {
			b := s.Bookmarks[st.Group+"/"+name]
			free = free && (b == nil || b.Epoch == r.intent.Token.Epoch && b.LSN == points[st.ID])
		}
	})
	if !free { // somebody's own
		name += "-" + r.intent.ID.String()[:8]
	}
	for _, st := range streams {
		lsn, wanted := points[st.ID]
		if !wanted {
			continue
		}
		if !r.kept(st, lsn) {
			r.Tell(fmt.Sprintf("group %s was not written to for so long that no bookmark can keep LSN %d: its "+
				"retention does, for as long as it says", st.Group, lsn))
			continue
		}
		_, err := j.Propose(state.KindBookmarkAdd, state.Bookmark{Name: name, Group: st.Group, Stream: st.ID, LSN: lsn,
			Epoch: r.intent.Token.Epoch, Time: clock.Now().UTC()})
		if err != nil && !fail.Is(err, fail.Exists) { // an earlier run had set it
			return "", fail.At("keep the point of", "group "+st.Group, err)
		}
		if err := r.done("keep " + st.Group); err != nil {
			return "", err
		}
	}
	return name, nil
}

func (r *run) openWayBack(ctx context.Context, j *journal.Journal, name string,
	points map[change.StreamID]uint64) error {
	if !awaitLevel(ctx, j, state.LevelOf(state.KindWayBack)) {
		r.Tell("the journal's feature level knows no way back: pollux failover --rollback is not possible")
		return nil
	}
	in, host := r.intent, ""
	for _, st := range r.streams() {
		host = st.Agent // of the log, which was the former seat's
	}
	_, err := j.Propose(state.KindWayBack, state.WayBack{Step: state.WayBackOpen, Epoch: in.Token.Epoch,
		To: in.FromSite, Host: host, Bookmark: name, Points: points, Time: clock.Now().UTC()})
	if fail.Is(err, fail.Exists) {
		return nil
	}
	return err
}

// awaitLevel waits a little until the journal has a feature level.
func awaitLevel(ctx context.Context, j *journal.Journal, level int) bool {
	ctx, cancel := context.WithTimeout(ctx, levelLimit)
	defer cancel()
	for {
		changed := j.Changed()
		has := 0
		if j.View(func(s *state.State) { has = s.Level }); has >= level {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}
