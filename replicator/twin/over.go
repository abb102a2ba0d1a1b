package twin

import (
	"context"
	"errors"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/objlog/rangeset"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/twin/extentmap"
)

// Dirty are ranges of a volume in which a target may hold anything, whatever its base says.
// The zero value is none.
type Dirty struct {
	set    *rangeset.Set
	leaves map[int64][]extent.Extent
}

// Add adds a range of bytes.
func (d *Dirty) Add(off, n int64) {
	if d.leaves == nil {
		d.set, d.leaves = rangeset.New(), map[int64][]extent.Extent{}
	}
	d.set.AddNew(off, n, func(off, n int64) {
		e := extent.Extent{Off: off, Len: n}
		e.ByLeaf(func(leaf int64, part extent.Extent) { d.leaves[leaf] = append(d.leaves[leaf], part) })
	})
}

// next returns the first leaf at or after one that has anything.
func (d *Dirty) next(from int64) (leaf int64, ok bool) {
	for k := range d.leaves {
		if k >= from && (!ok || k < leaf) {
			leaf, ok = k, true
		}
	}
	return leaf, ok
}

// PlanOver is Plan over a base some ranges of which hold what no point of the log has, such as
// what was written on a dead branch.
func (l *Log) PlanOver(ctx context.Context, p Point, base *Base, dirty Dirty, dir string) (*Plan, error) {
	m, err := l.Image(ctx, p, dir)
	if err != nil {
		return nil, err
	}
	pl := &Plan{Point: p, image: m, ours: true, needs: extentmap.NewByBlock(dir), base: base, dirty: dirty, dir: dir}
	if err := pl.fill(ctx); err != nil {
		return nil, errors.Join(err, pl.Close())
	}
	return pl, nil
}

// EndOf is where a stream stands at the end of the log; zero where nothing of it is there.
func (l *Log) EndOf(id change.StreamID) (at catalog.At) {
	f := l.Frames[id]
	if n := len(f); n > 0 {
		e := f[n-1].entry()
		return catalog.At{Point: change.Point{LSN: e.LastLSN, Hash: e.Hash}, Time: e.LastTime,
			Written: f[n-1].Object.Time}
	}
	return l.start(id)
}

// HashAt returns the hash of the frame of a stream that ends at an LSN, so that who holds that
// point knows whether it lies on the log's branch. known is false where no frame ends there, or
// the log does not keep it any more.
func (l *Log) HashAt(ctx context.Context, id change.StreamID, lsn uint64) (h change.Hash, known bool, err error) {
	if lsn == 0 {
		return h, true, nil
	}
	// Catalogs of earlier releases have bookmarks without it.
	if k, ok := l.retainedAt(id, lsn); ok && k.Hash != (change.Hash{}) {
		return k.Hash, true, nil
	}
	if l.Catalog != nil {
		for i := range l.Catalog.ReadPoints {
			if at, ok := l.Catalog.ReadPoints[i].Streams[id]; ok && at.LSN == lsn {
				return at.Hash, true, nil
			}
		}
	}
	f, ok, err := l.frameWith(ctx, id, lsn)
	if !ok || f.entry().LastLSN != lsn {
		return h, false, err
	}
	return f.entry().Hash, true, nil
}

// HashIn is HashAt for an LSN in the middle of a frame as well: then the hash is that frame's.
func (l *Log) HashIn(ctx context.Context, id change.StreamID, lsn uint64) (h change.Hash, known bool, err error) {
	if h, known, err = l.HashAt(ctx, id, lsn); known || err != nil {
		return h, known, err
	}
	f, ok, err := l.frameWith(ctx, id, lsn)
	if !ok || f.entry().FirstLSN > lsn {
		return h, false, err
	}
	return f.entry().Hash, true, nil
}

// DeadBranch calls fn with the extents of all entries of a stream from a journal index on, in
// the segments at positions [from, to): what was written on a branch that a fence at `to`, or
// before it, cut off. first is the lowest LSN among them, 0 where there is none; has is that one of them
// ends at a point. Errors: fail.NotFound where garbage collection has freed one of the objects.
func (l *Log) DeadBranch(ctx context.Context, id change.StreamID, from, to, index uint64, end change.Point,
	fn func(volume uint32, off, n int64)) (first uint64, has bool, err error) {
	for position := from; position < to; position++ {
		x, err := objlog.ReadIndex(ctx, l.store, position)
		if err != nil {
			return 0, false, err
		}
		if x.Type != segment.Segment || x.LastIndex < index || x.Journal != l.Identity.Journal {
			continue
		}
		if err := l.tables(ctx, x); err != nil {
			return 0, false, err
		}
		err = x.EachTable(func(i int, t *segment.Table) error {
			e := &x.Entries[i]
			if e.Stream != id || e.Index < index {
				return nil
			}
			if first == 0 || e.FirstLSN < first {
				first = e.FirstLSN
			}
			has = has || end == change.Point{LSN: e.LastLSN, Hash: e.Hash}
			extent.Of(x, i, t, ^uint64(0), func(volume uint32, e extent.Extent) { fn(volume, e.Off, e.Len) })
			return nil
		})
		if err != nil {
			return 0, false, fail.At("read", l.at(position), err)
		}
	}
	return first, has, nil
}
