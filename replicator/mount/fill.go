package mount

import (
	"context"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/extent"
)

// fill brings pages of a leaf here, n at most fillBytes worth.
func (d *Device) fill(ctx context.Context, k int64, l *leaf, first, n int64) error {
	if err := d.fills.Acquire(ctx, 1); err != nil {
		return err
	}
	defer d.fills.Release(1)
	if d.stats.hydrated.Load() { // what is not here has no data
		return d.keepPages(l, 0, first, n, nil, nil)
	}
	return d.image.Current(ctx, func() error { return d.fillFrom(ctx, k, l, first, n) })
}

func (d *Device) fillFrom(ctx context.Context, k int64, l *leaf, first, n int64) error {
	extents, err := d.image.Map.Leaf(ctx, k)
	if err != nil {
		return err
	}
	off := k*extent.LeafBytes + first*pageBytes
	end := min(off+n*pageBytes, d.size)
	at, _ := slices.BinarySearchFunc(extents, off, func(e extent.Extent, off int64) int {
		if e.End() <= off {
			return -1
		}
		return 1
	})
	extents = extents[at:]
	for at = 0; at < len(extents) && extents[at].Off < end; at++ {
	}
	extents = extents[:at]
	if len(extents) == 0 {
		return d.keepPages(l, off, first, n, nil, nil)
	}
	buf := make([]byte, end-off)
	if err := d.assemble(ctx, buf, off, extents); err != nil {
		return err
	}
	var data bitmap
	for i := range extents {
		for p := max(extents[i].Off, off); p < min(extents[i].End(), end); p = (p/pageBytes + 1) * pageBytes {
			data.set(p % extent.LeafBytes / pageBytes)
		}
	}
	return d.keepPages(l, off, first, n, buf, &data)
}

// assemble reads the extents' parts within [off, off+len(buf)) into buf.
func (d *Device) assemble(ctx context.Context, buf []byte, off int64, extents []extent.Extent) error {
	byBlock := map[extent.Place][]*extent.Extent{}
	var blocks []extent.Block
	for i := range extents {
		p := extent.PlaceOf(&extents[i])
		if byBlock[p] == nil {
			blocks = append(blocks, extents[i].Block)
		}
		byBlock[p] = append(byBlock[p], &extents[i])
	}
	slices.SortFunc(blocks, extent.CompareBlocks)
	return d.image.Blocks(ctx, blocks, func(b *extent.Block, plain []byte) error {
		d.stats.store.Add(int64(len(plain)))
		for _, e := range byBlock[extent.Place{Position: b.Position, Offset: b.Offset}] {
			from, to := max(e.Off, off), min(e.End(), off+int64(len(buf)))
			copy(buf[from-off:to-off], plain[int64(e.At)+from-e.Off:])
		}
		return nil
	})
}

// keepPages writes pages to the file that are still not here; without buf they are
// zeros, and take no room.
func (d *Device) keepPages(l *leaf, off, first, n int64, buf []byte, data *bitmap) error {
	l.mu.Lock()
	for i := first; i < first+n; {
		if l.have.has(i) {
			i++
			continue
		}
		from := i
		for ; i < first+n && !l.have.has(i); i++ {
		}
		if buf != nil {
			lo, hi := (from-first)*pageBytes, min((i-first)*pageBytes, int64(len(buf)))
			if _, err := d.file.WriteAt(buf[lo:hi], off+lo); err != nil {
				l.mu.Unlock()
				return &fail.Error{Kind: fail.Full, Op: "write", Object: "cache of " + d.o.Description, Err: err, Hint: "make room where it lies, or name another place with --cache"}
			}
		}
		for p := from; p < i; p++ {
			l.have.set(p)
			if data != nil && data.has(p) {
				l.data.set(p)
				d.pages.Add(1)
			}
		}
	}
	l.mu.Unlock()
	return nil
}

// drop gives room back while there is more than the cache may have, leaf by leaf, the
// one used longest ago first.
func (d *Device) drop() {
	for d.pages.Load()*pageBytes > d.o.CacheBytes && !d.keep.Load() {
		var victim *leaf
		var number int64
		d.mu.Lock()
		for k, l := range d.leaves {
			if l.mu.TryRLock() {
				if l.pins.Load() == 0 && l.clean() > 0 && (victim == nil || l.used.Load() < victim.used.Load()) {
					victim, number = l, k
				}
				l.mu.RUnlock()
			}
		}
		d.mu.Unlock()
		if victim == nil {
			return
		}
		if !d.dropLeaf(number, victim) {
			return
		}
	}
}

// dropLeaf reports whether it could: nobody must be at the leaf, and nothing must keep
// what was read.
func (d *Device) dropLeaf(k int64, l *leaf) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d.keep.Load() || l.pins.Load() > 0 {
		return false
	}
	for i := int64(0); i < leafPages; {
		if !l.data.has(i) {
			i++
			continue
		}
		from := i
		for ; i < leafPages && l.data.has(i); i++ {
			l.data[i/64] &^= 1 << (i % 64)
			l.have[i/64] &^= 1 << (i % 64)
			d.pages.Add(-1)
		}
		_ = unix.Fallocate(int(d.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, k*extent.LeafBytes+from*pageBytes, (i-from)*pageBytes)
	}
	return true
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
			if to-from >= s.window/2 && r.running < maxPrefetch && !r.closed && !r.d.stats.hydrated.Load() {
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
	r.streams[oldest].next, r.streams[oldest].window, r.streams[oldest].fetched, r.streams[oldest].used = off+n, 0, 0, r.clock
}

// fetch fills what is missing of a range. Its errors are the reader's to meet.
func (r *readAhead) fetch(from, to int64) {
	_ = byLeaf(from, to-from, func(k, off, n int64) error { return r.d.fillRange(r.d.ctx, k, off, n) })
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

// fillRange fills what is missing of a part of a leaf.
func (d *Device) fillRange(ctx context.Context, k, off, n int64) error {
	l, base := d.leaf(k), k*extent.LeafBytes
	defer d.drop()
	defer l.pins.Add(-1)
	from, to := (off-base)/pageBytes, (off-base+n+pageBytes-1)/pageBytes
	for {
		l.mu.RLock()
		first, n := l.missing(from, to)
		l.mu.RUnlock()
		if n == 0 {
			return nil
		}
		n = min(n, fillBytes/pageBytes)
		if err := d.fill(ctx, k, l, first, n); err != nil {
			return err
		}
		from = first + n
	}
}
