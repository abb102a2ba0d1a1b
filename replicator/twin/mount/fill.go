package mount

import (
	"context"
	"sync"

	"github.com/pollux-dr/pollux/replicator/objlog/extent"
)

// filled are pages of a leaf as the volume had them at the point.
type filled struct {
	first, n int64
	off      int64  // of the first, in the volume
	buf      []byte // nil: zeros
	data     bitmap // pages that have data
}

// copyTo copies the part of the pages that lies at off of the volume.
func (f *filled) copyTo(p []byte, off int64) {
	if f.buf == nil {
		clear(p)
		return
	}
	copy(p, f.buf[off-f.off:])
}

// fetch brings pages of a leaf here, n at most fillBytes worth.
func (d *Device) fetch(ctx context.Context, l *leaf, first, n int64) (*filled, error) {
	f := &filled{first: first, n: n, off: l.number*extent.LeafBytes + first*pageBytes}
	if d.stats.hydrated.Load() { // what is not here has no data
		return f, nil
	}
	if err := d.fills.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer d.fills.Release(1)
	return f, d.image.Current(ctx, func() error { return d.fetchNow(ctx, l.number, f) })
}

func (d *Device) fetchNow(ctx context.Context, k int64, f *filled) error {
	extents, err := d.image.Map.Leaf(ctx, k)
	if err != nil {
		return err
	}
	end := min(f.off+f.n*pageBytes, d.size)
	extents = extent.Within(extents, f.off, end)
	if len(extents) == 0 {
		return nil
	}
	buf := make([]byte, end-f.off)
	read, err := d.image.Assemble(ctx, buf, f.off, extents)
	if err != nil {
		return err
	}
	d.stats.store.Add(read)
	f.buf = buf
	for i := range extents {
		for p := max(extents[i].Off, f.off); p < min(extents[i].End(), end); p = (p/pageBytes + 1) * pageBytes {
			f.data.set(p % extent.LeafBytes / pageBytes)
		}
	}
	return nil
}

// offer keeps pages where there is room; the disk being full is nobody's fault.
func (d *Device) offer(l *leaf, f *filled) {
	drops := d.drops.Load()
	l.mu.Lock()
	err := d.put(l, f)
	l.mu.Unlock()
	d.tight.Store(err != nil)
	if err != nil {
		d.makeRoom(drops, err)
	}
}

// put writes pages to the file that are still not here; those without data take no room.
// The caller holds the leaf's lock. Its error is the disk's.
func (d *Device) put(l *leaf, f *filled) error {
	fresh := func(i int64) bool { return f.buf != nil && f.data.has(i) && !l.have.has(i) }
	end := f.first + f.n
	for i := f.first; i < end; i++ {
		from := i
		for ; i < end && fresh(i); i++ {
		}
		if i == from {
			l.have.set(i)
			continue
		}
		lo, hi := (from-f.first)*pageBytes, min((i-f.first)*pageBytes, int64(len(f.buf)))
		count := func(n int64) { l.clean.Add(int32(n)); d.pages.Add(n) }
		count(i - from) // before they take room: whoever needs it waits for this leaf's lock
		if _, err := d.file.WriteAt(f.buf[lo:hi], f.off+lo); err != nil {
			_ = d.file.Punch(f.off+lo, hi-lo) // a part may have found some
			count(from - i)
			return err
		}
		for p := from; p < i; p++ {
			l.have.set(p)
			l.data.set(p)
		}
		if i < end {
			l.have.set(i) // no data, or here before
		}
	}
	return nil
}

// readAhead notices reads that go on where another ended, and fetches what comes next.
type readAhead struct {
	d       *Device
	mu      sync.Mutex
	streams [8]struct{ next, window, fetched, used int64 }
	clock   int64
	running int
	wg      sync.WaitGroup
	closed  bool
}

const (
	minWindow   = 128 << 10
	maxWindow   = 8 << 20
	maxPrefetch = 4
)

func (r *readAhead) saw(off, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clock++
	oldest := 0
	for i := range r.streams {
		s := &r.streams[i]
		if s.next == off && s.used > 0 {
			s.next, s.used = off+n, r.clock
			s.window = min(max(2*s.window, minWindow), maxWindow)
			from, to := max(s.fetched, s.next), min(s.next+s.window, r.d.size)
			// Half a window at a time, so that it runs before the reader.
			if to-from >= s.window/2 && r.running < maxPrefetch && !r.closed && !r.d.tight.Load() &&
				!r.d.stats.hydrated.Load() {
				s.fetched = to
				r.running++
				r.wg.Go(func() { r.fetch(from, to) })
			}
			return
		}
		if s.used < r.streams[oldest].used {
			oldest = i
		}
	}
	s := &r.streams[oldest]
	s.next, s.window, s.fetched, s.used = off+n, 0, 0, r.clock
}

// fetch fills what is missing of a range. Its errors are the reader's to meet.
func (r *readAhead) fetch(from, to int64) {
	_ = byLeaf(from, to-from, func(k, off, n int64) error {
		return r.d.fillRange(r.d.ctx, k, off, n, func(l *leaf, f *filled) error { r.d.offer(l, f); return nil })
	})
	r.mu.Lock()
	r.running--
	r.mu.Unlock()
}

func (r *readAhead) wait() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.wg.Wait()
}

// fillRange fetches what is missing of a part of a leaf, and gives it to keep.
func (d *Device) fillRange(ctx context.Context, k, off, n int64, keep func(*leaf, *filled) error) error {
	l, err := d.leaf(k)
	if err != nil {
		return err
	}
	defer func() { d.dropTo(d.o.CacheBytes) }()
	defer d.release(l)
	base := k * extent.LeafBytes
	from, to := (off-base)/pageBytes, (off-base+n+pageBytes-1)/pageBytes
	for {
		l.mu.RLock()
		first, n := l.missing(from, to)
		l.mu.RUnlock()
		if n == 0 {
			return nil
		}
		n = min(n, fillBytes/pageBytes)
		f, err := d.fetch(ctx, l, first, n)
		if err == nil {
			err = keep(l, f)
		}
		if err != nil {
			return err
		}
		from = first + n
	}
}
