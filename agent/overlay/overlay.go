package overlay

import (
	"cmp"
	"math"
	"slices"
	"sync"

	"github.com/pollux-dr/pollux/agent/arena"
)

const (
	// BlockBytes is the granularity of the index; writes may be smaller.
	BlockBytes = 4096
	// WideBytes is the length above which zeros are kept as one range: they may span
	// the whole volume, and an entry per block would take memory without bound.
	WideBytes = 1 << 20
)

// Range is a run of bytes of the volume.
type Range struct{ Off, Len int64 }

// piece is the part of one write that lies in one block. Pieces of a block form
// a chain, newest first.
type piece struct {
	lsn        uint64
	buf        arena.Buf
	from       uint32 // where the piece begins in buf
	start, end uint16 // bytes of the block that it covers
	next       int32
	zero       bool
}

const none = int32(-1)

// wide is a range of whole blocks that reads as zeros. Every piece in it is newer.
type wide struct {
	lsn      uint64
	off, end int64
}

// Overlay is the index of one volume. It is safe for concurrent use.
type Overlay struct {
	mem    *arena.Arena
	mu     sync.RWMutex
	blocks map[int64]int32
	pieces []piece
	free   int32
	wide   []wide // few: whoever sends one waits until the backing has it
}

// New returns an empty index over payloads in mem.
func New(mem *arena.Arena) *Overlay {
	return &Overlay{mem: mem, blocks: make(map[int64]int32), free: none}
}

// Insert makes the write visible to reads. Calls for one volume come in LSN
// order. Without payload (an empty buf) the bytes read as zeros.
func (o *Overlay) Insert(lsn uint64, off, n int64, buf arena.Buf) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if buf.Len == 0 && n > WideBytes {
		start, end := (off+BlockBytes-1)/BlockBytes*BlockBytes, (off+n)/BlockBytes*BlockBytes
		o.removeBlocks(math.MaxUint64, start, end-start) // wholly hidden
		o.wide = append(o.wide, wide{lsn, start, end})
		o.insert(lsn, off, start-off, buf)
		o.insert(lsn, end, off+n-end, buf)
		return
	}
	o.insert(lsn, off, n, buf)
}

// insert puts the pieces of a write on top of their blocks.
func (o *Overlay) insert(lsn uint64, off, n int64, buf arena.Buf) {
	zero := buf.Len == 0
	for pos := off; pos < off+n; {
		block := pos / BlockBytes
		start := pos - block*BlockBytes
		end := min(BlockBytes, off+n-block*BlockBytes)
		head, ok := o.blocks[block]
		if !ok {
			head = none
		}
		if start == 0 && end == BlockBytes && head != none {
			o.drop(head) // wholly hidden
			head = none
		}
		o.blocks[block] = o.take(piece{lsn: lsn, buf: buf, from: uint32(pos - off),
			start: uint16(start), end: uint16(end), next: head, zero: zero})
		pos = block*BlockBytes + end
	}
}

func (o *Overlay) take(p piece) int32 {
	if o.free == none {
		o.pieces = append(o.pieces, p)
		return int32(len(o.pieces) - 1)
	}
	i := o.free
	o.free = o.pieces[i].next
	o.pieces[i] = p
	return i
}

// drop frees the chain from i on.
func (o *Overlay) drop(i int32) {
	for i != none {
		next := o.pieces[i].next
		o.pieces[i].next = o.free
		o.free = i
		i = next
	}
}

// Remove forgets, in [off, off+n), every write up to lsn: the backing holds them.
// Zeros above WideBytes are forgotten where all of them lies in that range.
func (o *Overlay) Remove(lsn uint64, off, n int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wide = slices.DeleteFunc(o.wide, func(w wide) bool { return w.lsn <= lsn && w.off >= off && w.end <= off+n })
	o.removeBlocks(lsn, off, n)
}

func (o *Overlay) removeBlocks(lsn uint64, off, n int64) {
	if len(o.blocks) == 0 {
		return
	}
	if blocks := (off+n-1)/BlockBytes - off/BlockBytes + 1; blocks > int64(len(o.blocks)) {
		for b := range o.blocks { // a huge trim over a small index
			if b >= off/BlockBytes && b <= (off+n-1)/BlockBytes {
				o.removeBlock(b, lsn)
			}
		}
		return
	}
	for b := off / BlockBytes; b <= (off+n-1)/BlockBytes; b++ {
		o.removeBlock(b, lsn)
	}
}

func (o *Overlay) removeBlock(block int64, lsn uint64) {
	head, ok := o.blocks[block]
	if !ok {
		return
	}
	// Newest first: from the first old one on, all are old.
	prev := none
	for i := head; i != none; i = o.pieces[i].next {
		if o.pieces[i].lsn > lsn {
			prev = i
			continue
		}
		o.drop(i)
		if prev == none {
			delete(o.blocks, block)
		} else {
			o.pieces[prev].next = none
		}
		return
	}
}

// Read copies into p what the index holds of [off, off+len(p)) and appends to
// missing the ranges that it does not hold, which the caller reads from the
// backing after this call (not before: a write may move there in between).
func (o *Overlay) Read(p []byte, off int64, missing []Range) []Range {
	o.mu.RLock()
	defer o.mu.RUnlock()
	from := len(missing)
	if len(o.blocks) == 0 {
		missing = append(missing, Range{off, int64(len(p))})
	} else {
		missing = o.readBlocks(p, off, missing)
	}
	for _, w := range o.wide {
		missing = w.read(p, off, missing, from)
	}
	return missing
}

// read clears what w covers of the ranges missing[from:], which lie in p, the bytes of
// the volume from off on. It leaves in missing what it does not cover.
func (w wide) read(p []byte, off int64, missing []Range, from int) []Range {
	for i, n := from, len(missing); i < n; i++ {
		r := missing[i]
		start, end := max(r.Off, w.off), min(r.Off+r.Len, w.end)
		if start >= end {
			continue
		}
		clear(p[start-off : end-off])
		missing[i].Len = start - r.Off
		if rest := r.Off + r.Len - end; rest > 0 {
			missing = append(missing, Range{end, rest})
		}
	}
	return slices.DeleteFunc(missing, func(r Range) bool { return r.Len == 0 })
}

func (o *Overlay) readBlocks(p []byte, off int64, missing []Range) []Range {
	end := off + int64(len(p))
	for pos := off; pos < end; {
		block := pos / BlockBytes
		stop := min(end, (block+1)*BlockBytes)
		head, ok := o.blocks[block]
		if !ok {
			missing = addRange(missing, pos, stop-pos)
		} else {
			missing = o.readBlock(p[pos-off:stop-off], block*BlockBytes, pos, head, missing)
		}
		pos = stop
	}
	return missing
}

// readBlock fills dst, the bytes of the volume from pos on, all in one block.
func (o *Overlay) readBlock(dst []byte, base, pos int64, head int32, missing []Range) []Range {
	lo, hi := int(pos-base), int(pos-base)+len(dst)
	if p := &o.pieces[head]; int(p.start) <= lo && int(p.end) >= hi {
		o.copyPiece(dst, p, lo)
		return missing
	}
	// Partial writes: oldest first, so that newer ones land on top.
	var chain []int32
	for i := head; i != none; i = o.pieces[i].next {
		chain = append(chain, i)
	}
	var covered [BlockBytes]bool
	for k := len(chain) - 1; k >= 0; k-- {
		p := &o.pieces[chain[k]]
		s, e := max(lo, int(p.start)), min(hi, int(p.end))
		if s >= e {
			continue
		}
		o.copyPiece(dst[s-lo:e-lo], p, s)
		for i := s; i < e; i++ {
			covered[i] = true
		}
	}
	for i := lo; i < hi; {
		j := i
		for j < hi && covered[j] == covered[i] {
			j++
		}
		if !covered[i] {
			missing = addRange(missing, base+int64(i), int64(j-i))
		}
		i = j
	}
	return missing
}

// copyPiece fills dst with the piece's bytes from byte at of the block on.
func (o *Overlay) copyPiece(dst []byte, p *piece, at int) {
	if p.zero {
		clear(dst)
		return
	}
	o.mem.CopyOut(dst, p.buf, int(p.from)+at-int(p.start))
}

func addRange(r []Range, off, n int64) []Range {
	if k := len(r) - 1; k >= 0 && r[k].Off+r[k].Len == off {
		r[k].Len += n
		return r
	}
	return append(r, Range{off, n})
}

// Len is the number of blocks that the index holds.
func (o *Overlay) Len() int {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return len(o.blocks)
}

// Blocks returns the blocks that the index holds in [off, off+n), in no order.
func (o *Overlay) Blocks(off, n int64) []Range {
	o.mu.RLock()
	defer o.mu.RUnlock()
	var out []Range
	first, last := off/BlockBytes, (off+n-1)/BlockBytes
	if last-first > int64(len(o.blocks)) {
		for b := range o.blocks {
			if b >= first && b <= last {
				out = append(out, Range{b * BlockBytes, BlockBytes})
			}
		}
		return out
	}
	for b := first; b <= last; b++ {
		if _, ok := o.blocks[b]; ok {
			out = append(out, Range{b * BlockBytes, BlockBytes})
		}
	}
	return out
}

// Sort orders ranges by offset.
func Sort(r []Range) {
	slices.SortFunc(r, func(a, b Range) int { return cmp.Compare(a.Off, b.Off) })
}
