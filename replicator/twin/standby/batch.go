package standby

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/state"
)

// batchBytes is how much, decompressed, is applied between two syncs of the images, but for one object.
const batchBytes = 64 << 20

// batch is a run of objects that are taken and applied together.
type batch struct {
	s     *Standby
	c     *cursor // where it leads
	bytes int64
	// entries are, per stream, what may be applied by now, oldest first: held ones before.
	entries map[change.StreamID][]entryRef
	changed bool // the control state has

	recent *object // the last that was asked for
}

// entryRef is a frame or fold in a staged object.
type entryRef struct {
	position uint64
	entry    int    // of the object's
	index    uint64 // its journal index
	at       change.Point
	time     int64
	written  int64
}

// errGoesBack is of a fence behind which an earlier journal index follows.
var errGoesBack = errors.New("a fence goes back")

// applyDue takes and applies what is staged below a position and was written by a time. some
// is that it did.
func (s *Standby) applyDue(ctx context.Context, end uint64, due time.Time) (some bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	end = min(end, s.fetched)
	b := &batch{s: s, c: s.cur.clone(), entries: map[change.StreamID][]entryRef{}}
	for p := s.cur.Position; p < end && err == nil; p++ {
		if p >= s.cur.Through { // else it may be in the images by now: no point before it is one
			when, werr := s.stage.when(p)
			if werr == nil && (time.Unix(0, when).After(due) && s.o.Delay > 0 || b.bytes >= batchBytes) {
				break
			}
		}
		if err = b.next(ctx, p); err != nil && p > s.cur.Position && p >= s.cur.Through {
			b, err = s.redo(ctx, p) // what lies before it stands
			break
		}
	}
	if errors.Is(err, errGoesBack) {
		return s.goBack(ctx)
	}
	if err == nil && b.c.Position == s.cur.Position {
		return false, nil
	}
	if err == nil {
		err = b.commit(ctx)
	}
	var bad *badEntry
	if errors.As(err, &bad) && bad.position > s.cur.Position && bad.position >= s.cur.Through {
		// What lies before it stands.
		if b, err = s.redo(ctx, bad.position); err == nil {
			err = b.commit(ctx)
		}
	}
	if err != nil {
		return false, errors.Join(err, s.rollBack())
	}
	s.stage.drop(s.cur.Position, s.held())
	s.publish()
	s.wakeCopier()
	return true, nil
}

// badEntry is of an entry that cannot be opened, though its bytes are those that were written.
type badEntry struct {
	position uint64
	error
}

func (e *badEntry) Unwrap() error { return e.error }

// redo makes the batch anew that ends before a position.
func (s *Standby) redo(ctx context.Context, end uint64) (*batch, error) {
	if err := s.rollBack(); err != nil {
		return nil, err
	}
	b := &batch{s: s, c: s.cur.clone(), entries: map[change.StreamID][]entryRef{}}
	for p := s.cur.Position; p < end; p++ {
		if err := b.next(ctx, p); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// rollBack puts the control state back to the cursor.
func (s *Standby) rollBack() (err error) {
	st, err := loadState(s.o.FS, s.o.FS.PathJoin(s.o.Dir, s.cur.State))
	if err == nil {
		s.state = st
	}
	return err
}

func (b *batch) next(ctx context.Context, position uint64) error {
	o, err := b.object(ctx, position)
	if err != nil {
		return err
	}
	b.bytes += max(o.plain, int64(len(o.raw)))
	return b.take(o)
}

// object is the standby's. Entries come object by object: each is opened once for all of its own.
func (b *batch) object(ctx context.Context, position uint64) (o *object, err error) {
	if b.recent == nil || b.recent.Position != position {
		if o, err = b.s.object(ctx, position); err != nil {
			return nil, err
		}
		b.recent = o
	}
	return b.recent, nil
}

// take judges an object, replays its commands and checks that its frames go on. Nothing of it
// is applied.
func (b *batch) take(o *object) error {
	c, url := b.c, b.s.o.Store.URL()
	r := objlog.Rules{Journal: c.Journal, Token: c.Token, Next: c.Index}
	valid, err := r.Judge(o.Index)
	if err != nil {
		return errDamaged(url, o.Position, "%v", err)
	}
	if valid && o.Type == segment.Fence && o.FirstIndex < c.Index {
		return errGoesBack
	}
	if valid && o.Type == segment.Segment {
		for i := range o.Entries {
			if err := b.entry(o, i); err != nil {
				return fail.At("follow", url+"/"+objlog.ObjectName(o.Position), err)
			}
		}
	}
	if valid {
		c.Time = o.Time
	}
	c.Index, c.Token, c.Position = r.Next, r.Token, o.Position+1
	c.sample()
	return nil
}

func (b *batch) entry(o *object, i int) error {
	e := &o.Entries[i]
	if !e.OfStream() {
		if e.Command == state.KindHeartbeat {
			return nil
		}
		b.changed = true
		return objlog.Replay(b.s.state, o.commands[i].kind, o.commands[i].json)
	}
	sc, st := b.c.stream(e.Stream), b.s.state.Streams[e.Stream]
	if sc.Broken != "" {
		return nil
	}
	if why := follows(sc, st, e, o.prev[i]); why != "" { // it costs this stream what follows, and no other
		sc.Broken = errDamaged(b.s.o.Store.URL(), o.Position, "at byte %d: %s", e.Offset, why).Error()
		b.s.o.Logger.Error("a stream cannot go on", "stream", e.Stream, "err", sc.Broken)
		return nil
	}
	sc.Tail = change.Point{LSN: e.LastLSN, Hash: e.Hash}
	b.entries[e.Stream] = append(b.entries[e.Stream],
		entryRef{o.Position, i, e.Index, sc.Tail, e.LastTime, o.Time})
	return nil
}

// follows says why an entry does not go on from where its stream is, "" where it does.
func follows(sc *streamCursor, st *state.Stream, e *segment.Entry, prev change.Hash) string {
	at := sc.Tail
	if st == nil {
		return fmt.Sprintf("stream %s is not known", e.Stream)
	}
	if g := st.GapBefore(e.FirstLSN); g != nil && (g.From == at || g.From.LSN == at.LSN) {
		at = g.To
	} else if st.ForgotGapBefore(e.FirstLSN) && e.FirstLSN > at.LSN {
		return ""
	}
	if e.FirstLSN != at.LSN+1 {
		return fmt.Sprintf("stream %s goes from LSN %d to %d", e.Stream, at.LSN, e.FirstLSN)
	}
	if prev != at.Hash {
		return fmt.Sprintf("the frame at LSN %d of stream %s follows hash %s, but the one before it is %s",
			e.FirstLSN, e.Stream, prev, at.Hash)
	}
	return ""
}

// commit applies what can be, and makes the cursor durable behind it.
func (b *batch) commit(ctx context.Context) error {
	todo := map[change.StreamID][]entryRef{}
	for id, sc := range b.c.Streams {
		if len(b.entries[id]) == 0 && (!b.changed || len(sc.Held) == 0 && !sc.LetGo) {
			continue
		}
		now, err := b.split(ctx, id, sc)
		if err != nil {
			return err
		}
		if len(now) > 0 {
			todo[id] = now
		}
	}
	if err := b.letGo(); err != nil {
		return err
	}
	if err := b.write(ctx, todo); err != nil {
		return err
	}
	if b.changed {
		b.s.wantIn(b.c)
	}
	return b.s.save(b.c, b.changed)
}

// split decides what of a stream's entries is applied now: all up to the newest that ends at a
// consistent point. It moves the stream's point there, and holds the rest.
func (b *batch) split(ctx context.Context, id change.StreamID, sc *streamCursor) ([]entryRef, error) {
	st := b.s.state.Streams[id]
	fresh := b.entries[id]
	if sc.LetGo || !b.c.follows(id) {
		n := len(fresh)
		behind := n > 0 || sc.LetGo || len(sc.Held) > 0 // of the tail
		switch {
		case !st.Consistent(sc.Tail.LSN):
			sc.LetGo, sc.Held = behind, nil
		case behind:
			b.c.demote(id, sc.Applied)
			sc.LetGo, sc.Applied, sc.Held = false, sc.Tail, nil
			if n > 0 {
				sc.Time, sc.Written = fresh[n-1].time, fresh[n-1].written
			}
		}
		return nil, nil
	}
	held, err := b.expand(ctx, id, sc.Held)
	if err != nil {
		return nil, err
	}
	all := append(held, fresh...)
	n := len(all)
	for n > 0 && !st.Consistent(all[n-1].at.LSN) {
		n--
	}
	sc.Held = nil
	for _, e := range all[n:] {
		if k := len(sc.Held) - 1; k >= 0 && sc.Held[k].Position == e.position {
			sc.Held[k].Last = e.index
			continue
		}
		sc.Held = append(sc.Held, piece{e.position, e.index, e.index})
	}
	if n > 0 {
		last := &all[n-1]
		sc.Applied, sc.Time, sc.Written = last.at, last.time, last.written
	}
	return all[:n], nil
}

// expand lists the entries of pieces.
func (b *batch) expand(ctx context.Context, id change.StreamID, pieces []piece) (out []entryRef, err error) {
	for _, p := range pieces {
		o, err := b.object(ctx, p.Position)
		if err != nil {
			return nil, err
		}
		for i := range o.Entries {
			if e := &o.Entries[i]; e.OfStream() && e.Stream == id && e.Index >= p.First && e.Index <= p.Last {
				at := change.Point{LSN: e.LastLSN, Hash: e.Hash}
				out = append(out, entryRef{p.Position, i, e.Index, at, e.LastTime, o.Time})
			}
		}
	}
	return out, nil
}

// letGo gives up what is held where that takes half of the budget: the stream's volumes are
// made good from the store when the resync has ended.
func (b *batch) letGo() error {
	held := int64(0)
	for _, sc := range b.c.Streams {
		for _, p := range sc.Held {
			held += b.s.stage.size(p.Position)
		}
	}
	if held <= b.s.o.StageBytes/2 {
		return nil
	}
	for id, sc := range b.c.Streams {
		if len(sc.Held) > 0 {
			b.s.o.Logger.Info("more is staged of a resync than there is room for: it is read again at its end",
				"stream", id, "bytes", held)
			sc.Held, sc.LetGo = nil, true
		}
	}
	return nil
}

// follows reports whether any volume of a stream does.
func (c *cursor) follows(id change.StreamID) bool {
	for _, v := range c.Volumes {
		if v.Stream == id && v.Following {
			return true
		}
	}
	return false
}

// demote ends the following of a stream's volumes, which hold a point.
func (c *cursor) demote(id change.StreamID, at change.Point) {
	for _, v := range c.Volumes {
		if v.Stream == id && v.Following {
			v.Following, v.Low, v.High, v.Hash, v.End = false, at.LSN, at.LSN, at.Hash, c.Position
		}
	}
}

// numbers are the volumes of a stream that follow, by number.
func (c *cursor) numbers(id change.StreamID) map[uint32]string {
	out := map[uint32]string{}
	for name, v := range c.Volumes {
		if v.Stream == id && v.Following {
			out[v.Number] = name
		}
	}
	return out
}

// sortedStreams are those of a map, in a fixed order.
func sortedStreams[T any](m map[change.StreamID]T) []change.StreamID {
	out := make([]change.StreamID, 0, len(m))
	for id := range m {
		out = append(out, id)
	}
	slices.SortFunc(out, func(a, b change.StreamID) int { return slices.Compare(a[:], b[:]) })
	return out
}
