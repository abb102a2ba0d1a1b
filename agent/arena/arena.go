package arena

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/private"
)

const (
	magic   = "PLXA"
	version = 1

	headBytes  = 4096
	slotBytes  = 64
	ChunkBytes = 64 << 10
	// slotsPerChunk bounds the number of small writes in memory: on average one
	// per 2 KiB.
	slotsPerChunk = 32
	alignBytes    = 64
	noChunk       = ^uint32(0)

	// MinBytes is the smallest arena.
	MinBytes = 4 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Arena is a mapped arena. It is safe for concurrent use.
//
//	head    4 KiB  magic "PLXA", version, chunks, owner, boot id, generation, CRC-32C
//	slots   64 B each: see slot.go
//	chain   4 B per chunk: the next chunk of a write that spans several
//	chunks  64 KiB each
type Arena struct {
	path  string
	file  *os.File
	mem   []byte
	slots []byte
	chain []byte
	data  []byte

	mu        sync.Mutex
	room      chan struct{} // closed and replaced when memory is freed
	freeSlots []uint32
	freeChunk []uint32
	refs      []int32 // per chunk: buffers and slots that lie in it
	cur       uint32  // chunk that small writes share, or noChunk
	curOff    int
	waiting   int
	pressure  func()
}

// Options say where an arena lies and whose it is.
type Options struct {
	Path  string // on tmpfs
	Bytes int64  // payload memory
	Owner string // whoever opens it under another name gets a fresh one
	// Pressure is called when a writer waits for memory, so that open frames
	// are sealed without waiting for more. It must not block.
	Pressure func()
}

// Open maps the arena at o.Path. Recovered writes are returned when the file was
// left by the same owner, during the same boot; otherwise the arena is new, and kept
// reports false. One of another size (a setting was changed) is used as it is while
// there are acknowledged writes in it. Only one process may hold it, and no other
// user may be able to touch it.
func Open(o Options) (a *Arena, found []Recovered, kept bool, err error) {
	file, err := openLocked(o.Path)
	if err != nil {
		return nil, nil, false, err
	}
	a = &Arena{path: o.Path, file: file, room: make(chan struct{}), cur: noChunk, pressure: o.Pressure}
	if found, kept, err = a.open(&o); err != nil {
		_ = a.Close()
		return nil, nil, false, err
	}
	return a, found, kept, nil
}

func (a *Arena) open(o *Options) (found []Recovered, kept bool, err error) {
	chunks := int(o.Bytes / ChunkBytes)
	if old, ok := a.chunks(o.Owner); ok {
		if err := a.mapFile(old); err != nil {
			return nil, false, err
		}
		if found = a.recover(); old == chunks || len(found) > 0 {
			return found, true, nil
		}
		a.unmap()
	}
	if o.Bytes < MinBytes {
		return nil, false, fail.New(fail.Invalid, "open arena", o.Path,
			fmt.Sprintf("memory of %d bytes is less than the minimum of %d", o.Bytes, MinBytes)).
			WithHint("raise memory in the configuration")
	}
	// A fresh file, so that nothing of another life can be taken for ours.
	if err := reserve(a.file, placeOf(chunks).total); err != nil {
		return nil, false, err
	}
	if err := a.mapFile(chunks); err != nil {
		return nil, false, err
	}
	copy(a.mem, makeHead(chunks, o.Owner, bootID()))
	return a.recover(), false, nil
}

// place is where the parts of an arena lie in its file.
type place struct {
	chain, data int
	total       int64
}

func placeOf(chunks int) (p place) {
	p.chain = headBytes + chunks*slotsPerChunk*slotBytes
	p.data = (p.chain + chunks*4 + 4095) &^ 4095
	p.total = int64(p.data + chunks*ChunkBytes)
	return p
}

// mapFile maps the file as one of so many chunks.
func (a *Arena) mapFile(chunks int) error {
	p := placeOf(chunks)
	mem, err := unix.Mmap(int(a.file.Fd()), 0, int(p.total), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fail.Wrap(fail.Full, "map arena", a.path, err)
	}
	a.mem, a.slots, a.chain, a.data = mem, mem[headBytes:p.chain], mem[p.chain:p.chain+chunks*4], mem[p.data:]
	a.refs, a.freeSlots, a.freeChunk = make([]int32, chunks), nil, nil
	return nil
}

func (a *Arena) unmap() {
	if a.mem != nil {
		_ = unix.Munmap(a.mem)
	}
	a.mem, a.slots, a.chain, a.data = nil, nil, nil, nil
}

// chunks is how many the file has, if owner left it during this boot.
func (a *Arena) chunks(owner string) (n int, ok bool) {
	got := make([]byte, 512)
	if _, err := a.file.ReadAt(got, 0); err != nil {
		return 0, false
	}
	n = int(binary.LittleEndian.Uint32(got[8:]))
	if n < MinBytes/ChunkBytes || string(got) != string(makeHead(n, owner, bootID())) {
		return 0, false
	}
	st, err := a.file.Stat()
	return n, err == nil && st.Size() == placeOf(n).total
}

func openLocked(path string) (*os.File, error) {
	f, err := private.OpenFile(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fail.New(fail.Refused, "open arena", path, "another process holds it").
			WithHint("is another agent running with this configuration?")
	}
	return f, nil
}

// reserve empties the file and takes all its memory at once: a tmpfs that fills
// up later would kill the agent with SIGBUS.
func reserve(f *os.File, total int64) error {
	if err := f.Truncate(0); err != nil {
		return fail.Wrap(fail.Denied, "create arena", f.Name(), err)
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, total); err != nil {
		_ = f.Truncate(0)
		e := &fail.Error{Kind: fail.Full, Op: "create arena", Object: f.Name(),
			Err: fmt.Errorf("%d bytes: %w", total, err)}
		return e.WithHint("lower memory in the configuration, or free or enlarge this tmpfs")
	}
	return nil
}

func makeHead(chunks int, owner, boot string) []byte {
	b := make([]byte, 512)
	copy(b, magic)
	binary.LittleEndian.PutUint32(b[4:], version)
	binary.LittleEndian.PutUint32(b[8:], uint32(chunks))
	copy(b[16:80], boot)
	copy(b[80:500], owner)
	binary.LittleEndian.PutUint32(b[508:], crc32.Checksum(b[:508], castagnoli))
	return b
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return string(b[:min(len(b), 36)])
}

// Close unmaps the arena; what is committed stays for the next process.
func (a *Arena) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil {
		return nil
	}
	a.unmap()
	err := a.file.Close()
	a.file = nil
	return err
}

// Remove deletes the arena's file: after a clean stop nothing in it is needed.
func (a *Arena) Remove() error { return os.Remove(a.path) }

// Usage is how much of the arena is taken.
type Usage struct{ UsedBytes, TotalBytes int64 }

// Usage reports the chunks in use.
func (a *Arena) Usage() Usage {
	a.mu.Lock()
	defer a.mu.Unlock()
	total := int64(len(a.refs)) * ChunkBytes
	return Usage{UsedBytes: total - int64(len(a.freeChunk))*ChunkBytes, TotalBytes: total}
}

// wait blocks until memory was freed or ctx ends. Called with mu held, returns
// with mu held.
func (a *Arena) wait(ctx context.Context) error {
	room := a.room
	a.waiting++
	a.mu.Unlock()
	if a.pressure != nil {
		a.pressure()
	}
	var err error
	select {
	case <-room:
	case <-ctx.Done():
		err = ctx.Err()
	}
	a.mu.Lock()
	a.waiting--
	if err == nil && a.mem == nil {
		err = os.ErrClosed
	}
	return err
}

// freed wakes whoever waits. Called with mu held.
func (a *Arena) freed() {
	if a.waiting > 0 {
		close(a.room)
		a.room = make(chan struct{})
	}
}
