package extent

import (
	"slices"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
)

// LeafBytes is how much of a volume is looked at together.
const LeafBytes = 32 << 20

// Block is a compressed block of an object of the log.
type Block struct {
	Object      objlog.ObjectID `json:"Position"`
	Offset      uint32          // in the object
	StoredBytes uint32
	PlainBytes  uint32 // 0: no block, what it stands for is zeros
	CRC         uint32 // CRC-32C of the plain bytes, made beside the write
	Codec       change.Codec
}

// BlockAddr is where a block lies in the bucket.
type BlockAddr struct {
	Object objlog.ObjectID `json:"position"`
	Offset uint32          `json:"offset"`
}

// Before reports whether p lies before q.
func (p BlockAddr) Before(q BlockAddr) bool {
	return p.Object < q.Object || (p.Object == q.Object && p.Offset < q.Offset)
}

// Addr is where the block lies.
func (b *Block) Addr() BlockAddr { return BlockAddr{b.Object, b.Offset} }

// Extent is a run of a volume's bytes, which lies in one block from At on. Extents
// without a block (zeros) hide older ones.
type Extent struct {
	Off   int64 // in the volume
	Len   int64
	At    uint32 // in the block's plain bytes
	Block Block
}

// Zeros reports whether the extent has no data.
func (e *Extent) Zeros() bool { return e.Block.PlainBytes == 0 }

// Addr is where the extent's block lies; zeros lie behind all else.
func (e *Extent) Addr() BlockAddr {
	if e.Zeros() {
		return BlockAddr{^objlog.ObjectID(0), 0}
	}
	return e.Block.Addr()
}

// End is the first byte behind the extent.
func (e *Extent) End() int64 { return e.Off + e.Len }

// Cut returns the part [off, off+n) of e.
func (e *Extent) Cut(off, n int64) Extent {
	out := *e
	out.Off, out.Len = off, n
	if !e.Zeros() {
		out.At += uint32(off - e.Off)
	}
	return out
}

// Within returns those of extents, which are in order and do not overlap, that have a part in
// [from, to).
func Within(extents []Extent, from, to int64) []Extent {
	reaches := func(e Extent, off int64) int {
		if e.End() <= off {
			return -1
		}
		return 1
	}
	lo, _ := slices.BinarySearchFunc(extents, from, reaches)
	hi := lo
	for hi < len(extents) && extents[hi].Off < to {
		hi++
	}
	return extents[lo:hi]
}

// Of calls fn with the extents of entry i of an object, oldest first, up to an LSN.
// Those of a fold come whole: it has no LSNs between.
func Of(x *segment.Index, i int, t *segment.Table, through uint64, fn func(volume uint32, e Extent)) {
	entry := &x.Entries[i]
	for k := range t.Records {
		r := &t.Records[k]
		if entry.Kind == segment.FrameEntry && entry.FirstLSN+uint64(k) > through {
			return
		}
		switch r.Kind {
		case change.Zero, change.Trim:
			fn(r.Volume, Extent{Off: r.Off, Len: int64(r.Len)})
		case change.Write:
			off, at, left := r.Off, int64(r.DataOffset()), int64(r.Len)
			for left > 0 {
				b := &t.Blocks[at/int64(t.BlockBytes)]
				in := at % int64(t.BlockBytes)
				n := min(left, int64(b.PlainBytes)-in)
				fn(r.Volume, Extent{Off: off, Len: n, At: uint32(in),
					Block: Block{Object: objlog.InLog(x.Position), Offset: uint32(b.Offset),
						StoredBytes: b.StoredBytes, PlainBytes: b.PlainBytes, CRC: b.CRC, Codec: t.Codec}})
				off, at, left = off+n, at+n, left-n
			}
		}
	}
}

// ByLeaf calls fn with the parts of e in each leaf that it touches.
func (e *Extent) ByLeaf(fn func(leaf int64, part Extent)) {
	for off := e.Off; off < e.End(); {
		leaf := off / LeafBytes
		end := min(e.End(), (leaf+1)*LeafBytes)
		fn(leaf, e.Cut(off, end-off))
		off = end
	}
}
