package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/extent"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// Options say how a point is served.
type Options struct {
	// Dir is where the file lies; "" is the system's place for temporary files.
	Dir string
	// CacheBytes bounds what is kept of what was read; 0 is 1 GiB. What was written is
	// kept beyond that.
	CacheBytes  int64
	Writable    bool
	Description string
}

const (
	defaultCacheBytes = 1 << 30
	// fillBytes is the most that one fill assembles in memory.
	fillBytes = 1 << 20
	// fills bounds those at once.
	fills = 16
)

// Device is a mount.
type Device struct {
	image *twin.Image
	o     Options
	file  *os.File
	size  int64

	mu     sync.Mutex
	leaves map[int64]*leaf
	pages  atomic.Int64 // clean ones that take room
	clock  atomic.Int64
	keep   atomic.Bool // nothing is dropped: it is being hydrated
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
	f, err := os.CreateTemp(o.Dir, "pollux-mount-*")
	if err != nil {
		return nil, &fail.Error{Kind: fail.Full, Op: "create cache in", Object: o.Dir, Err: err, Hint: "--cache names another place"}
	}
	d := &Device{image: image, o: o, file: f, size: image.Map.SizeBytes, leaves: map[int64]*leaf{}, fills: semaphore.NewWeighted(fills)}
	err = os.Remove(f.Name()) // it goes with the process, however that ends
	if err == nil {
		err = f.Truncate(d.size)
	}
	if err != nil {
		return nil, errors.Join(fail.Wrap(fail.Full, "create cache in", o.Dir, err), f.Close())
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
	return d.file.Close()
}

// Stats returns what it has done so far.
func (d *Device) Stats() Stats {
	return Stats{d.stats.store.Load(), d.pages.Load() * pageBytes, d.stats.dirty.Load() * pageBytes, d.stats.hydrated.Load()}
}

// Info implements block.Device.
func (d *Device) Info() block.Info {
	return block.Info{SizeBytes: d.size, MinBlockBytes: 1, PrefBlockBytes: pageBytes, ReadOnly: !d.o.Writable, Description: d.o.Description}
}

// leaf returns one, pinned: whoever has it gives the pin back.
func (d *Device) leaf(n int64) *leaf {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.leaves[n]
	if l == nil {
		l = &leaf{}
		d.leaves[n] = l
	}
	l.used.Store(d.clock.Add(1))
	l.pins.Add(1)
	return l
}

func (d *Device) check(op string, off, n int64) error {
	if off < 0 || n < 0 || off > d.size-n {
		return fail.New(fail.Invalid, op, d.o.Description, fmt.Sprintf("%d bytes at %d lie outside the %d bytes", n, off, d.size))
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

// read is ReadAt within a leaf.
func (d *Device) read(ctx context.Context, k int64, p []byte, off int64) error {
	l, base := d.leaf(k), k*extent.LeafBytes
	defer d.drop()
	defer l.pins.Add(-1)
	from, to := (off-base)/pageBytes, (off-base+int64(len(p))+pageBytes-1)/pageBytes
	for {
		l.mu.RLock()
		first, n := l.missing(from, to)
		if n == 0 {
			_, err := d.file.ReadAt(p, off)
			l.mu.RUnlock()
			return fail.Wrap(fail.Internal, "read", "cache", err)
		}
		l.mu.RUnlock()
		if err := d.fill(ctx, k, l, first, min(n, fillBytes/pageBytes)); err != nil {
			return err
		}
	}
}

// Prepare implements block.Device. It never blocks.
func (d *Device) Prepare(_ context.Context, n int) (block.Buffer, error) {
	if !d.o.Writable {
		return nil, fail.New(fail.Refused, "write", d.o.Description, "it is mounted read-only").WithHint("mount it with --writable")
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
// in part are filled first.
func (d *Device) change(ctx context.Context, k, off, n int64, do func() error) error {
	if !d.o.Writable {
		return fail.New(fail.Refused, "write", d.o.Description, "it is mounted read-only").WithHint("mount it with --writable")
	}
	l, base := d.leaf(k), k*extent.LeafBytes
	defer l.pins.Add(-1)
	from, to := (off-base)/pageBytes, (off-base+n+pageBytes-1)/pageBytes
	for {
		l.mu.Lock()
		edge := int64(-1)
		if off%pageBytes != 0 && !l.have.has(from) {
			edge = from
		}
		if end := off + n; end%pageBytes != 0 && end < d.size && !l.have.has(to-1) {
			edge = to - 1
		}
		if edge < 0 {
			break
		}
		l.mu.Unlock()
		if err := d.fill(ctx, k, l, edge, 1); err != nil {
			return err
		}
	}
	defer l.mu.Unlock()
	if err := do(); err != nil {
		for i := from; i < to; i++ { // what it wrote is nothing to anybody
			if !l.have.has(i) {
				_ = d.punch((base/pageBytes+i)*pageBytes, pageBytes)
			}
		}
		return &fail.Error{Kind: fail.Full, Op: "write", Object: "scratch file of " + d.o.Description, Err: err, Hint: "make room where the cache lies (--cache)"}
	}
	for i := from; i < to; i++ {
		if l.data.has(i) {
			l.data[i/64] &^= 1 << (i % 64)
			d.pages.Add(-1)
		}
		if !l.isDirty(i) {
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
		return d.change(ctx, k, at, n, func() error { return d.punch(at, n) })
	})
}

// Trim implements block.Device.
func (d *Device) Trim(ctx context.Context, off, n int64, fua bool) error {
	return d.Zero(ctx, off, n, false, fua)
}

// punch makes a range of the file zeros, without room where the filesystem can do that.
func (d *Device) punch(off, n int64) error {
	err := unix.Fallocate(int(d.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	for none := make([]byte, min(n, 1<<20)); err == unix.EOPNOTSUPP && n > 0; {
		k, werr := d.file.WriteAt(none[:min(n, int64(len(none)))], off)
		if werr != nil {
			return werr
		}
		if off, n = off+int64(k), n-int64(k); n == 0 {
			return nil
		}
	}
	return err
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
	l, base := d.leaf(k), k*extent.LeafBytes
	defer l.pins.Add(-1)
	var extents []extent.Extent
	if !d.stats.hydrated.Load() {
		var err error
		if extents, err = d.image.Map.Leaf(ctx, k); err != nil {
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
		add(to-off, l.isDirty(page) || l.data.has(page) || (next < len(extents) && extents[next].Off < to))
		off = to
	}
	return out, nil
}
