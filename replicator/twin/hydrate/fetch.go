package hydrate

import (
	"context"
	"sync"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/twin"
)

const (
	// maxFetchPages is the most that is fetched at once, and aroundPages how far what comes
	// along in the same blocks is taken.
	maxFetchPages = 256
	aroundPages   = 16
	// mapBytes is what the map keeps in memory.
	mapBytes = 16 << 20
)

// claims are the windows of pages that somebody fetches now. Two who want the same do not
// both fetch it, and who wants another part of it fetches that.
type claims struct {
	mu   sync.Mutex
	held map[int64]chan struct{} // by window
}

// take claims the windows of [first, first+n), as many as are free from the first on, and
// returns how many of the pages lie in them. Where the first is taken, it returns what is
// closed when that is free again.
func (c *claims) take(first, n int64) (got int64, done chan struct{}, wait <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if other := c.held[first/aroundPages]; other != nil {
		return 0, nil, other
	}
	if c.held == nil {
		c.held = map[int64]chan struct{}{}
	}
	done = make(chan struct{})
	for w := first / aroundPages; w <= (first+n-1)/aroundPages && c.held[w] == nil; w++ {
		c.held[w] = done
		got = min(n, (w+1)*aroundPages-first)
	}
	return got, done, nil
}

func (c *claims) release(first, n int64, done chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := first / aroundPages; w <= (first+n-1)/aroundPages; w++ {
		delete(c.held, w)
	}
	close(done)
}

// need sees to it that the pages of [off, off+n), within a leaf, are here. Errors:
// fail.Damaged, fail.Full for the image's disk, and fail.Retry when ctx ends.
func (b *Backing) need(ctx context.Context, off, n int64) error {
	from, to := off/pageBytes, (off+n+pageBytes-1)/pageBytes
	for {
		first, n := b.pages.look(from, to)
		if n == 0 {
			return nil
		}
		n, done, wait := b.claims.take(first, min(n, maxFetchPages))
		if wait != nil {
			select {
			case <-wait:
				continue
			case <-ctx.Done():
			}
		}
		var err error
		if ctx.Err() != nil {
			err = fail.Wrap(fail.Retry, "read", b.point.String(), ctx.Err())
		} else if at, left := b.pages.look(first, first+n); left > 0 {
			err = b.bring(ctx, at, left)
		}
		if wait == nil {
			b.claims.release(first, n, done)
		}
		if err != nil {
			if _, n := b.pages.look(from, to); n == 0 { // written, or the last that was missing meanwhile
				return nil
			}
			return err
		}
		from = first
	}
}

// fetched are pages as the volume has them at the point.
type fetched struct {
	first int64
	buf   []byte
	state []byte // of each page: unknown, hole or data
}

const (
	unknown byte = iota
	hole
	data
)

// bring fetches pages and puts them into the image.
func (b *Backing) bring(ctx context.Context, first, n int64) error {
	f, err := b.fetch(ctx, first, n)
	if err != nil {
		return err
	}
	return b.put(f)
}

// fetch reads pages of a leaf from the store, as long as that takes.
func (b *Backing) fetch(ctx context.Context, first, n int64) (f *fetched, err error) {
	err = b.patiently(ctx, func(image *twin.Image) error {
		return image.Current(ctx, func() error {
			f, err = b.fetchNow(ctx, image, first, n)
			return err
		})
	})
	return f, err
}

// fetchNow takes along what else lies in the blocks that it reads, a little around.
func (b *Backing) fetchNow(ctx context.Context, image *twin.Image, first, n int64) (*fetched, error) {
	leaf := first / leafPages
	extents, err := image.Map.Leaf(ctx, leaf)
	if err != nil {
		return nil, err
	}
	reads := map[extent.BlockAddr]bool{}
	for _, e := range extent.Within(extents, first*pageBytes, (first+n)*pageBytes) {
		reads[e.Addr()] = true
	}
	from, to := first, first+n
	lo, hi := max(from-aroundPages, leaf*leafPages), min(to+aroundPages, (leaf+1)*leafPages, b.pages.total)
	near := extent.Within(extents, lo*pageBytes, hi*pageBytes)
	var ours []extent.Extent
	for i := range near {
		if e := &near[i]; reads[e.Addr()] {
			from, to = min(from, max(lo, e.Off/pageBytes)), max(to, min(hi, (e.End()+pageBytes-1)/pageBytes))
			ours = append(ours, *e)
		}
	}
	f := &fetched{first: from, state: make([]byte, to-from),
		buf: make([]byte, min(to*pageBytes, b.point.SizeBytes)-from*pageBytes)}
	for i := range f.state {
		f.state[i] = hole
	}
	for i := range near {
		e := &near[i]
		for p := max(e.Off/pageBytes, from); p*pageBytes < e.End() && p < to; p++ {
			switch s := &f.state[p-from]; {
			case !reads[e.Addr()]:
				*s = unknown
			case *s == hole:
				*s = data
			}
		}
	}
	if len(ours) == 0 {
		return f, nil
	}
	read, err := image.Assemble(ctx, f.buf, from*pageBytes, ours)
	b.fetched.Add(read)
	return f, err
}

// put writes those pages to the image that are still not here.
func (b *Backing) put(f *fetched) error {
	l := b.pages.lock(f.first)
	l.Lock()
	defer l.Unlock()
	if b.closed.Load() {
		return b.isClosed("fetch")
	}
	end := f.first + int64(len(f.state))
	for i := f.first; i < end; {
		s := f.state[i-f.first]
		if s == unknown || b.pages.has(i) {
			i++
			continue
		}
		from := i
		for i < end && f.state[i-f.first] == s && !b.pages.has(i) {
			i++
		}
		off, to := from*pageBytes, min(i*pageBytes, b.point.SizeBytes)
		var err error
		if s == hole {
			err = b.Disk.Zero(off, to-off, false)
		} else {
			err = b.Disk.WriteAt(f.buf[off-f.first*pageBytes:to-f.first*pageBytes], off)
		}
		if err != nil {
			b.noteDisk(err)
			return err
		}
		b.pages.mark(from, i)
	}
	b.noteDisk(nil)
	return nil
}

// readPast reads within a leaf what is not here past the image, whose disk is full.
func (b *Backing) readPast(ctx context.Context, p []byte, off int64) error {
	end := off + int64(len(p))
	part := func(from, to int64) ([]byte, int64) {
		lo, hi := max(off, from*pageBytes), min(end, to*pageBytes)
		return p[lo-off : max(lo, hi)-off], lo
	}
	from, to := off/pageBytes, (end+pageBytes-1)/pageBytes
	for from < to {
		first, n := b.pages.look(from, to)
		here, at := part(from, first)
		if err := b.Disk.ReadAt(here, at); err != nil || n == 0 {
			return err
		}
		n = min(n, maxFetchPages)
		f, err := b.fetch(ctx, first, n)
		if err != nil {
			if _, left := b.pages.look(first, first+n); left == 0 { // that is why it was ended
				continue
			}
			return err
		}
		missing, at := part(first, first+n)
		copy(missing, f.buf[at-f.first*pageBytes:])
		from = first + n
	}
	return nil
}

// patiently calls f with the point's image, and again while the store fails, until ctx ends.
// Only damage is no matter of time.
func (b *Backing) patiently(ctx context.Context, f func(*twin.Image) error) error {
	b.use()
	defer func() { _ = b.leave() }()
	for wait := b.o.MinWait; ; wait = min(2*wait, b.o.MaxWait) {
		image, err := b.open(ctx)
		if err == nil {
			err = f(image)
			if fail.Is(err, fail.NotFound) { // and no newer catalog knows it either
				err = &fail.Error{Kind: fail.Damaged, Op: "read", Object: b.point.String(), Err: err,
					Hint: fail.HintOf(err)}
			}
		}
		if err == nil {
			b.well()
			return nil
		}
		if ctx.Err() != nil {
			return fail.Wrap(fail.Retry, "read", b.point.String(), ctx.Err())
		}
		b.note(err)
		if lasting(err) {
			return err
		}
		b.o.Notify(err)
		if !sleep(ctx, wait) {
			return fail.Wrap(fail.Retry, "read", b.point.String(), ctx.Err())
		}
	}
}

// lasting reports whether trying again soon is no use.
func lasting(err error) bool { return fail.Is(err, fail.Damaged) || fail.Is(err, fail.Unsupported) }

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// note keeps an error for the status; nil says that all goes well.
func (b *Backing) note(err error) {
	b.mu.Lock()
	b.failed = err
	b.mu.Unlock()
}

// noteDisk keeps an error of the image's disk, which comes first: what the store says is no
// help then.
func (b *Backing) noteDisk(err error) {
	if err == nil && !b.full.Load() {
		return
	}
	b.mu.Lock()
	b.disk = err
	b.full.Store(err != nil)
	b.mu.Unlock()
}

// well says that the store answers. What is damaged may still be.
func (b *Backing) well() {
	b.mu.Lock()
	if !lasting(b.failed) {
		b.failed = nil
	}
	b.mu.Unlock()
}

// open returns the point's image, which one caller opens for all.
func (b *Backing) open(ctx context.Context) (*twin.Image, error) {
	have := func() *twin.Image {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.image
	}
	if image := have(); image != nil {
		return image, nil
	}
	return b.opening.Do(ctx, struct{}{}, func() (*twin.Image, error) {
		if image := have(); image != nil {
			return image, nil
		}
		image, err := b.o.Image(ctx, b.point)
		if err != nil {
			return nil, err
		}
		image.Map.Limit(mapBytes)
		b.mu.Lock()
		b.image = image
		b.mu.Unlock()
		return image, nil
	})
}

// use keeps the image open until leave.
func (b *Backing) use() {
	b.mu.Lock()
	b.users++
	b.mu.Unlock()
}

// leave closes the image when it is not needed any more and nobody uses it.
func (b *Backing) leave() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.users--; b.users > 0 || b.ctx.Err() == nil || b.image == nil {
		return nil
	}
	image := b.image
	b.image = nil
	return image.Close()
}
