package segment

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/zeebo/xxh3"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

const (
	foldMagic = "PLXG"
	// FoldVersion is the version that this build writes and reads.
	FoldVersion = 1
	// FoldHeaderBytes is the size of an encoded fold's header.
	FoldHeaderBytes = 192

	foldRecordBytes = 24
	foldBlockBytes  = 12

	// MaxFoldFrames, MaxFoldRecords and MaxFoldPlainBytes bound one fold.
	MaxFoldFrames     = 1 << 16
	MaxFoldRecords    = 1 << 20
	MaxFoldPlainBytes = 1 << 30

	// foldPartBlocks is how many blocks Part opens at once: 4 MiB.
	foldPartBlocks = 64
)

// FoldHeader begins a fold, which stands for a run of consecutive frames of one
// stream:
//
//	 0  4 magic "PLXG"      96  4 frames that it stands for
//	 4  2 version          100  4 records
//	 6  2 header bytes     104  4 blocks
//	 8  1 codec            108  4 bytes of the chain, stored
//	 9  1 cipher (0)       112  8 bytes of all blocks, plain
//	10  2 reserved         120  8 bytes of all blocks, stored
//	12  4 key id           128 16 XXH3-128 of everything behind the header
//	16 16 stream           144  8 bytes of the frames, as they were
//	32  8 first LSN        152  8 of them, bytes of blocks, plain
//	40  8 last LSN         160 28 reserved
//	48  8 first time, ns   188  4 CRC-32C of bytes 0..187
//	56  8 last time, ns
//	64 16 hash of the frame before
//	80 16 hash of the last frame
//
// Behind it: the chain (the frames' headers, unlinked, zstd), records of 24 bytes
// and blocks of 12 bytes as in a frame, the blocks' data.
type FoldHeader struct {
	Codec                       change.Codec
	Stream                      change.StreamID
	FirstLSN, LastLSN           uint64
	FirstTime, LastTime         int64 // ns since 1970
	Prev, Last                  change.Hash
	Frames, Records, Blocks     uint32
	ChainBytes                  uint32
	PlainBytes, StoredBytes     int64
	FrameBytes, FramePlainBytes int64 // of the frames
	digest                      [16]byte
}

// Bytes is the size of the whole encoded fold.
func (h *FoldHeader) Bytes() int64 {
	return FoldHeaderBytes + int64(h.ChainBytes) + int64(h.Records)*foldRecordBytes + int64(h.Blocks)*foldBlockBytes +
		h.StoredBytes
}

// FoldBlock is a compressed block of at most change.BlockBytes.
type FoldBlock struct {
	Data       []byte
	PlainBytes uint32
	CRC        uint32 // CRC-32C of the plain bytes
}

// EncodeFold appends a fold to dst. headers are those of the frames one after
// another, and are changed. records do not overlap; their data, one after another,
// is the blocks' plain bytes. Counts and sizes of h are filled in.
func EncodeFold(dst []byte, h *FoldHeader, headers []byte, records []change.Record, blocks []FoldBlock) []byte {
	for at := 0; at < len(headers); at += change.HeaderBytes {
		change.Unlink(headers[at:][:change.HeaderBytes])
	}
	size := FoldHeaderBytes + len(headers) + len(records)*foldRecordBytes
	for i := range blocks {
		size += foldBlockBytes + len(blocks[i].Data)
	}
	dst = slices.Grow(dst, size)
	at, le := len(dst), binary.LittleEndian
	dst = append(dst, make([]byte, FoldHeaderBytes)...)
	dst = change.Zstd(change.Quick, dst, headers)
	h.Frames, h.Records, h.Blocks = uint32(len(headers)/change.HeaderBytes), uint32(len(records)), uint32(len(blocks))
	h.ChainBytes = uint32(len(dst) - at - FoldHeaderBytes)
	for i := range records {
		r := &records[i]
		dst = le.AppendUint64(dst, uint64(r.Off))
		dst = le.AppendUint32(dst, r.Len)
		dst = le.AppendUint32(dst, r.DataLen)
		dst = le.AppendUint32(dst, r.Volume)
		dst = append(dst, byte(r.Kind), 0, 0, 0)
	}
	h.PlainBytes, h.StoredBytes = 0, 0
	for i := range blocks {
		b := &blocks[i]
		dst = le.AppendUint32(dst, uint32(len(b.Data)))
		dst = le.AppendUint32(dst, b.PlainBytes)
		dst = le.AppendUint32(dst, b.CRC)
		h.PlainBytes, h.StoredBytes = h.PlainBytes+int64(b.PlainBytes), h.StoredBytes+int64(len(b.Data))
	}
	for i := range blocks {
		dst = append(dst, blocks[i].Data...)
	}
	h.digest = xxh3.Hash128(dst[at+FoldHeaderBytes:]).Bytes()
	h.put(dst[at:])
	return dst
}

func (h *FoldHeader) put(b []byte) {
	b = b[:FoldHeaderBytes]
	clear(b)
	le := binary.LittleEndian
	copy(b, foldMagic)
	le.PutUint16(b[4:], FoldVersion)
	le.PutUint16(b[6:], FoldHeaderBytes)
	b[8] = byte(h.Codec)
	copy(b[16:32], h.Stream[:])
	le.PutUint64(b[32:], h.FirstLSN)
	le.PutUint64(b[40:], h.LastLSN)
	le.PutUint64(b[48:], uint64(h.FirstTime))
	le.PutUint64(b[56:], uint64(h.LastTime))
	copy(b[64:80], h.Prev[:])
	copy(b[80:96], h.Last[:])
	le.PutUint32(b[96:], h.Frames)
	le.PutUint32(b[100:], h.Records)
	le.PutUint32(b[104:], h.Blocks)
	le.PutUint32(b[108:], h.ChainBytes)
	le.PutUint64(b[112:], uint64(h.PlainBytes))
	le.PutUint64(b[120:], uint64(h.StoredBytes))
	copy(b[128:144], h.digest[:])
	le.PutUint64(b[144:], uint64(h.FrameBytes))
	le.PutUint64(b[152:], uint64(h.FramePlainBytes))
	le.PutUint32(b[188:], crc32.Checksum(b[:188], castagnoli))
}

// ParseFoldHeader decodes and checks the header at the start of b. Errors are
// fail.Damaged with the offset in the fold, or fail.Unsupported.
func ParseFoldHeader(b []byte) (FoldHeader, error) {
	var h FoldHeader
	if len(b) < FoldHeaderBytes {
		return h, badFold(int64(len(b)), "header cut short at %d of %d bytes", len(b), FoldHeaderBytes)
	}
	b = b[:FoldHeaderBytes]
	le := binary.LittleEndian
	if string(b[:4]) != foldMagic {
		return h, badFold(0, "not a fold: magic %q", b[:4])
	}
	if crc32.Checksum(b[:188], castagnoli) != le.Uint32(b[188:]) {
		return h, badFold(188, "header checksum does not match")
	}
	if v := le.Uint16(b[4:]); v != FoldVersion {
		return h, foldUnsupported("version %d; this build reads %d", v, FoldVersion)
	}
	if b[9] != 0 {
		return h, foldUnsupported("cipher %d, key %d", b[9], le.Uint32(b[12:]))
	}
	h.Codec = change.Codec(b[8])
	if h.Codec > change.CodecZstd {
		return h, foldUnsupported("codec %d", b[8])
	}
	copy(h.Stream[:], b[16:32])
	h.FirstLSN, h.LastLSN = le.Uint64(b[32:]), le.Uint64(b[40:])
	h.FirstTime, h.LastTime = int64(le.Uint64(b[48:])), int64(le.Uint64(b[56:]))
	copy(h.Prev[:], b[64:80])
	copy(h.Last[:], b[80:96])
	h.Frames, h.Records, h.Blocks, h.ChainBytes = le.Uint32(b[96:]), le.Uint32(b[100:]), le.Uint32(b[104:]),
		le.Uint32(b[108:])
	h.PlainBytes, h.StoredBytes = int64(le.Uint64(b[112:])), int64(le.Uint64(b[120:]))
	copy(h.digest[:], b[128:144])
	h.FrameBytes, h.FramePlainBytes = int64(le.Uint64(b[144:])), int64(le.Uint64(b[152:]))
	return h, h.checkShape(int(le.Uint16(b[6:])))
}

// checkShape refuses numbers that contradict each other or exceed the limits, so
// that nothing is allocated on the word of damaged data.
func (h *FoldHeader) checkShape(headerBytes int) error {
	switch {
	case headerBytes != FoldHeaderBytes:
		return badFold(6, "header of %d bytes", headerBytes)
	case h.Frames == 0 || h.Frames > MaxFoldFrames || h.Records > MaxFoldRecords:
		return badFold(96, "%d frames, %d records", h.Frames, h.Records)
	case h.FirstLSN == 0 || h.LastLSN < h.FirstLSN || h.LastLSN-h.FirstLSN+1 < uint64(h.Frames):
		return badFold(32, "%d frames for LSN %d to %d", h.Frames, h.FirstLSN, h.LastLSN)
	case h.PlainBytes < 0 || h.PlainBytes > MaxFoldPlainBytes || h.StoredBytes < 0 || h.StoredBytes > h.PlainBytes:
		return badFold(112, "%d plain and %d stored bytes", h.PlainBytes, h.StoredBytes)
	case int64(h.Blocks) != (h.PlainBytes+change.BlockBytes-1)/change.BlockBytes:
		return badFold(104, "%d blocks for %d plain bytes", h.Blocks, h.PlainBytes)
	case h.ChainBytes == 0 || h.ChainBytes > h.Frames*change.HeaderBytes:
		return badFold(108, "chain of %d bytes for %d frames", h.ChainBytes, h.Frames)
	}
	return nil
}

func badFold(at int64, format string, args ...any) error {
	return fail.New(fail.Damaged, "decode fold", fmt.Sprintf("at byte %d", at), fmt.Sprintf(format, args...))
}

func foldUnsupported(format string, args ...any) error {
	return fail.New(fail.Unsupported, "decode fold", "", fmt.Sprintf(format, args...)).
		WithHint("use a pollux version that knows this format")
}
