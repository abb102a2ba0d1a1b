package mount

import (
	"context"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// Hydrate brings all of the volume here: then the store is not needed any more. It
// reads each block once, in the order of the log; what else is read meanwhile comes
// first.
func (d *Device) Hydrate(ctx context.Context, run twin.Run) (err error) {
	d.pinned.Store(true)
	defer func() {
		if err != nil {
			d.giveUpHydration()
			d.dropTo(d.o.CacheBytes)
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
			f := &filled{first: at % extent.LeafBytes / pageBytes, n: (n + pageBytes - 1) / pageBytes, off: at,
				buf: data[at-e.Off:][:n]}
			for i := range f.n {
				f.data.set(f.first + i)
			}
			l, err := d.leaf(k)
			if err != nil {
				return err
			}
			defer d.release(l)
			return d.putAll(l, f)
		})
	})
	if err != nil {
		return err
	}
	err = d.image.Current(ctx, func() error {
		return d.image.Map.Each(ctx, false, func(k int64, extents []extent.Extent) error { // pages of several parts
			for i := range extents {
				if err := d.fillRange(ctx, k, extents[i].Off, extents[i].Len, d.putAll); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.pinned.Load() {
		return d.noRoom(nil)
	}
	d.stats.hydrated.Store(true)
	return nil
}

// putAll keeps pages while all is pinned: where the disk is full, or what a client wrote
// needed the room, hydration ends.
func (d *Device) putAll(l *leaf, f *filled) error {
	if !d.pinned.Load() {
		return d.noRoom(nil)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := d.put(l, f); err != nil {
		return d.noRoom(err)
	}
	return nil
}

func (d *Device) noRoom(err error) error {
	if err == nil {
		err = unix.ENOSPC // for what a client wrote
	}
	return &fail.Error{Kind: fail.Full, Op: "hydrate", Object: d.o.Description, Err: err,
		Hint: "make room where the cache lies, or name another place with --cache; " +
			"until then it goes on reading from the store"}
}
