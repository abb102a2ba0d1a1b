package gc

import (
	"context"
	"slices"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/twin/extentmap"
)

// refs is what the layers of a catalog need of the objects below its floor.
type refs struct {
	by   *extentmap.ByBlock
	live map[objlog.ObjectID]*usage
	// direct are the objects that layers name, before what was moved is looked up.
	direct map[objlog.ObjectID]bool
}

// usage is what is needed of one object.
type usage struct {
	plain  int64   // bytes
	stored float64 // their part of the blocks, as those are stored
	runs   int
}

// liveBlock is a block, and which of its plain bytes are needed.
type liveBlock struct {
	extent.Block
	volume uint32 // whose bytes they are, or the first of them
	runs   []run  // in order, apart from each other
}

type run struct{ at, end uint32 }

// findRefs goes through all layers. Blocks that were moved count where they are.
func (w *writer) findRefs(ctx context.Context, c *catalog.Catalog) (*refs, error) {
	r := &refs{by: extentmap.NewByBlock(w.o.Dir), live: map[objlog.ObjectID]*usage{},
		direct: map[objlog.ObjectID]bool{}}
	for _, s := range c.Streams {
		for number, v := range s.Volumes {
			for i := range v.Layers {
				y := &v.Layers[i]
				m := &extentmap.Map{Volume: number, SizeBytes: change.MaxOffset,
					Layers: []*extent.Layer{extent.OpenLayer(w.store, y.Whole, y.Objects)}}
				if err := r.add(ctx, m, c.ReadPoints[0].Position, w.log.Moved); err != nil {
					_ = r.by.Close()
					return nil, err
				}
			}
		}
	}
	err := r.by.Flush()
	if err == nil {
		err = r.each(func(b *liveBlock) error {
			u := r.live[b.Object]
			if u == nil {
				u = &usage{}
				r.live[b.Object] = u
			}
			n := int64(0)
			for _, x := range b.runs {
				n += int64(x.end - x.at)
			}
			u.plain += n
			u.runs += len(b.runs)
			u.stored += float64(n) / float64(b.PlainBytes) * float64(b.StoredBytes)
			return nil
		})
	}
	if err != nil {
		_ = r.by.Close()
		return nil, err
	}
	return r, nil
}

func (r *refs) add(ctx context.Context, m *extentmap.Map, floor uint64,
	moved func(context.Context, []extent.Extent) error) error {
	return m.Each(ctx, false, func(_ int64, extents []extent.Extent) error {
		for i := range extents {
			r.direct[extents[i].Block.Object] = true
		}
		if err := moved(ctx, extents); err != nil {
			return err
		}
		for i := range extents {
			if pos, ok := extents[i].Block.Object.Position(); ok && pos >= floor {
				continue // it stays as it is
			}
			extents[i].Off = int64(m.Volume) // where in it does not matter here
			if err := r.by.Add(&extents[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// each calls fn for every block that is needed, in the order of places.
func (r *refs) each(fn func(b *liveBlock) error) error {
	var cur liveBlock
	var raw []run
	done := func() error {
		if len(raw) == 0 {
			return nil
		}
		cur.runs = union(raw)
		raw = raw[:0]
		return fn(&cur)
	}
	err := r.by.Each(func(e *extent.Extent) error {
		if e.Block != cur.Block {
			if err := done(); err != nil {
				return err
			}
			cur.Block, cur.volume = e.Block, uint32(e.Off)
		}
		raw = append(raw, run{e.At, e.At + uint32(e.Len)})
		return nil
	})
	if err == nil {
		err = done()
	}
	return err
}

// through reports whether a layer finds what it names by way of a pack's tables.
func (r *refs) through(c *catalog.Catalog, o objlog.ObjectID) bool {
	for i := range c.Packs {
		if p := &c.Packs[i]; objlog.InPack(p.Number) == o {
			return slices.ContainsFunc(p.Moved, func(old objlog.ObjectID) bool { return r.direct[old] })
		}
	}
	return false
}
