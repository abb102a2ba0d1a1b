package mount

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// Options say how a point is served.
type Options struct {
	// Dir is where the file lies; "" is the system's place for temporary files.
	Dir string
	// CacheBytes bounds what is kept of what was read; 0 is 1 GiB. What was written is
	// kept beyond that. Where the disk is full it is less.
	CacheBytes int64
	// MemoryBytes bounds what the mount takes of memory, about; 0 is 200 MiB.
	MemoryBytes int64
	Writable    bool
	Description string
}

const (
	defaultCacheBytes = 1 << 30
	// DefaultMemoryBytes and MinMemoryBytes are of Options.MemoryBytes.
	DefaultMemoryBytes = 200 << 20
	MinMemoryBytes     = 64 << 20

	// fillBytes is the most that one fill assembles in memory.
	fillBytes = 1 << 20
	// fillMemoryBytes is what it takes meanwhile, what it reads of the store included;
	// there are as many at once as a half of the memory has room for, up to maxFills.
	fillMemoryBytes = 6 << 20
	maxFills        = 16
	// leavesShare and mapShare are the parts of the memory for what is here of each
	// leaf, and for where its bytes are.
	leavesShare, mapShare = 8, 4
)

// Device is a mount.
type Device struct {
	image  *twin.Image
	o      Options
	file   disk
	states disk // of the leaves that are not in memory; zeros where nothing is here
	size   int64

	mu        sync.Mutex
	leaves    map[int64]*leaf // those in memory
	order     list.List       // of them, the one used last in front
	maxLeaves int

	room  sync.Mutex   // held while room is made
	drops atomic.Int64 // how often that was
	tight atomic.Bool  // the disk took nothing last

	pages  atomic.Int64 // clean ones that take room
	pinned atomic.Bool  // nothing is dropped: it is being hydrated, or was
	fills  *semaphore.Weighted
	ahead  readAhead
	ctx    context.Context // of what nobody waits for
	end    context.CancelFunc
	stats  counters
}

// Stats are what a mount has done.
type Stats struct {
	StoreBytes   int64 `json:"store_bytes"`   // plain bytes of the blocks that were read
	CachedBytes  int64 `json:"cached_bytes"`  // of what was read, kept here
	WrittenBytes int64 `json:"written_bytes"` // pages that differ from the point
	Hydrated     bool  `json:"hydrated"`      // the store is not needed any more
}

type counters struct {
	store, dirty atomic.Int64
	hydrated     atomic.Bool
}

// New makes a device of an image, which stays the caller's to close, after the device.
func New(image *twin.Image, o Options) (*Device, error) {
	if o.CacheBytes == 0 {
		o.CacheBytes = defaultCacheBytes
	}
	if o.CacheBytes < 0 {
		return nil, fail.New(fail.Invalid, "mount", o.Description, fmt.Sprintf("a cache of %d bytes", o.CacheBytes))
	}
	if o.MemoryBytes == 0 {
		o.MemoryBytes = DefaultMemoryBytes
	}
	if o.MemoryBytes < MinMemoryBytes {
		return nil, fail.New(fail.Invalid, "mount", o.Description, fmt.Sprintf("%d bytes of memory", o.MemoryBytes)).
			WithHint(fmt.Sprintf("%d MiB is the least", MinMemoryBytes>>20))
	}
	d := &Device{image: image, o: o, size: image.Map.SizeBytes, leaves: map[int64]*leaf{},
		maxLeaves: int(o.MemoryBytes / leavesShare / leafMemoryBytes),
		fills:     semaphore.NewWeighted(min(o.MemoryBytes/2/fillMemoryBytes, maxFills))}
	image.Map.Limit(o.MemoryBytes / mapShare)
	var err error
	if d.file, err = unnamed(o.Dir, d.size); err != nil {
		return nil, err
	}
	if d.states, err = unnamed(o.Dir, 0); err != nil {
		return nil, errors.Join(err, d.file.Close())
	}
	d.ahead.d = d
	d.ctx, d.end = context.WithCancel(context.Background())
	return d, nil
}

var _ block.Device = (*Device)(nil)

// Close ends the device, whose front ends have ended before.
func (d *Device) Close() error {
	d.end()
	d.ahead.wait()
	return errors.Join(d.file.Close(), d.states.Close())
}

// Stats returns what it has done so far.
func (d *Device) Stats() Stats {
	return Stats{d.stats.store.Load(), d.pages.Load() * pageBytes, d.stats.dirty.Load() * pageBytes,
		d.stats.hydrated.Load()}
}

// Info implements block.Device.
func (d *Device) Info() block.Info {
	return block.Info{SizeBytes: d.size, MinBlockBytes: 1, PrefBlockBytes: pageBytes, ReadOnly: !d.o.Writable,
		Description: d.o.Description}
}

func (d *Device) check(op string, off, n int64) error {
	if off < 0 || n < 0 || off > d.size-n {
		return fail.New(fail.Invalid, op, d.o.Description,
			fmt.Sprintf("%d bytes at %d lie outside the %d bytes", n, off, d.size))
	}
	return nil
}

// byLeaf calls fn with the parts of [off, off+n) in each leaf: the pages, and the
// bytes of the volume.
func byLeaf(off, n int64, fn func(leaf, off, n int64) error) error {
	for end := off + n; off < end; {
		k := off / extent.LeafBytes
		to := min(end, (k+1)*extent.LeafBytes)
		if err := fn(k, off, to-off); err != nil {
			return err
		}
		off = to
	}
	return nil
}

// ReadAt implements block.Device.
func (d *Device) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := d.check("read", off, int64(len(p))); err != nil {
		return err
	}
	d.ahead.saw(off, int64(len(p)))
	return byLeaf(off, int64(len(p)), func(k, at, n int64) error { return d.read(ctx, k, p[at-off:][:n], at) })
}

// read is ReadAt within a leaf. What the file has no room for goes to the reader all
// the same.
func (d *Device) read(ctx context.Context, k int64, p []byte, off int64) error {
	l, err := d.leaf(k)
	if err != nil {
		return err
	}
	defer func() { d.dropTo(d.o.CacheBytes) }()
	defer d.release(l)
	base, end := k*extent.LeafBytes, off+int64(len(p))
	// of are the bytes of p in pages [from, to), and where they begin in the volume.
	of := func(from, to int64) ([]byte, int64) {
		lo, hi := max(off, base+from*pageBytes), min(end, base+to*pageBytes)
		return p[lo-off : max(lo, hi)-off], lo
	}
	from, to := (off-base)/pageBytes, (end-base+pageBytes-1)/pageBytes
	for from < to {
		l.mu.RLock()
		first, n := l.missing(from, to)
		part, at := of(from, first)
		_, err := d.file.ReadAt(part, at)
		l.mu.RUnlock()
		if err != nil {
			return fail.Wrap(fail.Internal, "read", "cache", err)
		}
		if n == 0 {
			return nil
		}
		n = min(n, fillBytes/pageBytes)
		f, err := d.fetch(ctx, l, first, n)
		if err != nil {
			return err
		}
		part, at = of(first, first+n)
		f.copyTo(part, at)
		d.offer(l, f)
		from = first + n
	}
	return nil
}

// Prepare implements block.Device. It never blocks.
func (d *Device) Prepare(_ context.Context, n int) (block.Buffer, error) {
	if !d.o.Writable {
		return nil, fail.New(fail.Refused, "write", d.o.Description, "it is mounted read-only").
			WithHint("mount it with --writable")
	}
	if n < 1 || n > block.MaxWriteBytes {
		return nil, fail.New(fail.Invalid, "prepare write to", d.o.Description, fmt.Sprintf("%d bytes in one write", n))
	}
	return block.NewHeapBuffer(n), nil
}

// Write implements block.Device.
func (d *Device) Write(ctx context.Context, b block.Buffer, off int64, _ bool) error {
	defer b.Release()
	for _, p := range b.Pieces() {
		if err := d.check("write", off, int64(len(p))); err != nil {
			return err
		}
		err := byLeaf(off, int64(len(p)), func(k, at, n int64) error {
			return d.change(ctx, k, at, n, func() error {
				_, err := d.file.WriteAt(p[at-off:][:n], at)
				return err
			})
		})
		if err != nil {
			return err
		}
		off += int64(len(p))
	}
	return nil
}

// change has do change [off, off+n) of the file, within a leaf. Pages that it changes
// in part are fetched first. What was only read makes room.
func (d *Device) change(ctx context.Context, k, off, n int64, do func() error) error {
	if !d.o.Writable {
		return fail.New(fail.Refused, "write", d.o.Description, "it is mounted read-only").
			WithHint("mount it with --writable")
	}
	l, err := d.leaf(k)
	if err != nil {
		return err
	}
	defer d.release(l)
	const tries = 16 // room that is made may be taken by others
	for range tries {
		drops := d.drops.Load()
		var edges []*filled
		if edges, err = d.edges(ctx, l, off, n); err != nil {
			return err
		}
		if err = d.changeNow(l, off, n, edges, do); err == nil {
			return nil
		}
		if !errors.Is(err, errDropped) && !d.makeRoom(drops, err) {
			break
		}
	}
	return &fail.Error{Kind: fail.Full, Op: "write", Object: "scratch file of " + d.o.Description, Err: err,
		Hint: "make room where the cache lies (--cache)"}
}

// partly returns the pages of a leaf that a change of [off, off+n) covers in part.
func (d *Device) partly(l *leaf, off, n int64) (pages []int64) {
	base, end := l.number*extent.LeafBytes, off+n
	first, last := (off-base)/pageBytes, (end-base-1)/pageBytes
	tail := end%pageBytes != 0 && end < d.size
	if off%pageBytes != 0 || (tail && first == last) {
		pages = append(pages, first)
	}
	if tail && first != last {
		pages = append(pages, last)
	}
	return pages
}

// edges fetches those of them that are not here.
func (d *Device) edges(ctx context.Context, l *leaf, off, n int64) (out []*filled, err error) {
	for _, page := range d.partly(l, off, n) {
		l.mu.RLock()
		here := l.have.has(page)
		l.mu.RUnlock()
		if here {
			continue
		}
		f, err := d.fetch(ctx, l, page, 1)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

// errDropped is of a page that was here, and was dropped before it could be changed.
var errDropped = errors.New("a page was dropped meanwhile")

// changeNow makes a change, whose edges were fetched or are here.
func (d *Device) changeNow(l *leaf, off, n int64, edges []*filled, do func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	for _, f := range edges {
		if err == nil {
			err = d.put(l, f)
		}
	}
	for _, page := range d.partly(l, off, n) {
		if err == nil && !l.have.has(page) {
			err = errDropped
		}
	}
	base := l.number * extent.LeafBytes
	from, to := (off-base)/pageBytes, (off-base+n+pageBytes-1)/pageBytes
	if err == nil {
		if err = do(); err != nil {
			for i := from; i < to; i++ { // what it wrote is nothing to anybody
				if !l.have.has(i) {
					_ = d.file.Punch(base+i*pageBytes, pageBytes)
				}
			}
		}
	}
	if err != nil {
		return err
	}
	for i := from; i < to; i++ {
		if l.data.has(i) {
			l.data.unset(i)
			l.clean.Add(-1)
			d.pages.Add(-1)
		}
		if !l.dirty.has(i) {
			l.setDirty(i)
			d.stats.dirty.Add(1)
		}
	}
	return nil
}

// Zero implements block.Device.
func (d *Device) Zero(ctx context.Context, off, n int64, _, _ bool) error {
	if err := d.check("zero", off, n); err != nil {
		return err
	}
	return byLeaf(off, n, func(k, at, n int64) error {
		return d.change(ctx, k, at, n, func() error { return d.file.Punch(at, n) })
	})
}

// Trim implements block.Device.
func (d *Device) Trim(ctx context.Context, off, n int64, fua bool) error {
	return d.Zero(ctx, off, n, false, fua)
}

// Flush implements block.Device. What is written lives no longer than the process.
func (d *Device) Flush(context.Context) error { return nil }

// Extents implements block.Device.
func (d *Device) Extents(ctx context.Context, off, n int64) ([]block.Extent, error) {
	if err := d.check("map", off, n); err != nil || n == 0 {
		return nil, err
	}
	k := off / extent.LeafBytes
	end := min(off+n, (k+1)*extent.LeafBytes) // one leaf at a time
	l, err := d.leaf(k)
	if err != nil {
		return nil, err
	}
	defer d.release(l)
	base := k * extent.LeafBytes
	var extents []extent.Extent
	if !d.stats.hydrated.Load() {
		err := d.image.Current(ctx, func() (err error) {
			extents, err = d.image.Map.Leaf(ctx, k)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	var out []block.Extent
	add := func(n int64, data bool) {
		if i := len(out) - 1; i >= 0 && out[i].Zero == !data {
			out[i].Bytes += n
			return
		}
		out = append(out, block.Extent{Bytes: n, Hole: !data, Zero: !data})
	}
	next := 0
	for off < end {
		page := (off - base) / pageBytes
		to := min(end, base+(page+1)*pageBytes)
		for next < len(extents) && extents[next].End() <= off {
			next++
		}
		add(to-off, l.dirty.has(page) || l.data.has(page) || (next < len(extents) && extents[next].Off < to))
		off = to
	}
	return out, nil
}
