package blocktest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/fail"
)

const pageBytes = 4096

// Op names an operation of a Device to a Hook.
type Op string

// The operations that a Hook sees.
const (
	Read    Op = "read"
	Prepare Op = "prepare"
	Write   Op = "write"
	Zero    Op = "zero"
	Trim    Op = "trim"
	Flush   Op = "flush"
	Extents Op = "extents"
)

// Hook runs before an operation, without locks held. It may block until ctx
// ends; its error becomes the operation's.
type Hook func(ctx context.Context, op Op, off, n int64) error

// Mem is a Device in memory. Its zero value has no bytes; use NewMem.
type Mem struct {
	info block.Info
	hook atomic.Pointer[Hook]

	mu      sync.RWMutex
	data    []byte // what reads see
	durable []byte // what a crash leaves
	dirty   []bool // by page: data and durable may differ
	alloc   []bool // by page: not a hole
	flushes int

	buffers atomic.Int64
}

var _ block.Device = (*Mem)(nil)

// NewMem returns a device of sizeBytes zeros, all hole.
func NewMem(sizeBytes int64) *Mem {
	return NewMemInfo(block.Info{SizeBytes: sizeBytes, MinBlockBytes: 1, PrefBlockBytes: 4096, Description: "memory"})
}

// NewMemInfo returns a device of info's size that describes itself as info.
func NewMemInfo(info block.Info) *Mem {
	pages := (info.SizeBytes + pageBytes - 1) / pageBytes
	return &Mem{
		info:    info,
		data:    make([]byte, info.SizeBytes),
		durable: make([]byte, info.SizeBytes),
		dirty:   make([]bool, pages),
		alloc:   make([]bool, pages),
	}
}

// SetHook installs h for all later operations; nil removes it.
func (m *Mem) SetHook(h Hook) {
	if h == nil {
		m.hook.Store(nil)
		return
	}
	m.hook.Store(&h)
}

// Bytes returns a copy of the visible content.
func (m *Mem) Bytes() []byte {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Clone(m.data)
}

// Durable returns a copy of what a power cut would leave.
func (m *Mem) Durable() []byte {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Clone(m.durable)
}

// Flushes counts the completed flushes.
func (m *Mem) Flushes() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.flushes
}

// Buffers is the number of prepared buffers neither written nor released yet.
func (m *Mem) Buffers() int64 { return m.buffers.Load() }

// Info implements block.Device.
func (m *Mem) Info() block.Info { return m.info }

// ReadAt implements block.Device.
func (m *Mem) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := m.before(ctx, Read, off, int64(len(p))); err != nil {
		return err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	copy(p, m.data[off:])
	return nil
}

// Prepare implements block.Device. Buffers have two pieces where they can, so
// that callers which look only at the first are found out.
func (m *Mem) Prepare(ctx context.Context, n int) (block.Buffer, error) {
	if n < 1 || n > block.MaxWriteBytes {
		return nil, fail.New(fail.Invalid, "prepare", "memory device", fmt.Sprintf("%d bytes", n))
	}
	if err := m.before(ctx, Prepare, 0, 0); err != nil {
		return nil, err
	}
	m.buffers.Add(1)
	heap := block.NewHeapBuffer(n)
	b := &buffer{mem: m, heap: heap}
	cut := n / 3
	b.pieces = [][]byte{heap.Bytes()[:cut], heap.Bytes()[cut:]}
	if cut == 0 {
		b.pieces = b.pieces[1:]
	}
	return b, nil
}

// Write implements block.Device.
func (m *Mem) Write(ctx context.Context, b block.Buffer, off int64, fua bool) error {
	defer b.Release()
	n := int64(len(b.(*buffer).heap.Bytes()))
	if err := m.before(ctx, Write, off, n); err != nil {
		return err
	}
	return m.change(off, n, fua, true, func(p []byte) { copy(p, b.(*buffer).heap.Bytes()) })
}

// Zero implements block.Device.
func (m *Mem) Zero(ctx context.Context, off, n int64, noHole, fua bool) error {
	if err := m.before(ctx, Zero, off, n); err != nil {
		return err
	}
	return m.change(off, n, fua, noHole, func(p []byte) { clear(p) })
}

// Trim implements block.Device.
func (m *Mem) Trim(ctx context.Context, off, n int64, fua bool) error {
	if err := m.before(ctx, Trim, off, n); err != nil {
		return err
	}
	return m.change(off, n, fua, false, func(p []byte) { clear(p) })
}

// Flush implements block.Device.
func (m *Mem) Flush(ctx context.Context) error {
	if err := m.before(ctx, Flush, 0, 0); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.flushes++
	for i, dirty := range m.dirty {
		if dirty {
			from := i * pageBytes
			copy(m.durable[from:min(from+pageBytes, len(m.data))], m.data[from:])
			m.dirty[i] = false
		}
	}
	return nil
}

// Extents implements block.Device, page by page merged.
func (m *Mem) Extents(ctx context.Context, off, n int64) ([]block.Extent, error) {
	if err := m.before(ctx, Extents, off, n); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []block.Extent
	for end := off + n; off < end; {
		next := min((off/pageBytes+1)*pageBytes, end)
		hole := !m.alloc[off/pageBytes]
		if k := len(out); k > 0 && out[k-1].Hole == hole {
			out[k-1].Bytes += next - off
		} else {
			out = append(out, block.Extent{Bytes: next - off, Hole: hole, Zero: hole})
		}
		off = next
	}
	return out, nil
}

func (m *Mem) before(ctx context.Context, op Op, off, n int64) error {
	if off < 0 || n < 0 || off > m.info.SizeBytes || n > m.info.SizeBytes-off {
		return fail.New(fail.Invalid, string(op), "memory device", "out of bounds")
	}
	if h := m.hook.Load(); h != nil {
		return (*h)(ctx, op, off, n)
	}
	return nil
}

// change edits [off, off+n). A page counts as allocated if alloc, and becomes a
// hole only when all of it is given up.
func (m *Mem) change(off, n int64, fua, alloc bool, edit func([]byte)) error {
	if m.info.ReadOnly {
		return fail.New(fail.Refused, "write", "memory device", "read-only")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	edit(m.data[off : off+n])
	for from := off / pageBytes * pageBytes; from < off+n; from += pageBytes {
		page := from / pageBytes
		m.dirty[page] = true
		whole := from >= off && min(from+pageBytes, m.info.SizeBytes) <= off+n
		if alloc || whole {
			m.alloc[page] = alloc
		}
	}
	if fua {
		copy(m.durable[off:off+n], m.data[off:off+n])
	}
	return nil
}

type buffer struct {
	mem    *Mem
	heap   *block.HeapBuffer
	pieces [][]byte
	used   atomic.Bool
}

func (b *buffer) Pieces() [][]byte { return b.pieces }

// Release panics when the buffer was used already: the contract is exactly once.
func (b *buffer) Release() {
	if b.used.Swap(true) {
		panic("blocktest: buffer written or released twice")
	}
	b.mem.buffers.Add(-1)
	b.heap.Release()
}
