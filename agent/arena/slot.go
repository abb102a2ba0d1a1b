package arena

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"sort"

	"github.com/pollux-dr/pollux/internal/change"
)

// Addr is where a write's bytes begin in the chunk memory.
type Addr uint64

// Buf is payload memory on its way from a front end into a committed write. Zeros and
// trims have a Buf of length 0.
type Buf struct {
	Addr Addr
	Len  int
}

// Alloc returns memory for n bytes (1 to change.MaxRecordBytes), waiting while
// there is none.
func (a *Arena) Alloc(ctx context.Context, n int) (Buf, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for {
		if b, ok := a.tryAlloc(n); ok {
			return b, nil
		}
		if err := a.wait(ctx); err != nil {
			return Buf{}, err
		}
	}
}

func (a *Arena) tryAlloc(n int) (Buf, bool) {
	if n < ChunkBytes {
		need := (n + alignBytes - 1) &^ (alignBytes - 1)
		if a.cur != noChunk && a.curOff+need <= ChunkBytes {
			b := Buf{Addr(int(a.cur)*ChunkBytes + a.curOff), n}
			a.curOff += need
			a.refs[a.cur]++
			return b, true
		}
		if len(a.freeChunk) == 0 {
			return Buf{}, false
		}
		a.dropRef(a.cur) // the allocator's own hold on the full one
		a.cur = a.takeChunk()
		a.refs[a.cur]++
		a.curOff = need
		return Buf{Addr(int(a.cur) * ChunkBytes), n}, true
	}
	chunks := (n + ChunkBytes - 1) / ChunkBytes
	if len(a.freeChunk) < chunks {
		return Buf{}, false
	}
	first := a.takeChunk()
	prev := first
	for range chunks - 1 {
		c := a.takeChunk()
		binary.LittleEndian.PutUint32(a.chain[prev*4:], c)
		prev = c
	}
	return Buf{Addr(int(first) * ChunkBytes), n}, true
}

func (a *Arena) takeChunk() uint32 {
	c := a.freeChunk[len(a.freeChunk)-1]
	a.freeChunk = a.freeChunk[:len(a.freeChunk)-1]
	a.refs[c] = 1
	return c
}

func (a *Arena) dropRef(c uint32) {
	if c == noChunk {
		return
	}
	if a.refs[c]--; a.refs[c] == 0 {
		a.freeChunk = append(a.freeChunk, c)
	}
}

// each calls fn with the chunk and the bytes of every part of b.
func (a *Arena) each(b Buf, fn func(chunk uint32, part []byte)) {
	chunk, off, left := uint32(b.Addr/ChunkBytes), int(b.Addr%ChunkBytes), b.Len
	for {
		n := min(ChunkBytes-off, left)
		at := int(chunk)*ChunkBytes + off
		next := binary.LittleEndian.Uint32(a.chain[chunk*4:])
		fn(chunk, a.data[at:at+n:at+n])
		if left -= n; left == 0 {
			return
		}
		chunk, off = next, 0
	}
}

// Pieces appends the memory of b to dst.
func (a *Arena) Pieces(dst [][]byte, b Buf) [][]byte {
	if b.Len == 0 {
		return dst
	}
	a.each(b, func(_ uint32, part []byte) { dst = append(dst, part) })
	return dst
}

// CopyOut copies the bytes of b that begin at from into dst.
func (a *Arena) CopyOut(dst []byte, b Buf, from int) {
	pos := 0
	a.each(b, func(_ uint32, part []byte) {
		lo, hi := max(from, pos), min(from+len(dst), pos+len(part))
		if lo < hi {
			copy(dst[lo-from:], part[lo-pos:hi-pos])
		}
		pos += len(part)
	})
}

// ReleaseBuf frees memory that was not committed.
func (a *Arena) ReleaseBuf(b Buf) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mem == nil {
		return
	}
	a.release(b)
	a.freed()
}

func (a *Arena) release(b Buf) {
	if b.Len > 0 {
		a.each(b, func(c uint32, _ []byte) { a.dropRef(c) })
	}
}

// Entry is a committed write: what it does and where its bytes are.
type Entry struct {
	Stream uint32 // the stream's number on this agent
	LSN    uint64
	Kind   change.Kind
	Volume uint32
	Off    int64
	Len    uint32
	Time   int64 // ns, when it was acknowledged
	Buf    Buf
}

// SlotID names a committed write for Free.
type SlotID uint32

// Recovered is a committed write found at Open.
type Recovered struct {
	Slot SlotID
	Entry
}

// AllocSlot takes a slot for a coming Commit, waiting while there is none.
func (a *Arena) AllocSlot(ctx context.Context) (SlotID, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.freeSlots) == 0 {
		if err := a.wait(ctx); err != nil {
			return 0, err
		}
	}
	s := a.freeSlots[len(a.freeSlots)-1]
	a.freeSlots = a.freeSlots[:len(a.freeSlots)-1]
	return SlotID(s), nil
}

// Commit records e, whose bytes are complete, in slot s. From here on it
// outlives the process. The caller orders commits of one stream by LSN.
//
//	 0 8 LSN (0: free)  8 4 stream  12 4 volume  16 8 offset  24 4 length  28 4 kind
//	32 8 address       40 4 payload bytes        48 8 time    60 4 CRC-32C of bytes 0..59
func (a *Arena) Commit(s SlotID, e *Entry) {
	le := binary.LittleEndian
	b := a.slots[int(s)*slotBytes:][:slotBytes]
	le.PutUint64(b[0:], e.LSN)
	le.PutUint32(b[8:], e.Stream)
	le.PutUint32(b[12:], e.Volume)
	le.PutUint64(b[16:], uint64(e.Off))
	le.PutUint32(b[24:], e.Len)
	le.PutUint32(b[28:], uint32(e.Kind))
	le.PutUint64(b[32:], uint64(e.Buf.Addr))
	le.PutUint32(b[40:], uint32(e.Buf.Len))
	le.PutUint64(b[48:], uint64(e.Time))
	le.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli)) // last: a torn slot does not count
}

// Item names a committed write and its memory, to be freed.
type Item struct {
	Slot SlotID
	Buf  Buf
}

// Free forgets committed writes, or gives back slots whose write was never
// committed.
func (a *Arena) Free(items []Item) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mem == nil {
		return
	}
	for _, it := range items {
		clear(a.slots[int(it.Slot)*slotBytes:][:slotBytes])
		a.freeSlots = append(a.freeSlots, uint32(it.Slot))
		a.release(it.Buf)
	}
	a.freed()
}

// recover reads all slots, rebuilds what is free, and returns the committed
// writes ordered by stream and LSN.
func (a *Arena) recover() []Recovered {
	var found []Recovered
	le := binary.LittleEndian
	chunks := len(a.refs)
	for s := len(a.slots)/slotBytes - 1; s >= 0; s-- {
		b := a.slots[s*slotBytes:][:slotBytes]
		lsn := le.Uint64(b)
		if lsn != 0 && crc32.Checksum(b[:60], castagnoli) == le.Uint32(b[60:]) {
			e := Entry{
				LSN: lsn, Stream: le.Uint32(b[8:]), Volume: le.Uint32(b[12:]),
				Off: int64(le.Uint64(b[16:])), Len: le.Uint32(b[24:]), Kind: change.Kind(b[28]),
				Buf:  Buf{Addr(le.Uint64(b[32:])), int(le.Uint32(b[40:]))},
				Time: int64(le.Uint64(b[48:])),
			}
			found = append(found, Recovered{SlotID(s), e})
			if e.Buf.Len > 0 {
				a.each(e.Buf, func(c uint32, _ []byte) { a.refs[c]++ })
			}
			continue
		}
		clear(b)
		a.freeSlots = append(a.freeSlots, uint32(s))
	}
	for c := chunks - 1; c >= 0; c-- {
		if a.refs[c] == 0 {
			a.freeChunk = append(a.freeChunk, uint32(c))
		}
	}
	sort.Slice(found, func(i, j int) bool {
		x, y := &found[i], &found[j]
		if x.Stream != y.Stream {
			return x.Stream < y.Stream
		}
		return x.LSN < y.LSN
	})
	return found
}

// Next returns where a write that spans several chunks continues after the one
// that addr lies in.
func (a *Arena) Next(addr Addr) Addr {
	return Addr(binary.LittleEndian.Uint32(a.chain[uint32(addr/ChunkBytes)*4:])) * ChunkBytes
}
