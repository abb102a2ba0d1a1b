package twin

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin/extentmap"
)

// Image is what a volume holds at a point: its map, and the way to its blocks.
// Several goroutines may use it.
type Image struct {
	Map   *extentmap.Map
	Point Point
	dir   string
	// hash is of the frame in which the point lies; unset where that is not known. Another one there
	// is of another history.
	hash change.Hash

	mu    sync.Mutex
	log   *Log
	close []*extentmap.Sorter // of this and earlier maps
}

func (m *Image) from() *Log {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.log
}

// Catalog is the number of the catalog through which the point was found; 0 is none.
func (m *Image) Catalog() uint64 { return m.from().catalogNumber() }

// Hash is of the frame in which the point lies, unset where that is not known.
func (m *Image) Hash() change.Hash { return m.hash }

// Close forgets the map.
func (m *Image) Close() (err error) {
	for _, s := range m.close {
		err = errors.Join(err, s.Close())
	}
	return err
}

// Refresh finds the point anew through a newer catalog than `seen`, after an object was
// not found by that: garbage collection may have moved what is needed of it, or merged
// the layers. Errors: cause where there is no newer one, fail.NotFound where the point
// is not kept any more.
func (m *Image) Refresh(ctx context.Context, seen uint64, cause error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.log.catalogNumber() > seen {
		return nil // somebody else did
	}
	l, err := Open(ctx, m.log.store, nil)
	if fail.Is(err, fail.NotFound) { // not one object: all of the log is away, as a bucket that is not mounted
		return &fail.Error{Kind: fail.Retry, Op: "read", Object: m.log.store.URL(), Err: err, Hint: fail.HintOf(err)}
	}
	if err != nil {
		return err
	}
	if l.catalogNumber() <= seen {
		return gone(cause)
	}
	if _, _, exact, err := l.exact(ctx, m.Point.Volume.Stream, m.Point.LSN); err != nil || !exact {
		return errors.Join(err, fail.New(fail.NotFound, "read",
			fmt.Sprintf("volume %s at LSN %d", m.Point.Volume.Name, m.Point.LSN), "the point is not kept any more").
			WithHint("the group's retention let go of it; choose another point, or keep one by a bookmark"))
	}
	fresh, err := l.Image(ctx, m.Point, m.dir)
	if err != nil {
		return err
	}
	if none := (change.Hash{}); m.hash != none && fresh.hash != none && m.hash != fresh.hash {
		return errors.Join(fresh.Close(), fail.New(fail.NotFound, "read",
			fmt.Sprintf("volume %s at LSN %d", m.Point.Volume.Name, m.Point.LSN),
			"a fence has cut the point off, and the log has another history there").
			WithHint("the journal went on elsewhere from before this point; choose a point that it has"))
	}
	m.close = append(m.close, fresh.close...)
	m.Map.Replace(fresh.Map)
	m.log = l
	return nil
}

// gone says that what a map refers to is not there, which is damage.
func gone(cause error) error {
	hint := fail.HintOf(cause)
	if hint == "" {
		hint = "an object is missing: bring it back from a version or replica of the bucket (in a bucket with " +
			"versions, delete the marker that hides it); pollux verify names all that is damaged"
	}
	return &fail.Error{Kind: fail.Damaged, Op: "read", Object: "the twin", Err: cause, Hint: hint}
}

// Current calls f, and again through a newer catalog as long as f does not find what
// garbage collection has moved.
func (m *Image) Current(ctx context.Context, f func() error) error {
	for {
		seen := m.Catalog()
		err := f()
		if !fail.Is(err, fail.NotFound) || ctx.Err() != nil {
			return err
		}
		if err := m.Refresh(ctx, seen, err); err != nil {
			return err
		}
	}
}

// Image makes the map of p, which Resolve returned. dir is for what memory should not
// hold; "" is the system's place for temporary files.
func (l *Log) Image(ctx context.Context, p Point, dir string) (*Image, error) {
	m := &extentmap.Map{Volume: p.Volume.Number, SizeBytes: p.Volume.SizeBytes, Moved: l.moves.follow}
	after := uint64(0)
	if l.Catalog != nil {
		if k, ok := l.Catalog.RetainedAt(p.Volume.Stream, p.LSN); ok {
			after = k.LSN
			for _, y := range l.Catalog.LayersAt(p.Volume.Stream, p.Volume.Number, k.LSN) {
				m.Layers = append(m.Layers, extent.OpenLayer(l.store, y.Whole, y.Objects))
			}
		}
	}
	s, err := l.Changed(ctx, p.Volume.Stream, after, p.LSN, dir)
	if err != nil {
		return nil, err
	}
	m.Recent = s
	hash, _, err := l.HashIn(ctx, p.Volume.Stream, p.LSN)
	if err != nil && ctx.Err() != nil { // else it is not known
		return nil, errors.Join(err, s.Close())
	}
	return &Image{Point: p, log: l, dir: dir, hash: hash, Map: m, close: []*extentmap.Sorter{s}}, nil
}

// Changed sorts what a stream's frames behind `after`, up to an LSN, wrote. Errors:
// fail.NotFound where that is not kept any more.
func (l *Log) Changed(ctx context.Context, id change.StreamID, after, through uint64, dir string) (
	*extentmap.Sorter, error) {
	return l.changed(ctx, id, after, through, dir, l.sizes())
}

// Written reports whether anything was written to a volume behind an LSN, as far as the
// log goes. Errors: fail.NotFound where that is not kept any more.
func (l *Log) Written(ctx context.Context, v *state.Volume, after uint64) (bool, error) {
	r, _ := l.RangeOf(v.Stream)
	s, err := l.changed(ctx, v.Stream, after, r.LastLSN, "", map[uint32]int64{v.Number: v.SizeBytes})
	if err != nil {
		return false, err
	}
	return s.Count > 0, s.Close()
}

// changed is Changed for the volumes of these sizes, by number.
func (l *Log) changed(ctx context.Context, id change.StreamID, after, through uint64, dir string,
	sizes map[uint32]int64) (*extentmap.Sorter, error) {
	s := extentmap.NewSorter(dir)
	s.Sizes = sizes
	if after >= through {
		return s, nil
	}
	frames, prev, err := l.frames(ctx, id, after, through) // prev is what the next one must follow
	want := func(e *segment.Entry, t *segment.Table) (uint64, error) {
		if e.Stream != id || e.LastLSN <= after || e.FirstLSN > through {
			return 0, nil
		}
		if g := l.State.Streams[id].GapBefore(e.FirstLSN); g != nil {
			prev = g.To.Hash
		}
		if t.Prev != prev && !l.State.Streams[id].ForgotGapBefore(e.FirstLSN) {
			return 0, fail.New(fail.Damaged, "check chain", id.String(),
				fmt.Sprintf("frame at LSN %d follows hash %s, but the one before it is %s", e.FirstLSN, t.Prev, prev))
		}
		prev = e.Hash
		return through, nil
	}
	last := (*segment.Index)(nil)
	for i := 0; i < len(frames) && err == nil; i++ {
		x := frames[i].Object
		if x == last {
			continue
		}
		last = x
		if err = ctx.Err(); err == nil {
			err = l.tables(ctx, x)
		}
		if err == nil {
			err = fail.At("read", l.at(x.Position), s.Object(x, want))
		}
	}
	if err == nil {
		err = s.Flush()
	}
	if err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// sizes are those of the volumes, by number.
func (l *Log) sizes() map[uint32]int64 {
	out := make(map[uint32]int64, len(l.State.Volumes))
	for _, v := range l.State.Volumes {
		out[v.Number] = v.SizeBytes
	}
	return out
}

// tables sees to it that an object's tables are known: those of an older release are
// in the body only.
func (l *Log) tables(ctx context.Context, x *segment.Index) error {
	if x.HasTables() {
		return nil
	}
	b, err := objstore.ReadWhole(ctx, l.store, objlog.ObjectName(x.Position), segment.MaxObjectBytes)
	if err != nil {
		return err
	}
	if int64(len(b)) != x.Bytes {
		return l.damaged(x.Position, "object of %d bytes, it had %d", len(b), x.Bytes)
	}
	return fail.At("read", l.at(x.Position), x.AddTables(b))
}
