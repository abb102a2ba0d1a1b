package mount

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
)

// disk is a file of which no more takes room than was written.
type disk interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Punch makes a range zeros, without room where the filesystem can do that.
	Punch(off, n int64) error
}

type sparse struct{ *os.File }

func noCache(dir string, err error) error {
	return &fail.Error{Kind: fail.Full, Op: "create cache in", Object: dir, Err: err,
		Hint: "--cache names another place"}
}

// unnamed creates a file of n bytes without a name: it goes with the process, however
// that ends.
func unnamed(dir string, n int64) (disk, error) {
	f, err := os.CreateTemp(dir, "pollux-mount-*")
	if err != nil {
		return nil, noCache(dir, err)
	}
	err = os.Remove(f.Name())
	if err == nil {
		err = f.Truncate(n)
	}
	if err != nil {
		return nil, errors.Join(noCache(dir, err), f.Close())
	}
	return sparse{f}, nil
}

func (f sparse) Punch(off, n int64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	for none := make([]byte, min(n, 1<<20)); err == unix.EOPNOTSUPP && n > 0; {
		k, werr := f.WriteAt(none[:min(n, int64(len(none)))], off)
		if werr != nil {
			return werr
		}
		if off, n = off+int64(k), n-int64(k); n == 0 {
			return nil
		}
	}
	return err
}

// leaf returns one, pinned: whoever has it gives it back by release.
func (d *Device) leaf(n int64) (*leaf, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.leaves[n]
	if l == nil {
		var state [leafStateBytes]byte
		if _, err := d.states.ReadAt(state[:], n*leafStateBytes); err != nil && err != io.EOF {
			return nil, fail.Wrap(fail.Internal, "read", "state of the cache", err)
		}
		l = &leaf{number: n}
		l.decode(state[:])
		l.place = d.order.PushFront(l)
		d.leaves[n] = l
		d.evict()
	}
	d.order.MoveToFront(l.place)
	l.pins++
	return l, nil
}

func (d *Device) release(l *leaf) {
	d.mu.Lock()
	l.pins--
	d.mu.Unlock()
}

// evict takes leaves out of memory while there are more than may be, the one used
// longest ago first. The caller holds mu.
func (d *Device) evict() {
	const tries = 8 // those at which somebody is, or that a full disk does not take, stay a while
	e := d.order.Back()
	for i := 0; i < tries && e != nil && d.order.Len() > d.maxLeaves; i++ {
		l, before := e.Value.(*leaf), e.Prev()
		if l.pins == 0 && d.save(l) {
			d.order.Remove(e)
			delete(d.leaves, l.number)
		}
		e = before
	}
}

// save writes down what is here of a leaf, and reports whether it could. What was only
// read is dropped first, unless all is kept. Nobody is at the leaf.
func (d *Device) save(l *leaf) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	d.dropPages(l)
	if !d.pinned.Load() {
		l.have = l.dirty
	}
	if !l.saved && l.have == (bitmap{}) {
		return true
	}
	_, err := d.states.WriteAt(l.encode(make([]byte, 0, leafStateBytes)), l.number*leafStateBytes)
	return err == nil
}

// dropPages gives back the room of a leaf's pages that were only read, unless all is
// kept. The caller holds the leaf's lock.
func (d *Device) dropPages(l *leaf) {
	if d.pinned.Load() || l.clean.Load() == 0 {
		return
	}
	for i := int64(0); i < leafPages; {
		if !l.data.has(i) {
			i++
			continue
		}
		from := i
		for ; i < leafPages && l.data.has(i); i++ {
			l.data.unset(i)
			l.have.unset(i)
		}
		_ = d.file.Punch(l.number*extent.LeafBytes+from*pageBytes, (i-from)*pageBytes)
	}
	d.pages.Add(-int64(l.clean.Swap(0)))
}

// dropTo drops what was read, leaf by leaf, the one used longest ago first, until no
// more than limit bytes of it are left.
func (d *Device) dropTo(limit int64) {
	for d.pages.Load()*pageBytes > limit && !d.pinned.Load() {
		var victim *leaf
		d.mu.Lock()
		for e := d.order.Back(); e != nil && victim == nil; e = e.Prev() {
			if l := e.Value.(*leaf); l.clean.Load() > 0 {
				victim = l
				l.pins++
			}
		}
		d.mu.Unlock()
		if victim == nil {
			return
		}
		victim.mu.Lock()
		d.dropPages(victim)
		victim.mu.Unlock()
		d.release(victim)
	}
}

// makeRoom drops half of what was read and is kept when the file could not be written
// because of cause: what clients wrote comes first, and what was read can be read again. It
// reports whether that, or what another request dropped since drops was seen, may have
// helped.
func (d *Device) makeRoom(drops int64, cause error) bool {
	if !errors.Is(cause, unix.ENOSPC) && !errors.Is(cause, unix.EDQUOT) {
		return false
	}
	d.room.Lock()
	defer d.room.Unlock()
	if d.drops.Load() != drops {
		return true
	}
	if !d.giveUpHydration() {
		return false
	}
	before := d.pages.Load()
	d.dropTo(before / 2 * pageBytes)
	if d.pages.Load() >= before {
		return false
	}
	d.drops.Add(1)
	return true
}

// giveUpHydration lets what was read be dropped again. It reports false where the
// store is not needed any more, and so not counted on.
func (d *Device) giveUpHydration() bool {
	d.mu.Lock()
	hydrated, pinned := d.stats.hydrated.Load(), d.pinned.Load()
	if !hydrated {
		d.pinned.Store(false)
	}
	d.mu.Unlock()
	if hydrated || !pinned {
		return !hydrated
	}
	for k := range (d.size + extent.LeafBytes - 1) / extent.LeafBytes { // those whose pages were kept out of memory
		if l, err := d.leaf(k); err == nil {
			d.release(l)
		}
	}
	return true
}
