package change

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Codec says how a frame's blocks are compressed. A block that does not shrink
// is stored as it is under any codec.
type Codec uint8

// The codecs of docs/formats/frame.md.
const (
	CodecNone Codec = 0
	CodecS2   Codec = 1
	CodecZstd Codec = 2
)

func (c Codec) String() string {
	switch c {
	case CodecNone:
		return "none"
	case CodecS2:
		return "s2"
	case CodecZstd:
		return "zstd"
	}
	return fmt.Sprintf("codec(%d)", uint8(c))
}

const (
	frameMagic = "PLXF"
	// FrameVersion is the version that this build writes. It reads version 1 too, whose
	// blocks are of BlockBytes.
	FrameVersion = 2
	// HeaderBytes is the size of an encoded frame header.
	HeaderBytes = 160

	recordBytes     = 24
	blockEntryBytes = 12

	// FlagMarks says that the frame holds at least one mark.
	FlagMarks = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Header is a frame's fixed part. All integers are little-endian:
//
//	 0  4  magic "PLXF"        80 16  hash of the frame before (0 for the first)
//	 4  2  version             96  4  records
//	 6  2  header bytes       100  4  blocks
//	 8  1  codec              104  4  bytes of the two tables
//	 9  1  cipher (0 = none)  108  4  bytes of all blocks, stored
//	10  2  flags              112  4  bytes of all blocks, plain
//	12  4  key id             116  4  bytes of a block, plain
//	16 16  stream id          120 16  XXH3-128 of tables and blocks
//	32  8  first LSN          136 20  reserved, 0
//	40  8  last LSN           156  4  CRC-32C of bytes 0..155
//	48  8  first time, ns
//	56  8  last time, ns
//	64  8  lease epoch
//	72  8  lease number
type Header struct {
	Codec               Codec
	Flags               uint16
	Stream              StreamID
	FirstLSN, LastLSN   uint64
	FirstTime, LastTime int64 // nanoseconds since 1970, the agent's clock made monotonic
	Epoch, Lease        uint64
	Prev                Hash
	Records, Blocks     uint32
	TableBytes          uint32
	StoredBytes         uint32
	PlainBytes          uint32
	BlockBytes          uint32 // of all blocks but the last, plain: a power of two
	Digest              [16]byte
}

// FrameBytes is the size of the whole encoded frame.
func (h *Header) FrameBytes() int {
	return HeaderBytes + int(h.TableBytes) + int(h.StoredBytes)
}

// put encodes h into b[:HeaderBytes] and returns the frame's hash.
func (h *Header) put(b []byte) Hash {
	b = b[:HeaderBytes]
	clear(b)
	le := binary.LittleEndian
	copy(b, frameMagic)
	le.PutUint16(b[4:], FrameVersion)
	le.PutUint16(b[6:], HeaderBytes)
	b[8] = byte(h.Codec)
	le.PutUint16(b[10:], h.Flags)
	copy(b[16:32], h.Stream[:])
	le.PutUint64(b[32:], h.FirstLSN)
	le.PutUint64(b[40:], h.LastLSN)
	le.PutUint64(b[48:], uint64(h.FirstTime))
	le.PutUint64(b[56:], uint64(h.LastTime))
	le.PutUint64(b[64:], h.Epoch)
	le.PutUint64(b[72:], h.Lease)
	copy(b[80:96], h.Prev[:])
	le.PutUint32(b[96:], h.Records)
	le.PutUint32(b[100:], h.Blocks)
	le.PutUint32(b[104:], h.TableBytes)
	le.PutUint32(b[108:], h.StoredBytes)
	le.PutUint32(b[112:], h.PlainBytes)
	le.PutUint32(b[116:], h.BlockBytes)
	copy(b[120:136], h.Digest[:])
	le.PutUint32(b[156:], crc32.Checksum(b[:156], castagnoli))
	return hashHeader(b)
}

func hashHeader(b []byte) Hash {
	sum := sha256.Sum256(b[:HeaderBytes])
	return Hash(sum[:16])
}

// ParseHeader decodes and checks the header at the start of b and returns it
// with the frame's hash. Errors are fail.Damaged with the offset of what is
// wrong, or fail.Unsupported for a version, codec or cipher that is not known.
func ParseHeader(b []byte) (Header, Hash, error) {
	var h Header
	if len(b) < HeaderBytes {
		return h, Hash{}, damaged(len(b), "frame header cut short at %d of %d bytes", len(b), HeaderBytes)
	}
	b = b[:HeaderBytes]
	le := binary.LittleEndian
	if string(b[:4]) != frameMagic {
		return h, Hash{}, damaged(0, "not a frame: magic %q", b[:4])
	}
	if got, want := crc32.Checksum(b[:156], castagnoli), le.Uint32(b[156:]); got != want {
		return h, Hash{}, damaged(156, "frame header checksum %08x, stored %08x", got, want)
	}
	version := le.Uint16(b[4:])
	if version < 1 || version > FrameVersion {
		return h, Hash{}, unsupported("frame version %d; this build reads 1 to %d", version, FrameVersion)
	}
	if n := le.Uint16(b[6:]); n != HeaderBytes {
		return h, Hash{}, damaged(6, "frame header of %d bytes, version %d has %d", n, version, HeaderBytes)
	}
	if b[9] != 0 {
		return h, Hash{}, unsupported("frame cipher %d, key %d", b[9], le.Uint32(b[12:]))
	}
	h.Codec = Codec(b[8])
	if h.Codec > CodecZstd {
		return h, Hash{}, unsupported("frame codec %d", b[8])
	}
	h.Flags = le.Uint16(b[10:])
	copy(h.Stream[:], b[16:32])
	h.FirstLSN, h.LastLSN = le.Uint64(b[32:]), le.Uint64(b[40:])
	h.FirstTime, h.LastTime = int64(le.Uint64(b[48:])), int64(le.Uint64(b[56:]))
	h.Epoch, h.Lease = le.Uint64(b[64:]), le.Uint64(b[72:])
	copy(h.Prev[:], b[80:96])
	h.Records, h.Blocks = le.Uint32(b[96:]), le.Uint32(b[100:])
	h.TableBytes, h.StoredBytes, h.PlainBytes = le.Uint32(b[104:]), le.Uint32(b[108:]), le.Uint32(b[112:])
	if h.BlockBytes = BlockBytes; version >= 2 {
		h.BlockBytes = le.Uint32(b[116:])
	}
	copy(h.Digest[:], b[120:136])
	if err := h.checkShape(); err != nil {
		return h, Hash{}, err
	}
	return h, hashHeader(b), nil
}

// checkShape refuses a header whose numbers contradict each other or exceed the
// limits, so that nothing is allocated on the word of damaged data.
func (h *Header) checkShape() error {
	switch {
	case h.Records == 0 || h.Records > MaxRecords:
		return damaged(96, "frame of %d records", h.Records)
	case h.FirstLSN == 0 || h.LastLSN < h.FirstLSN || h.LastLSN-h.FirstLSN != uint64(h.Records)-1:
		return damaged(32, "frame of %d records claims LSNs %d to %d", h.Records, h.FirstLSN, h.LastLSN)
	case h.PlainBytes > MaxPlainBytes || h.StoredBytes > h.PlainBytes:
		return damaged(108, "frame of %d stored and %d plain bytes", h.StoredBytes, h.PlainBytes)
	case h.BlockBytes < MinBlockBytes || h.BlockBytes > BlockBytes || h.BlockBytes&(h.BlockBytes-1) != 0:
		return damaged(116, "blocks of %d bytes", h.BlockBytes)
	case h.Blocks != (h.PlainBytes+h.BlockBytes-1)/h.BlockBytes:
		return damaged(100, "frame of %d plain bytes in %d blocks of %d", h.PlainBytes, h.Blocks, h.BlockBytes)
	case h.TableBytes != h.Records*recordBytes+h.Blocks*blockEntryBytes:
		return damaged(104, "frame tables of %d bytes for %d records and %d blocks", h.TableBytes, h.Records, h.Blocks)
	}
	return nil
}

// Follows reports, as an error, when the frame does not continue the history
// that ends at p.
func (h *Header) Follows(p Point) error {
	if h.FirstLSN != p.LSN+1 {
		return fail.New(fail.Damaged, "check chain", h.Stream.String(),
			fmt.Sprintf("frame begins at LSN %d where %d must follow", h.FirstLSN, p.LSN+1))
	}
	if h.Prev != p.Hash {
		return fail.New(fail.Damaged, "check chain", h.Stream.String(),
			fmt.Sprintf("frame at LSN %d follows hash %s, but the one before it is %s", h.FirstLSN, h.Prev, p.Hash))
	}
	return nil
}

func damaged(off int, format string, args ...any) error {
	return fail.New(fail.Damaged, "decode frame", fmt.Sprintf("at byte %d", off), fmt.Sprintf(format, args...))
}

func unsupported(format string, args ...any) error {
	return fail.New(fail.Unsupported, "decode frame", "", fmt.Sprintf(format, args...)).
		WithHint("use a pollux version that knows this format")
}

// Unlink zeroes what of an encoded header follows from the rest and from the frame
// before it: its hash and the checksum. So headers one after another compress well.
func Unlink(b []byte) {
	clear(b[80:96])
	clear(b[156:HeaderBytes])
}

// Relink undoes Unlink and checks the result as ParseHeader does.
func Relink(b []byte, prev Hash) (Header, Hash, error) {
	if len(b) < HeaderBytes {
		return Header{}, Hash{}, damaged(len(b), "frame header cut short at %d of %d bytes", len(b), HeaderBytes)
	}
	copy(b[80:96], prev[:])
	binary.LittleEndian.PutUint32(b[156:], crc32.Checksum(b[:156], castagnoli))
	return ParseHeader(b)
}
