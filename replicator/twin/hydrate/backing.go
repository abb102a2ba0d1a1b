package hydrate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/flight"
	"github.com/pollux-dr/pollux/internal/provenance"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// Disk is the image as it is: the agent's backing, which says what each method promises.
type Disk interface {
	ReadAt(p []byte, off int64) error
	WriteAt(p []byte, off int64) error
	Zero(off, n int64, keep bool) error
	StartSync(off, n int64)
	Sync() error
	Unsynced()
	Forget(off, n int64)
	SizeBytes() int64
	Whole() error
	SetIdentity(id, text string) error
	HasIdentity(id string) bool
	ClearIdentity(id string) error
	Data(off int64) (start, n int64, err error)
	Close() error
}

// Options say how an image is filled.
type Options struct {
	// Context ends, beside Close, what waits for the store; nil never does.
	Context context.Context
	// Image opens the point. It is called when the store is needed first, and again while it
	// fails; it may wait. What it returns is closed by the Backing.
	Image func(ctx context.Context, p Point) (*twin.Image, error)
	// ScratchDir is for what memory should not hold; "" is the system's place for that.
	ScratchDir string
	// Notify, if set, hears of each error that is waited out.
	Notify func(error)
	// MinWait and MaxWait bound the waits between attempts at the store; default 100 ms and 10 s.
	MinWait, MaxWait time.Duration
	// DamageWait is for how long the background leaves damage alone; default 10 minutes.
	DamageWait time.Duration
	// SyncBytes is after how much the background makes durable what it fetched; default 64 MiB.
	SyncBytes int64
}

func (o *Options) complete() {
	for _, d := range []struct {
		p *time.Duration
		v time.Duration
	}{{&o.MinWait, 100 * time.Millisecond}, {&o.MaxWait, 10 * time.Second}, {&o.DamageWait, 10 * time.Minute}} {
		if *d.p == 0 {
			*d.p = d.v
		}
	}
	if o.Context == nil {
		o.Context = context.Background()
	}
	if o.Notify == nil {
		o.Notify = func(error) {}
	}
	if o.SyncBytes == 0 {
		o.SyncBytes = 64 << 20
	}
}

// Backing is an image that is being filled. It is a Disk, with the same promises; reads and
// writes of what is not here yet wait for the store, until Close.
type Backing struct {
	Disk
	place Place
	point Point
	o     Options
	pages *pages
	done  atomic.Bool // all is here, and the side file is gone
	// closed is set before a last time that all pages' locks are free: from then on nothing is
	// fetched into the image.
	closed atomic.Bool

	syncing sync.Mutex // one Sync at a time
	side    *side      // under syncing
	durable int64      // pages that the side file has; under syncing
	lost    error      // of a Sync; what it should have made durable may be lost; under syncing

	claims  claims
	opening flight.Group[struct{}, *twin.Image]
	ctx     context.Context // of all that waits for the store; it ends when that is not needed
	end     context.CancelFunc

	mu     sync.Mutex // of what follows
	image  *twin.Image
	users  int         // who uses the image
	failed error       // the last error of the store, or of filling; nil when it goes well
	disk   error       // the last of the image's disk, when it was given what had come
	full   atomic.Bool // there is one

	fetched atomic.Int64 // plain bytes from the store
}

// Open opens an image that Place.Pending reports, over what the path holds. The Disk is the
// Backing's to close, also where Open fails. Errors: fail.Damaged for a side file that cannot
// be read, fail.Refused where it is another image's.
func Open(d Disk, p Place, o Options) (*Backing, error) {
	b, err := open(d, p, o)
	if err != nil {
		_ = d.Close()
		return nil, err
	}
	return b, nil
}

func open(d Disk, p Place, o Options) (*Backing, error) {
	o.complete()
	s, pages, err := openSide(p.fs(), p.Side())
	if err != nil {
		return nil, err
	}
	b := &Backing{Disk: d, place: p, point: s.head.Point, o: o, side: s, pages: pages, durable: pages.here.Load()}
	b.ctx, b.end = context.WithCancel(o.Context)
	if err := b.belongs(); err != nil {
		b.end()
		s.close()
		return nil, err
	}
	return b, nil
}

// belongs refuses a side file that is not of this image.
func (b *Backing) belongs() error {
	refuse := func(why string) error {
		return fail.New(fail.Refused, "open", b.place.Path, why).
			WithHint("if the image is complete, as one is that was restored to this place, move " +
				b.side.path + " away")
	}
	if n := b.SizeBytes(); n != b.point.SizeBytes {
		return refuse(fmt.Sprintf("the volume has %d bytes, the side file is of one of %d", n, b.point.SizeBytes))
	}
	complete := b.durable == b.pages.total // then the image may bear its id no more
	if id := b.side.head.ID; id != "" && !complete && provenance.Hydrating(b.place.Path) != id {
		return refuse("another file is in the place of the one that was being filled from the object store")
	}
	return nil
}

// Point is what the image is filled with.
func (b *Backing) Point() Point { return b.point }

// Done reports whether the image is a plain one by now.
func (b *Backing) Done() bool { return b.done.Load() }

// Stats say how far it is.
type Stats struct {
	SizeBytes    int64 `json:"size_bytes"`
	HereBytes    int64 `json:"here_bytes"`    // of them, holes and what was written included
	FetchedBytes int64 `json:"fetched_bytes"` // from the store since the start
	Done         bool  `json:"done"`          // the store is not needed any more
	Error        error `json:"-"`             // why it does not go on; nil while it does
}

// Stats returns how far it is.
func (b *Backing) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := Stats{SizeBytes: b.point.SizeBytes, HereBytes: min(b.pages.here.Load()*pageBytes, b.point.SizeBytes),
		FetchedBytes: b.fetched.Load(), Done: b.done.Load(), Error: b.failed}
	if b.disk != nil {
		s.Error = b.disk
	}
	return s
}

// byLeaf calls fn with the parts of [off, off+n) in each leaf.
func (b *Backing) byLeaf(op string, off, n int64, fn func(off, n int64) error) error {
	if off < 0 || n < 0 || off > b.point.SizeBytes-n {
		return fail.New(fail.Invalid, op, b.place.Path, fmt.Sprintf("%d bytes at %d lie outside", n, off))
	}
	for end := off + n; off < end; {
		to := min(end, (off/extent.LeafBytes+1)*extent.LeafBytes)
		if err := fn(off, to-off); err != nil {
			return err
		}
		off = to
	}
	return nil
}

// ReadAt fetches what is not here yet.
func (b *Backing) ReadAt(p []byte, off int64) error {
	if b.done.Load() {
		return b.Disk.ReadAt(p, off)
	}
	return b.byLeaf("read", off, int64(len(p)), func(at, n int64) error {
		part := p[at-off:][:n]
		err := b.need(b.ctx, at, n)
		if fail.Is(err, fail.Full) {
			return b.readPast(b.ctx, part, at)
		}
		if err != nil {
			return err
		}
		return b.Disk.ReadAt(part, at)
	})
}

// WriteAt fetches pages that are overwritten in part.
func (b *Backing) WriteAt(p []byte, off int64) error {
	if b.done.Load() {
		return b.Disk.WriteAt(p, off)
	}
	return b.byLeaf("write", off, int64(len(p)), func(at, n int64) error {
		return b.change(at, n, func() error { return b.Disk.WriteAt(p[at-off:][:n], at) })
	})
}

// Zero fetches pages that are made zeros in part.
func (b *Backing) Zero(off, n int64, keep bool) error {
	if b.done.Load() {
		return b.Disk.Zero(off, n, keep)
	}
	return b.byLeaf("zero", off, n, func(at, n int64) error {
		return b.change(at, n, func() error { return b.Disk.Zero(at, n, keep) })
	})
}

// change has do change [off, off+n), within a leaf.
func (b *Backing) change(off, n int64, do func() error) error {
	if n == 0 {
		return nil
	}
	end := off + n
	first, last := off/pageBytes, (end-1)/pageBytes
	head := off%pageBytes != 0
	tail := end%pageBytes != 0 && end != b.point.SizeBytes
	for {
		if head || tail && first == last {
			if err := b.need(b.ctx, off, 1); err != nil {
				return err
			}
		}
		if tail && first != last {
			if err := b.need(b.ctx, end-1, 1); err != nil {
				return err
			}
		}
		ok, err := b.changeNow(first, last, head || tail && first == last, tail, do)
		if ok || err != nil {
			return err
		}
	}
}

// changeNow is change once the pages at the edges are here. It is not ok where one is not.
func (b *Backing) changeNow(first, last int64, head, tail bool, do func() error) (ok bool, err error) {
	l := b.pages.lock(first)
	l.Lock()
	defer l.Unlock()
	if head && !b.pages.has(first) || tail && !b.pages.has(last) {
		return false, nil // it was dropped since, because a sync failed
	}
	if err := do(); err != nil {
		return false, err
	}
	b.pages.mark(first, last+1)
	return true, nil
}

// Sync makes all that was written durable, and after that says durably that it is here. The
// one that finds all of the volume here makes the image a plain one.
func (b *Backing) Sync() error {
	if b.done.Load() {
		return b.Disk.Sync()
	}
	b.syncing.Lock()
	defer b.syncing.Unlock()
	if b.closed.Load() {
		return b.isClosed("sync")
	}
	if b.done.Load() {
		return b.Disk.Sync()
	}
	if b.lost != nil { // the kernel would not say so twice
		return b.lost
	}
	runs := b.pages.take()
	err := b.Disk.Sync()
	if err == nil && len(runs) > 0 {
		err = b.side.append(runs)
	}
	if err != nil {
		b.pages.giveBack(runs)
		b.lost = err
		return err
	}
	for _, r := range runs {
		b.durable += r.n
	}
	if b.durable == b.pages.total {
		b.note(b.finish())
	}
	return nil
}

// finish makes of an image that is complete, and durably so, a plain one. The caller has
// syncing. After an error the next Sync, or the next start, tries it again.
func (b *Backing) finish() error {
	if b.side.head.ID != "" {
		if err := provenance.ClearHydrating(b.place.Path); err != nil {
			return err
		}
	}
	if err := b.side.remove(); err != nil {
		return err
	}
	b.side.close()
	b.done.Store(true)
	b.end()
	b.use() // whoever leaves last closes the image
	_ = b.leave()
	return nil
}

// Unsynced takes back what is here and was not made durable, after a Sync that failed: it is
// fetched again, and what was written to it has to be written again, as the Disk asks for.
// Nobody reads meanwhile. Until then each Sync fails.
func (b *Backing) Unsynced() {
	b.syncing.Lock()
	b.pages.unset(b.pages.take())
	b.lost = nil
	b.syncing.Unlock()
	b.Disk.Unsynced()
}

// Data takes all for data, until it is known here: what is not here may be.
func (b *Backing) Data(off int64) (start, n int64, err error) {
	if b.done.Load() {
		return b.Disk.Data(off)
	}
	if err := b.Whole(); err != nil {
		return 0, 0, err
	}
	return off, max(0, b.point.SizeBytes-off), nil
}

func (b *Backing) isClosed(op string) error {
	return fail.New(fail.NotFound, op, b.place.Path, "the volume was removed")
}

// Close ends all that waits for the store.
func (b *Backing) Close() error {
	b.end()
	b.syncing.Lock()
	b.closed.Store(true)
	b.side.close()
	b.syncing.Unlock()
	b.pages.settle()
	b.use()
	return errors.Join(b.leave(), b.Disk.Close())
}
