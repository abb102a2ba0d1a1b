package twin

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/state"
)

// view returns the part of the log between a mark of the catalog and the next one; the
// last one's is l itself. It is read once.
func (l *Log) view(ctx context.Context, mark int) (*Log, error) {
	if mark == l.readPoint {
		return l, nil
	}
	if w := l.viewRead(mark); w != nil {
		return w, nil
	}
	return l.reads.Do(ctx, mark, func() (*Log, error) {
		if w := l.viewRead(mark); w != nil {
			return w, nil
		}
		w, err := l.readView(ctx, mark)
		if err == nil { // an error may pass
			l.mu.Lock()
			l.views[mark] = w
			l.mu.Unlock()
		}
		return w, err
	})
}

// viewRead is a view that was read before, or nil.
func (l *Log) viewRead(mark int) *Log {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.views[mark]
}

// ahead reads views side by side that are going to be asked for one after another. What
// fails is told to who asks.
func (l *Log) ahead(ctx context.Context, marks []int) {
	marks = slices.DeleteFunc(marks, func(mark int) bool { return mark < 0 || mark == l.readPoint })
	slices.Sort(marks)
	marks = slices.Compact(marks)
	for _, mark := range l.unread(marks) {
		l.reading.expect(mark, l.Catalog.ReadPoints[mark+1].Position-l.Catalog.ReadPoints[mark].Position)
		defer l.reading.over(mark) // also where the context ends before its turn
	}
	_ = parallel(ctx, len(marks), func(ctx context.Context, i int) error {
		_, _ = l.view(ctx, marks[i])
		return nil
	})
}

// unread are those of some marks whose views nobody has begun to read.
func (l *Log) unread(marks []int) []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(marks), func(mark int) bool { return l.views[mark] != nil })
}

func (l *Log) readView(ctx context.Context, mark int) (*Log, error) {
	from, to := &l.Catalog.ReadPoints[mark], &l.Catalog.ReadPoints[mark+1]
	w := &Log{store: l.store, Identity: l.Identity, State: l.State, Catalog: l.Catalog,
		Frames: map[change.StreamID][]FrameRef{},
		moves:  l.moves, reading: l.reading, readPoint: mark, next: from.Index + 1, token: from.Token, Epoch: l.Epoch,
		End: to.Position}
	there, err := positions(ctx, l.store, from.Position, to.Position)
	if err == nil {
		there, err = whole(ctx, l.store, there, from.Position, to.Position)
	}
	if err != nil {
		return nil, err
	}
	if n := uint64(contiguous(there, from.Position)); from.Position+n < to.Position {
		return nil, fail.New(fail.Damaged, "open", l.at(from.Position+n), "the object is missing").
			WithHint("an object of the log was deleted; restore it from a version or replica of the bucket. Points " +
				"that do not need it can be restored")
	}
	footers, err := w.footers(ctx, there, nil)
	if err == nil {
		err = w.order(ctx, footers, nil)
	}
	if err != nil {
		return nil, err
	}
	w.index()
	if w.Damage == nil && w.next != to.Index+1 {
		w.Damage = l.damaged(to.Position, "the log reaches journal index %d here, its catalog says %d",
			w.next-1, to.Index)
	}
	if w.Damage != nil {
		return nil, w.Damage
	}
	l.reading.Cache.trim()
	return w, nil
}

// viewAt returns the part of the log in which a stream's LSN lies. It is nil where that
// is gone; then the LSN is a point only if it is retained.
func (l *Log) viewAt(ctx context.Context, id change.StreamID, lsn uint64) (*Log, error) {
	mark := l.markAt(id, lsn)
	if mark == notRetained {
		return nil, nil
	}
	return l.view(ctx, mark)
}

// frameWith is the frame of a stream in which an LSN lies, or behind it where none has it; ok is false where
// that is gone, or the log ends before.
func (l *Log) frameWith(ctx context.Context, id change.StreamID, lsn uint64) (ref FrameRef, ok bool, err error) {
	w, err := l.viewAt(ctx, id, lsn)
	if err != nil || w == nil {
		return ref, false, err
	}
	f := w.Frames[id]
	n := sort.Search(len(f), func(i int) bool { return f[i].entry().LastLSN >= lsn })
	if n == len(f) {
		return ref, false, nil
	}
	return f[n], true, nil
}

// notRetained is the mark of what is no longer in the log.
const notRetained = -2

// markAt returns the mark of the part of the log in which a stream's LSN lies.
func (l *Log) markAt(id change.StreamID, lsn uint64) int {
	if l.Catalog == nil || lsn == 0 || lsn > l.start(id).LSN {
		return l.readPoint
	}
	mark := l.Catalog.ReadPointBefore(id, lsn)
	if first, cut := l.first(id); mark < 0 || (cut && lsn < first.LSN) {
		return notRetained
	}
	return mark
}

// first returns the retained point from which on a stream's frames are all there; cut is
// false where they are from the beginning. Frames between the floor and it are of no
// use: what they build on is gone.
func (l *Log) first(id change.StreamID) (k catalog.RetainedPoint, cut bool) {
	floor := l.Catalog.PointAt(0, id).LSN
	if s := l.Catalog.Streams[id]; floor > 0 && s != nil {
		if n := sort.Search(len(s.Retained), func(i int) bool {
			return s.Retained[i].LSN >= floor
		}); n < len(s.Retained) {
			return s.Retained[n], true
		}
	}
	return k, false
}

// viewAtTime returns the part of the log in which the last frame of a stream that ends
// at or before t lies, or after which it comes; nil where that is gone.
func (l *Log) viewAtTime(ctx context.Context, id change.StreamID, t time.Time) (*Log, error) {
	if l.Catalog == nil {
		return l, nil
	}
	mark := l.Catalog.ReadPointBeforeTime(id, t)
	if first, cut := l.first(id); mark < 0 || (cut && t.UnixNano() < first.Time) {
		return nil, nil
	}
	return l.view(ctx, mark)
}

// retainedAt returns the retained point at an LSN: for it nothing older is read.
func (l *Log) retainedAt(id change.StreamID, lsn uint64) (catalog.RetainedPoint, bool) {
	if l.Catalog == nil {
		return catalog.RetainedPoint{}, false
	}
	k, ok := l.Catalog.RetainedAt(id, lsn)
	return k, ok && k.LSN == lsn
}

// retainedBefore returns the newest retained point of a stream at or before t, and the next
// one.
func (l *Log) retainedBefore(id change.StreamID, t time.Time) (at catalog.RetainedPoint, next uint64, ok bool) {
	if s := l.Catalog.Streams[id]; s != nil {
		n := sort.Search(len(s.Retained), func(i int) bool { return s.Retained[i].Time > t.UnixNano() })
		if n < len(s.Retained) {
			next = s.Retained[n].LSN
		}
		if n > 0 {
			return s.Retained[n-1], next, true
		}
	}
	return at, next, false
}

// frames returns a stream's frames that hold LSNs behind `after` up to `through`, and
// the hash of what the first one follows.
func (l *Log) frames(ctx context.Context, id change.StreamID, after, through uint64) (
	out []FrameRef, prev change.Hash, err error) {
	mark := l.readPoint
	if l.Catalog != nil && after < l.start(id).LSN {
		if mark = l.Catalog.ReadPointBefore(id, after+1); mark < 0 {
			return nil, prev, fail.New(fail.NotFound, "read", "stream "+id.String(),
				fmt.Sprintf("what was written behind LSN %d is not kept any more", after))
		}
	}
	marks := l.moving(id, mark, through)
	l.ahead(ctx, slices.Clone(marks))
	for _, mark := range marks {
		w, err := l.view(ctx, mark)
		if err != nil {
			return nil, prev, err
		}
		f := w.Frames[id]
		n := sort.Search(len(f), func(i int) bool { return f[i].entry().LastLSN > after })
		end := sort.Search(len(f), func(i int) bool { return f[i].entry().FirstLSN > through })
		if len(out) == 0 {
			prev = w.start(id).Hash
			if n > 0 {
				prev = f[n-1].entry().Hash
			}
		}
		if n < end {
			out = append(out, f[n:end]...)
		}
		if end < len(f) {
			break
		}
	}
	return out, prev, nil
}

// moving returns the marks from one on behind which a stream moved, as far as an LSN.
func (l *Log) moving(id change.StreamID, mark int, through uint64) (out []int) {
	for ; mark < l.readPoint; mark++ {
		if at := l.Catalog.PointAt(mark, id); at.LSN >= through && len(out) > 0 {
			return out
		} else if at != l.Catalog.PointAt(mark+1, id) {
			out = append(out, mark)
		}
	}
	return append(out, l.readPoint)
}

// timeOf is when the frame ended in which an LSN lies.
func (l *Log) timeOf(ctx context.Context, v *state.Volume, lsn uint64) time.Time {
	if at := l.When(ctx, v.Stream, lsn); at.Time != 0 {
		return time.Unix(0, at.Time)
	}
	return v.Created
}

// When is an LSN with the times of the frame in which it lies, 0 where it is not known, and the
// frame's hash where it ends there.
func (l *Log) When(ctx context.Context, id change.StreamID, lsn uint64) catalog.At {
	at := catalog.At{Point: change.Point{LSN: lsn}}
	if lsn == 0 {
		return at
	}
	if k, ok := l.retainedAt(id, lsn); ok {
		return k.At
	}
	if f, ok, _ := l.frameWith(ctx, id, lsn); ok {
		e := f.entry()
		if at.Time, at.Written = e.LastTime, f.Object.Time; e.LastLSN == lsn {
			at.Hash = e.Hash
		}
		return at
	}
	if l.Catalog != nil {
		if k, ok := l.Catalog.RetainedAt(id, lsn); ok {
			at.Time, at.Written = k.Time, k.Written
		}
	}
	return at
}

// ReadPoint is where the log ends, to be read on from there.
func (l *Log) ReadPoint(now time.Time) catalog.ReadPoint {
	m := catalog.ReadPoint{Position: l.End, Index: l.next - 1, Token: l.token, Durable: l.durable, ChecksTail: l.checks,
		Time: now.UTC(), Streams: map[change.StreamID]catalog.At{}}
	for id, f := range l.Frames {
		if n := len(f); n > 0 {
			e := f[n-1].entry()
			m.Streams[id] = catalog.At{Point: change.Point{LSN: e.LastLSN, Hash: e.Hash}, Time: e.LastTime,
				Written: f[n-1].Object.Time}
		}
	}
	return m
}

// Fences are those behind the catalog.
func (l *Log) Fences() []catalog.Fence { return l.fences }

// LastTime is when the newest object of the log was written, by the journal's clock.
func (l *Log) LastTime(ctx context.Context) (time.Time, error) {
	if n := len(l.Objects); n > 0 && l.Objects[n-1].Position == l.End-1 {
		return time.Unix(0, l.Objects[n-1].Time), nil
	}
	x, err := objlog.ReadIndex(ctx, l.store, l.End-1)
	if err != nil {
		return time.Time{}, err
	}
	return time.Unix(0, x.Time), nil
}

// Consistent reports whether an LSN behind the catalog is a recovery point.
func (l *Log) Consistent(ctx context.Context, id change.StreamID, lsn uint64) bool {
	if st := l.State.Streams[id]; st != nil && lsn <= st.Forgotten {
		_, ok := l.retainedAt(id, lsn)
		return ok
	}
	_, _, exact, err := l.exact(ctx, id, lsn)
	return err == nil && exact && l.resyncing(id, lsn) == nil
}

// IsBranch reports whether a catalog is not used because a fence went back behind it,
// rather than for damage.
func IsBranch(err error) bool { return err == errBranch }
