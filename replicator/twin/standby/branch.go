package standby

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// begin makes the first cursor: at the end of the log, with no volume yet.
func (s *Standby) begin(ctx context.Context) error { return s.rebase(ctx) }

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
	return true, s.rebaseLocked(ctx, true, position+1)
}

// footers is how many are read at once.
const footers = 16

// branches are what fences have cut off of what was taken.
type branches struct {
	dead   deadRange                        // but for At
	points map[change.StreamID]change.Point // where the streams go on
}

// cutOff looks at all fences from the cursor's position up to another: the standby goes on behind all of
// them, and a later one may go back further than the first (two failovers while it was away).
func (s *Standby) cutOff(ctx context.Context, to uint64) (out branches, err error) {
	from := s.cur.Position
	rules := objlog.Rules{Journal: s.cur.Journal, Token: s.cur.Token, Next: s.cur.Index}
	lowest, fence := rules.Next, from
	for at := from; at < to; at += footers {
		all, err := s.footers(ctx, at, min(at+footers, to))
		if fail.Is(err, fail.NotFound) { // freed: it cannot be traced
			return branches{dead: deadRange{From: at, To: to, Index: 1}}, nil
		}
		if err != nil {
			return out, err
		}
		for _, x := range all {
			next := rules.Next
			valid, err := rules.Judge(x)
			if err != nil {
				return out, errDamaged(s.o.Store.URL(), x.Position, "%v", err)
			}
			if !valid || x.Type != segment.Fence || x.FirstIndex >= next {
				continue
			}
			out.dead.To = x.Position
			if x.FirstIndex < lowest {
				lowest, fence = x.FirstIndex, x.Position
			}
		}
	}
	out.dead.From, out.dead.Index = s.cur.before(lowest), lowest
	doc, err := objlog.ReadFence(ctx, s.o.Store, fence)
	if err == nil {
		out.points = doc.Streams
	}
	return out, err
}

// footers reads those of the objects at [from, to).
func (s *Standby) footers(ctx context.Context, from, to uint64) ([]*segment.Index, error) {
	all := make([]*segment.Index, to-from)
	g, ctx := errgroup.WithContext(ctx)
	for i := range all {
		g.Go(func() (err error) {
			all[i], err = objlog.ReadIndex(ctx, s.o.Store, from+uint64(i))
			return err
		})
	}
	return all, g.Wait()
}

// rebase puts the cursor to the end of the log, as far as that is read through the newest
// catalog, with the control state there. The images stay where they are; they are brought to
// the new point by what differs.
func (s *Standby) rebase(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	least := uint64(0)
	if s.cur != nil {
		least = s.cur.Position
	}
	return s.rebaseLocked(ctx, false, least)
}

// rebaseLocked is rebase with mu held; back is that a fence which goes back comes next. A log that ends
// before a position was listed too early.
func (s *Standby) rebaseLocked(ctx context.Context, back bool, least uint64) error {
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
		if err := s.takeOver(ctx, l, c, back); err != nil {
			return err
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

// takeOver takes into a new cursor, at the end of a log, what the present one says of the images.
func (s *Standby) takeOver(ctx context.Context, l *twin.Log, c *cursor, back bool) error {
	old := s.cur.clone()
	for _, id := range sortedStreams(old.Streams) {
		old.demote(id, old.Streams[id].Applied)
	}
	c.Volumes, c.Samples = old.Volumes, old.Samples
	if !back {
		return s.forgetCutOff(ctx, l, c)
	}
	cut, err := s.cutOff(ctx, c.Position)
	if err != nil {
		return err
	}
	for _, v := range c.Volumes {
		if v.Image || v.Begun { // one that is being copied is of the log as it was
			d := cut.dead
			d.At = cut.points[v.Stream]
			v.Dead = append(v.Dead, d)
		}
	}
	c.Samples = slices.DeleteFunc(c.Samples, func(s sample) bool { return s.Index > cut.dead.Index })
	return nil
}

// forgetCutOff gives up images that hold what a fence has cut off at positions that were passed over: a
// later fence that goes back would be taken for the one that did.
func (s *Standby) forgetCutOff(ctx context.Context, l *twin.Log, c *cursor) error {
	for name, v := range c.Volumes {
		if !v.Image || v.High > l.EndOf(v.Stream).LSN && (v.End == 0 || l.End < v.End) { // what it has may come yet
			continue
		}
		hash, known, err := l.HashAt(ctx, v.Stream, v.High)
		switch {
		case fail.Is(err, fail.Damaged) || known && hash == v.Hash: // damage is the volume's own matter
			continue
		case err != nil:
			return err
		}
		s.o.Logger.Warn("a volume is copied anew: what its image has is not in the log any more", "volume", name,
			"lsn", v.High)
		v.Image, v.Dead = false, nil
	}
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
