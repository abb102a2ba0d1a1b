package hydrate

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"golang.org/x/time/rate"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// Run says how the background fills an image.
type Run struct {
	// BytesPerSecond bounds what is read from the store; 0 does not.
	BytesPerSecond int64
	// Sync is called in place of Backing.Sync, and calls that: of who has to know when it fails,
	// because what he wrote may be lost then. It may be nil where nobody writes.
	Sync func() error
}

// filler is one Hydrate.
type filler struct {
	*Backing
	ctx     context.Context
	run     Run
	limit   *rate.Limiter // of what is fetched page by page
	syncing sync.Mutex
	put     atomic.Int64 // bytes since the last sync
}

const limitBurst = 1 << 20

// Hydrate brings all of the volume here, in the order of the log, and each block about once.
// It waits out what can be waited out, and leaves damage to the end. It returns nil when the
// image is a plain one, and fail.Retry when ctx ends, or the Backing is closed, before.
func (b *Backing) Hydrate(ctx context.Context, run Run) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(b.ctx, cancel)()
	if run.Sync == nil {
		run.Sync = func() error {
			err := b.Sync()
			if err != nil {
				b.Unsynced()
			}
			return err
		}
	}
	f := &filler{Backing: b, ctx: ctx, run: run}
	if run.BytesPerSecond > 0 {
		f.limit = rate.NewLimiter(rate.Limit(run.BytesPerSecond), limitBurst)
	}
	b.use()
	defer func() { _ = b.leave() }()
	for wait := b.o.MinWait; !b.done.Load(); {
		before := b.pages.here.Load()
		err := f.pass()
		if ctx.Err() == nil {
			err = errors.Join(err, f.sync())
		}
		switch {
		case b.done.Load():
			return nil
		case ctx.Err() != nil:
			return fail.Wrap(fail.Retry, "hydrate", b.point.String(), ctx.Err())
		case b.pages.here.Load() > before:
			wait = b.o.MinWait
		}
		b.note(err)
		if err != nil {
			b.o.Notify(err)
		}
		pause := wait
		if lasting(err) {
			pause = b.o.DamageWait
		}
		sleep(ctx, pause)
		wait = min(2*wait, b.o.MaxWait)
	}
	return nil
}

// sync makes durable what was fetched.
func (f *filler) sync() error {
	f.syncing.Lock()
	defer f.syncing.Unlock()
	f.put.Store(0)
	return f.run.Sync()
}

// filled counts what was put, and syncs it now and then.
func (f *filler) filled(n int64) error {
	if f.put.Add(n) < f.o.SyncBytes {
		return nil
	}
	return f.sync()
}

// pass goes once through all that is missing: holes, then blocks in the order of the log,
// then pages that are put together of several.
func (f *filler) pass() error {
	if err := f.patiently(f.ctx, f.holes); err != nil {
		return err
	}
	err := f.patiently(f.ctx, f.blocks)
	if err != nil && !fail.Is(err, fail.Damaged) {
		return err
	}
	return f.rest() // and what is not damaged, if something is
}

// holes makes zeros of what has no data. On a device, and after a crash, it may be anything.
func (f *filler) holes(image *twin.Image) error {
	at := int64(0) // the first page that was not looked at
	upto := func(page int64) error {
		for at < page {
			to := min(page, (at/leafPages+1)*leafPages)
			if err := f.zero(at, to); err != nil {
				return err
			}
			at = to
		}
		return f.ctx.Err()
	}
	return image.Current(f.ctx, func() error {
		at = 0
		err := image.Map.Each(f.ctx, false, func(_ int64, extents []extent.Extent) error {
			for i := range extents {
				if err := upto(extents[i].Off / pageBytes); err != nil {
					return err
				}
				at = max(at, (extents[i].End()+pageBytes-1)/pageBytes)
			}
			return nil
		})
		if err != nil {
			return err
		}
		return upto(f.pages.total)
	})
}

// zero makes zeros of the pages in [from, to), of one leaf, that are not here.
func (f *filler) zero(from, to int64) error {
	l := f.pages.lock(from)
	l.Lock()
	defer l.Unlock()
	if f.closed.Load() {
		return f.isClosed("fill")
	}
	for from < to {
		first, n := f.pages.missing(from, to)
		if n == 0 {
			return nil
		}
		off := first * pageBytes
		if err := f.Disk.Zero(off, min(n*pageBytes, f.point.SizeBytes-off), false); err != nil {
			return err
		}
		f.pages.mark(first, first+n)
		from = first + n
	}
	return nil
}

// inside are the pages that all of which lies in [off, end).
func (f *filler) inside(off, end int64) (from, to int64) {
	from, to = (off+pageBytes-1)/pageBytes, end/pageBytes
	if end == f.point.SizeBytes {
		to = f.pages.total
	}
	return from, to
}

// lacks reports whether a page that an extent has as a whole is missing.
func (f *filler) lacks(e *extent.Extent) bool {
	from, to := f.inside(e.Off, e.End())
	if from >= to {
		return false
	}
	_, n := f.pages.look(from, to)
	return n > 0
}

// blocks reads each block that has a page which is missing, in the order of the log.
func (f *filler) blocks(image *twin.Image) error {
	var plan *twin.Plan
	err := image.Current(f.ctx, func() (err error) {
		plan, err = image.PlanOf(f.ctx, f.o.ScratchDir, f.lacks)
		return err
	})
	if err != nil {
		return err
	}
	defer plan.Close()
	run := twin.Run{BytesPerSecond: f.run.BytesPerSecond}
	_, err = plan.Each(f.ctx, run, func(e *extent.Extent, plain []byte) error {
		f.fetched.Add(int64(len(plain)))
		from, to := f.inside(e.Off, e.End())
		for from < to {
			end := min(to, (from/leafPages+1)*leafPages)
			got := &fetched{first: from, state: make([]byte, end-from), buf: plain[from*pageBytes-e.Off:]}
			for i := range got.state {
				got.state[i] = data
			}
			if err := f.Backing.put(got); err != nil {
				return err
			}
			from = end
		}
		return f.filled(int64(len(plain)))
	})
	return err
}

// rest fetches page by page what is missing still. Damage ends it when all else is here.
func (f *filler) rest() (damage error) {
	const step = maxFetchPages
	for from := int64(0); from < f.pages.total; {
		to := min(from+step, f.pages.total, (from/leafPages+1)*leafPages)
		first, n := f.pages.look(from, to)
		if n == 0 {
			from = to
			continue
		}
		if f.limit != nil {
			if err := f.limit.WaitN(f.ctx, int(n*pageBytes)); err != nil {
				return err
			}
		}
		err := f.need(f.ctx, first*pageBytes, n*pageBytes)
		switch {
		case fail.Is(err, fail.Damaged) && n > 1: // not all of it is
			err = f.each(first, n, &damage)
		case fail.Is(err, fail.Damaged):
			damage, err = err, nil
		}
		if err == nil {
			err = f.filled(n * pageBytes)
		}
		if err != nil {
			return err
		}
		from = first + n
	}
	return damage
}

// each fetches pages one by one.
func (f *filler) each(first, n int64, damage *error) error {
	for i := first; i < first+n; i++ {
		err := f.need(f.ctx, i*pageBytes, 1)
		if fail.Is(err, fail.Damaged) {
			*damage = err
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}
