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
// left by the same owner, during the same boot, with the same size; otherwise
// the arena is new, and kept reports false. Only one process may hold it.
func Open(o Options) (a *Arena, found []Recovered, kept bool, err error) {
	chunks := int(o.Bytes / ChunkBytes)
	if a, found, ok, err := openOld(o, chunks); err != nil || ok {
		return a, found, ok, err
	}
	if o.Bytes < MinBytes {
		return nil, nil, false, fail.New(fail.Invalid, "open arena", o.Path,
			fmt.Sprintf("memory of %d bytes is less than the minimum of %d", o.Bytes, MinBytes)).WithHint("raise memory in the configuration")
	}
	a = &Arena{path: o.Path, room: make(chan struct{}), cur: noChunk, pressure: o.Pressure}
	slots := chunks * slotsPerChunk
	chainOff := headBytes + slots*slotBytes
	dataOff := (chainOff + chunks*4 + 4095) &^ 4095
	total := int64(dataOff + chunks*ChunkBytes)

	file, err := openLocked(o.Path)
	if err != nil {
		return nil, nil, false, err
	}
	a.file = file
	defer func() {
		if err != nil {
			_ = file.Close()
		}
	}()
	head := makeHead(chunks, o.Owner, bootID())
	kept = a.matches(head, total)
	if !kept {
		// A fresh file, so that nothing of another life can be taken for ours.
		if err := reserve(a.file, total); err != nil {
			return nil, nil, false, err
		}
	}
	a.mem, err = unix.Mmap(int(a.file.Fd()), 0, int(total), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, false, fail.Wrap(fail.Full, "map arena", o.Path, err)
	}
	a.slots = a.mem[headBytes:chainOff]
	a.chain = a.mem[chainOff : chainOff+chunks*4]
	a.data = a.mem[dataOff:]
	a.refs = make([]int32, chunks)
	if !kept {
		copy(a.mem, head)
	}
	found = a.recover()
	return a, found, kept, nil
}

// openOld looks for an arena of the same owner and boot that has another size: a
// setting was changed, but acknowledged writes may still be in it. Such a one is
// used as it is until a start finds it empty.
func openOld(o Options, chunks int) (*Arena, []Recovered, bool, error) {
	b := make([]byte, 512)
	f, err := os.Open(o.Path)
	if err != nil {
		return nil, nil, false, nil // there is none: Open says what is wrong with the path
	}
	_, err = f.ReadAt(b, 0)
	_ = f.Close()
	old := int(binary.LittleEndian.Uint32(b[8:]))
	if err != nil || old == chunks || old < MinBytes/ChunkBytes || string(b) != string(makeHead(old, o.Owner, bootID())) {
		return nil, nil, false, nil
	}
	prev := o
	prev.Bytes = int64(old) * ChunkBytes
	a, found, kept, err := Open(prev)
	if err != nil || (kept && len(found) > 0) {
		return a, found, kept, err
	}
	return nil, nil, false, a.Close()
}

func openLocked(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fail.Wrap(fail.Denied, "open arena", path, err)
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
		e := &fail.Error{Kind: fail.Full, Op: "create arena", Object: f.Name(), Err: fmt.Errorf("%d bytes: %w", total, err)}
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

func (a *Arena) matches(head []byte, total int64) bool {
	st, err := a.file.Stat()
	if err != nil || st.Size() != total {
		return false
	}
	got := make([]byte, len(head))
	_, err = a.file.ReadAt(got, 0)
	return err == nil && string(got) == string(head)
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
	if a.mem == nil {
		return nil
	}
	err := unix.Munmap(a.mem)
	a.mem, a.slots, a.chain, a.data = nil, nil, nil, nil
	if cerr := a.file.Close(); err == nil {
		err = cerr
	}
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
