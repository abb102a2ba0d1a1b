package mount

import (
	"context"

	"github.com/pollux-dr/pollux/replicator/extent"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// Hydrate brings all of the volume here: then the store is not needed any more. It
// reads each block once, in the order of the log; what else is read meanwhile comes
// first.
func (d *Device) Hydrate(ctx context.Context, run twin.Run) (err error) {
	d.keep.Store(true)
	defer func() {
		if err != nil {
			d.keep.Store(false)
		}
	}()
	var plan *twin.Plan
	err = d.image.Current(ctx, func() error {
		plan, err = d.image.Plan(ctx, d.o.Dir)
		return err
	})
	if err != nil {
		return err
	}
	defer plan.Close()
	_, err = plan.Each(ctx, run, func(e *extent.Extent, data []byte) error {
		d.stats.store.Add(int64(len(data)))
		off := (e.Off + pageBytes - 1) / pageBytes * pageBytes // pages that it has a part of come last
		end := e.End() / pageBytes * pageBytes
		if e.End() == d.size {
			end = d.size
		}
		if off >= end {
			return nil
		}
		return byLeaf(off, end-off, func(k, at, n int64) error {
			var all bitmap
			first := at % extent.LeafBytes / pageBytes
			pages := (n + pageBytes - 1) / pageBytes
			for i := range pages {
				all.set(first + i)
			}
			l := d.leaf(k)
			defer l.pins.Add(-1)
			return d.keepPages(l, at, first, pages, data[at-e.Off:][:n], &all)
		})
	})
	if err != nil {
		return err
	}
	err = d.image.Current(ctx, func() error {
		return d.image.Map.Each(ctx, false, func(k int64, extents []extent.Extent) error { // pages of several parts
			for i := range extents {
				if err := d.fillRange(ctx, k, extents[i].Off, extents[i].Len); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err == nil {
		d.stats.hydrated.Store(true)
	}
	return err
}
