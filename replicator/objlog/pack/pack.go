package pack

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"sort"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
)

const (
	headMagic    = "PLXO"
	trailerMagic = "PLXQ"
	// Version is the version that this build writes and reads.
	Version = 1
	// HeadBytes and TrailerBytes begin and end a pack.
	HeadBytes    = 48
	TrailerBytes = 32
	blockBytes   = 16
	pieceBytes   = 32
	// MaxBytes bounds a pack.
	MaxBytes = 128 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Name is the object of a pack's number.
func Name(number uint64) string { return objlog.InPack(number).Name() }

// Piece says where bytes of an old block are now. Key is the place of the old block
// and, in its plain bytes, of the first of them.
type Piece struct {
	Object objlog.ObjectID `json:"Position"` // that had them
	Offset uint32          // of the old block in it
	At     uint32          // in the old block's plain bytes
	Len    uint32
	Block  uint32 // place of the block in the pack
	NewAt  uint32 // in that block's plain bytes
}

func comparePieces(a, b Piece) int {
	return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.At, b.At))
}

// Index is what a pack's tail tells.
type Index struct {
	Number  uint64
	Journal uuid.UUID
	Blocks  []extent.Block // in the pack itself
	Pieces  []Piece
}

// Find returns where an extent of an old block is now.
func (x *Index) Find(e *extent.Extent) (extent.Extent, bool) {
	i := sort.Search(len(x.Pieces), func(i int) bool {
		return comparePieces(x.Pieces[i], Piece{Object: e.Block.Object, Offset: e.Block.Offset, At: e.At}) > 0
	}) - 1
	if i < 0 {
		return *e, false
	}
	p := &x.Pieces[i]
	if p.Object != e.Block.Object || p.Offset != e.Block.Offset || int64(e.At)+e.Len > int64(p.At)+int64(p.Len) {
		return *e, false
	}
	out := *e
	out.Block, out.At = x.Blocks[p.Block], p.NewAt+e.At-p.At
	return out, true
}

// Builder collects blocks and pieces.
//
//	 0 4 magic "PLXO"   4 2 version   6 2 reserved   8 8 number   16 16 journal UUID
//	32 12 reserved   44 4 CRC-32C of bytes 0..43
//
// Behind it the blocks' bytes, then for each block
//
//	0 4 offset   4 4 stored bytes   8 4 plain bytes   12 4 CRC-32C of the plain bytes
//
// and for each piece, in order
//
//	0 8 old position   8 4 old block's offset   12 4 where in it   16 4 bytes
//	20 4 block   24 4 where in it   28 4 reserved
//
// and the trailer
//
//	0 8 offset of the tables   8 4 blocks   12 4 pieces   16 4 CRC-32C of the tables
//	20 4 CRC-32C of everything before the tables   24 4 CRC-32C of bytes 0..23
//	28 4 magic "PLXQ"
//
// Blocks are compressed with zstd, or stored where that does not make them smaller.
type Builder struct {
	Number  uint64
	Journal uuid.UUID
	body    []byte
	blocks  []byte
	count   uint32
	pieces  []Piece
}

// Bytes is how large the pack is so far.
func (b *Builder) Bytes() int { return len(b.body) + len(b.blocks) + len(b.pieces)*pieceBytes }

// Empty reports whether nothing was added.
func (b *Builder) Empty() bool { return b.count == 0 }

// Block adds a block whose checksum is known, and returns its place.
func (b *Builder) Block(plain []byte, sum uint32) uint32 {
	if len(b.body) == 0 {
		b.body = make([]byte, HeadBytes)
	}
	at := len(b.body)
	b.body = change.Zstd(change.Quick, b.body, plain)
	le := binary.LittleEndian
	b.blocks = le.AppendUint32(b.blocks, uint32(at))
	b.blocks = le.AppendUint32(b.blocks, uint32(len(b.body)-at))
	b.blocks = le.AppendUint32(b.blocks, uint32(len(plain)))
	b.blocks = le.AppendUint32(b.blocks, sum)
	b.count++
	return b.count - 1
}

// Piece adds where bytes were, and are.
func (b *Builder) Piece(p Piece) { b.pieces = append(b.pieces, p) }

// Finish returns the object.
func (b *Builder) Finish() []byte {
	le := binary.LittleEndian
	copy(b.body, headMagic)
	le.PutUint16(b.body[4:], Version)
	le.PutUint64(b.body[8:], b.Number)
	copy(b.body[16:], b.Journal[:])
	le.PutUint32(b.body[44:], crc32.Checksum(b.body[:44], castagnoli))
	slices.SortFunc(b.pieces, comparePieces)
	at := len(b.body)
	out := append(b.body, b.blocks...)
	for _, p := range b.pieces {
		out = le.AppendUint64(out, uint64(p.Object))
		for _, v := range []uint32{p.Offset, p.At, p.Len, p.Block, p.NewAt, 0} {
			out = le.AppendUint32(out, v)
		}
	}
	var t [TrailerBytes]byte
	le.PutUint64(t[:], uint64(at))
	le.PutUint32(t[8:], b.count)
	le.PutUint32(t[12:], uint32(len(b.pieces)))
	le.PutUint32(t[16:], crc32.Checksum(out[at:], castagnoli))
	le.PutUint32(t[20:], crc32.Checksum(out[:at], castagnoli))
	le.PutUint32(t[24:], crc32.Checksum(t[:24], castagnoli))
	copy(t[28:], trailerMagic)
	return append(out, t[:]...)
}

func bad(at int64, format string, args ...any) error {
	return fail.New(fail.Damaged, "decode pack", fmt.Sprintf("at byte %d", at), fmt.Sprintf(format, args...))
}

// NumberOf is the number that a pack's head states.
func NumberOf(obj []byte) uint64 { return binary.LittleEndian.Uint64(obj[8:]) }

// Tail returns how many bytes at the end of a pack Parse needs, judged from a tail
// that holds the trailer.
func Tail(tail []byte, size int64) (int64, error) {
	if len(tail) < TrailerBytes || size > MaxBytes {
		return 0, bad(0, "object of %d bytes", size)
	}
	le, t := binary.LittleEndian, tail[len(tail)-TrailerBytes:]
	if string(t[28:]) != trailerMagic || crc32.Checksum(t[:24], castagnoli) != le.Uint32(t[24:]) {
		return 0, bad(size-TrailerBytes, "no trailer: the object is cut short or not a pack")
	}
	at, blocks, pieces := int64(le.Uint64(t)), int64(le.Uint32(t[8:])), int64(le.Uint32(t[12:]))
	if at < HeadBytes || at+blocks*blockBytes+pieces*pieceBytes != size-TrailerBytes {
		return 0, bad(size-TrailerBytes, "tables of %d blocks and %d pieces do not fit the object's %d bytes", blocks,
			pieces, size)
	}
	return size - at, nil
}

// Parse decodes and checks the tables of pack `number`, an object of size bytes, from
// its last bytes.
func Parse(tail []byte, size int64, number uint64) (*Index, error) {
	need, err := Tail(tail, size)
	if err != nil {
		return nil, err
	}
	if need > int64(len(tail)) {
		return nil, bad(size-need, "tail of %d bytes, %d needed", len(tail), need)
	}
	le, b, off := binary.LittleEndian, tail[int64(len(tail))-need:], size-need
	t := b[len(b)-TrailerBytes:]
	tables := b[:len(b)-TrailerBytes]
	if crc32.Checksum(tables, castagnoli) != le.Uint32(t[16:]) {
		return nil, bad(off, "the tables' checksum does not match")
	}
	x := &Index{Number: number, Blocks: make([]extent.Block, le.Uint32(t[8:])),
		Pieces: make([]Piece, le.Uint32(t[12:]))}
	next := int64(HeadBytes)
	for i := range x.Blocks {
		b := extent.Block{Object: objlog.InPack(number), Offset: le.Uint32(tables), StoredBytes: le.Uint32(tables[4:]),
			PlainBytes: le.Uint32(tables[8:]), CRC: le.Uint32(tables[12:]), Codec: change.CodecZstd}
		if int64(b.Offset) != next || b.StoredBytes == 0 || b.StoredBytes > b.PlainBytes ||
			b.PlainBytes > change.BlockBytes {
			return nil, bad(off, "block %d of %d stored and %d plain bytes at %d", i, b.StoredBytes,
				b.PlainBytes, b.Offset)
		}
		next += int64(b.StoredBytes)
		x.Blocks[i], tables = b, tables[blockBytes:]
	}
	if next != off {
		return nil, bad(off, "blocks end at byte %d", next)
	}
	for i := range x.Pieces {
		p := Piece{objlog.ObjectID(le.Uint64(tables)), le.Uint32(tables[8:]), le.Uint32(tables[12:]),
			le.Uint32(tables[16:]), le.Uint32(tables[20:]), le.Uint32(tables[24:])}
		if int(p.Block) >= len(x.Blocks) || p.Len == 0 ||
			uint64(p.NewAt)+uint64(p.Len) > uint64(x.Blocks[p.Block].PlainBytes) ||
			(i > 0 && comparePieces(x.Pieces[i-1], p) >= 0) {
			return nil, bad(off, "piece %d of %d bytes in block %d", i, p.Len, p.Block)
		}
		x.Pieces[i], tables = p, tables[pieceBytes:]
	}
	return x, nil
}

// Check checks a whole pack, down to the plain bytes of its blocks.
func Check(obj []byte, number uint64) (*Index, error) {
	le := binary.LittleEndian
	switch {
	case len(obj) < HeadBytes || string(obj[:4]) != headMagic:
		return nil, bad(0, "not a pack")
	case crc32.Checksum(obj[:44], castagnoli) != le.Uint32(obj[44:]):
		return nil, bad(44, "head checksum does not match")
	case le.Uint16(obj[4:]) != Version:
		return nil, fail.New(fail.Unsupported, "decode pack", "",
			fmt.Sprintf("version %d; this build reads %d", le.Uint16(obj[4:]), Version)).
			WithHint("use a pollux version that knows this format")
	case le.Uint64(obj[8:]) != number:
		return nil, bad(8, "it says that it is number %d", le.Uint64(obj[8:]))
	}
	x, err := Parse(obj, int64(len(obj)), number)
	if err != nil {
		return nil, err
	}
	copy(x.Journal[:], obj[16:])
	// The blocks' own checksums are of their plain bytes, and some flipped bits of a
	// compressed block decode to the same: found here, before more of them rot.
	t := obj[len(obj)-TrailerBytes:]
	if at := le.Uint64(t); crc32.Checksum(obj[:at], castagnoli) != le.Uint32(t[20:]) {
		return nil, bad(HeadBytes, "the blocks' bytes do not match their checksum")
	}
	plain := make([]byte, change.BlockBytes)
	for i := range x.Blocks {
		b := &x.Blocks[i]
		if err := change.Decompress(b.Codec, plain[:b.PlainBytes], obj[b.Offset:][:b.StoredBytes]); err != nil {
			return nil, bad(int64(b.Offset), "block does not decompress: %v", err)
		}
		if crc32.Checksum(plain[:b.PlainBytes], castagnoli) != b.CRC {
			return nil, bad(int64(b.Offset), "block checksum does not match")
		}
	}
	return x, nil
}
