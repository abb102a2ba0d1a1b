package extent

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
)

// A leaf's extents are encoded as
//
//	blocks   uvarint count, then each: uvarint position less the one before's, uvarint offset,
//	         uvarint stored bytes, uvarint plain bytes, 1 codec, 4 CRC-32C
//	extents  uvarint count, then each: uvarint bytes behind the one before, uvarint length,
//	         uvarint place of its block from 1 on (0: zeros), uvarint where in the block
//
// Blocks are in the order of position and offset, each once.

// maxLeafExtents bounds a leaf: one extent for each byte there is no need of.
const maxLeafExtents = LeafBytes / 16

// CompareBlocks orders blocks by where they lie.
func CompareBlocks(a, b Block) int {
	return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Offset, b.Offset))
}

// encodeLeaf appends a leaf's extents, which are in order and do not overlap.
func encodeLeaf(dst []byte, leaf int64, extents []Extent) []byte {
	var blocks []Block
	for i := range extents {
		if !extents[i].Zeros() {
			blocks = append(blocks, extents[i].Block)
		}
	}
	slices.SortFunc(blocks, CompareBlocks)
	blocks = slices.CompactFunc(blocks, func(a, b Block) bool { return CompareBlocks(a, b) == 0 })
	dst = binary.AppendUvarint(dst, uint64(len(blocks)))
	at := objlog.ObjectID(0)
	for i := range blocks {
		b := &blocks[i]
		dst = binary.AppendUvarint(dst, uint64(b.Object-at))
		dst = binary.AppendUvarint(dst, uint64(b.Offset))
		dst = binary.AppendUvarint(dst, uint64(b.StoredBytes))
		dst = binary.AppendUvarint(dst, uint64(b.PlainBytes))
		dst = append(dst, byte(b.Codec))
		dst = binary.LittleEndian.AppendUint32(dst, b.CRC)
		at = b.Object
	}
	dst = binary.AppendUvarint(dst, uint64(len(extents)))
	end := leaf * LeafBytes
	for i := range extents {
		e := &extents[i]
		dst = binary.AppendUvarint(dst, uint64(e.Off-end))
		dst = binary.AppendUvarint(dst, uint64(e.Len))
		place := 0
		if !e.Zeros() {
			place, _ = slices.BinarySearchFunc(blocks, e.Block, CompareBlocks)
			place++
		}
		dst = binary.AppendUvarint(dst, uint64(place))
		dst = binary.AppendUvarint(dst, uint64(e.At))
		end = e.End()
	}
	return dst
}

// numbers reads uvarints one after another; after the end they are 0 and bad is set.
type numbers struct {
	b   []byte
	bad bool
}

func (n *numbers) next() uint64 {
	v, k := binary.Uvarint(n.b)
	if k <= 0 {
		n.bad, n.b = true, nil
		return 0
	}
	n.b = n.b[k:]
	return v
}

// below is next, which must be no more than limit.
func (n *numbers) below(limit uint64) uint64 {
	v := n.next()
	if v > limit {
		n.bad = true
		return 0
	}
	return v
}

func (n *numbers) bytes(k int) []byte {
	if len(n.b) < k {
		n.bad, n.b = true, nil
		return make([]byte, k)
	}
	out := n.b[:k]
	n.b = n.b[k:]
	return out
}

// decodeLeaf undoes encodeLeaf and checks it. Errors are fail.Damaged.
func decodeLeaf(b []byte, leaf int64) ([]Extent, error) {
	bad := func(format string, args ...any) ([]Extent, error) {
		return nil, fail.New(fail.Damaged, "decode", fmt.Sprintf("leaf %d", leaf), fmt.Sprintf(format, args...))
	}
	n := numbers{b: b}
	count := n.below(min(maxLeafExtents, uint64(len(b)/9))) // a block takes so many bytes
	blocks := make([]Block, 0, count)
	at := objlog.ObjectID(0)
	for range count {
		x := Block{Object: at + objlog.ObjectID(n.next()), Offset: uint32(n.below(1<<32 - 1)),
			StoredBytes: uint32(n.below(change.BlockBytes)), PlainBytes: uint32(n.below(change.BlockBytes)),
			Codec: change.Codec(n.bytes(1)[0])}
		x.CRC = binary.LittleEndian.Uint32(n.bytes(4))
		if n.bad || x.StoredBytes == 0 || x.StoredBytes > x.PlainBytes || x.Codec > change.CodecZstd || x.Object < at ||
			(len(blocks) > 0 && CompareBlocks(blocks[len(blocks)-1], x) >= 0) {
			return bad("block %d of %d", len(blocks), count)
		}
		at, blocks = x.Object, append(blocks, x)
	}
	count = n.below(min(maxLeafExtents, uint64(len(n.b)/4)))
	out := make([]Extent, 0, count)
	end := leaf * LeafBytes
	for range count {
		e := Extent{Off: end + int64(n.below(LeafBytes)), Len: int64(n.below(LeafBytes))}
		place := n.below(uint64(len(blocks)))
		e.At = uint32(n.below(change.BlockBytes))
		if place > 0 {
			e.Block = blocks[place-1]
		}
		if n.bad || e.Len == 0 || e.End() > (leaf+1)*LeafBytes || (place == 0 && e.At != 0) ||
			(place > 0 && int64(e.At)+e.Len > int64(e.Block.PlainBytes)) {
			return bad("extent %d of %d", len(out), count)
		}
		end, out = e.End(), append(out, e)
	}
	if n.bad || len(n.b) > 0 {
		return bad("%d bytes too many, or too few", len(n.b))
	}
	return out, nil
}
