package standby

import (
	"context"
	"fmt"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// begin makes the first cursor: at the end of the log, with no volume yet.
func (s *Standby) begin(ctx context.Context) error { return s.rebase(ctx, nil) }

// goBack deals with the fence that comes next, behind which an earlier journal index follows
// than was taken: what lies between is a dead branch. Called with mu held.
func (s *Standby) goBack(ctx context.Context) (bool, error) {
	position := s.cur.Position
	o, err := s.object(ctx, position)
	if err != nil {
		return false, err
	}
	s.o.Logger.Info("a fence goes back behind what was taken", "position", position, "index", o.FirstIndex,
		"taken", s.cur.Index, "token", o.Token)
	dead := &deadRange{From: s.cur.before(o.FirstIndex), To: position, Index: o.FirstIndex}
	return true, s.rebaseLocked(ctx, dead, position+1)
}

// rebase puts the cursor to the end of the log, as far as that is read through the newest
// catalog, with the control state there. The images stay where they are; they are brought to
// the new point by what differs.
func (s *Standby) rebase(ctx context.Context, dead *deadRange) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	least := uint64(0)
	if s.cur != nil {
		least = s.cur.Position
	}
	return s.rebaseLocked(ctx, dead, least)
}

// rebaseLocked is rebase with mu held. A log that ends before a position was listed too early.
func (s *Standby) rebaseLocked(ctx context.Context, dead *deadRange, least uint64) error {
	l, err := twin.Open(ctx, s.o.Store, nil)
	if err != nil {
		return err
	}
	end := l.ReadPoint(s.o.Now())
	switch {
	case l.Damage != nil:
		return l.Damage
	case end.Position < least:
		return fail.New(fail.Retry, "follow", s.o.Store.URL(),
			fmt.Sprintf("the store lists positions up to %d, and %d was there", end.Position, least))
	case s.cur != nil && l.Identity.Journal != s.cur.Journal:
		return fail.New(fail.Refused, "follow", s.o.Store.URL(),
			fmt.Sprintf("it is the log of journal %s, and this standby follows %s", l.Identity.Journal, s.cur.Journal)).
			WithHint("correct the target, or give this standby another state directory")
	}
	c := &cursor{Journal: l.Identity.Journal, Position: end.Position, Index: end.Index + 1, Token: end.Token,
		Time: s.o.Now().UnixNano(), Streams: map[change.StreamID]*streamCursor{}, Volumes: map[string]*volumeCursor{}}
	if when, err := l.LastTime(ctx); err == nil {
		c.Time = when.UnixNano()
	}
	for id, st := range l.State.Streams {
		if c.Streams[id], err = pointOf(ctx, l, id, st); err != nil {
			return err
		}
	}
	if s.cur != nil {
		old := s.cur.clone()
		for _, id := range sortedStreams(old.Streams) {
			old.demote(id, old.Streams[id].Applied)
		}
		c.Volumes = old.Volumes
		for _, v := range c.Volumes {
			if dead != nil && v.Image {
				v.Dead = append(v.Dead, *dead)
			}
		}
	}
	c.sample()
	s.state = l.State
	s.wantIn(c)
	for name := range s.files {
		s.closeFile(name)
	}
	if err := s.save(c, true); err != nil {
		if s.cur != nil {
			_ = s.rollBack() // the error is told
		}
		return err
	}
	s.resume()
	s.seen = s.o.Now()
	s.publish()
	s.wakeCopier()
	return nil
}

// pointOf is where a stream stands at the end of a log: at its newest consistent point, with
// what lies behind that not staged.
func pointOf(ctx context.Context, l *twin.Log, id change.StreamID, st *state.Stream) (*streamCursor, error) {
	end := l.EndOf(id)
	sc := &streamCursor{Tail: end.Point, Applied: end.Point, Time: end.Time, Written: end.Written}
	if err := l.Broken[id]; err != nil {
		sc.Broken = err.Error()
	}
	if st.Consistent(end.LSN) {
		return sc, nil
	}
	after := st.Resyncs[len(st.Resyncs)-1].After
	hash, known, err := l.HashAt(ctx, id, after)
	if err != nil {
		return nil, err
	}
	at := l.When(ctx, id, after)
	sc.Applied, sc.Time, sc.Written, sc.LetGo = change.Point{LSN: after}, at.Time, at.Written, true
	if known {
		sc.Applied.Hash = hash
	}
	return sc, nil
}
