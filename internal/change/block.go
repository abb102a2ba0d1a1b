package change

import (
	"encoding/binary"
	"runtime"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// Block is a compressed block of a frame.
type Block struct {
	Offset      int    `json:"offset"` // in the frame
	StoredBytes uint32 `json:"stored_bytes"`
	PlainBytes  uint32 `json:"plain_bytes"`
	CRC         uint32 `json:"crc32c"` // of the plain bytes
}

// BlockTable lists the frame's blocks, whose bytes Plain checks.
func (f *Frame) BlockTable() []Block {
	le := binary.LittleEndian
	table := f.raw[HeaderBytes+int(f.Header.Records)*recordBytes:]
	at := HeaderBytes + int(f.TableBytes)
	out := make([]Block, f.Blocks)
	for i := range out {
		e := table[i*blockEntryBytes:]
		out[i] = Block{at, le.Uint32(e), le.Uint32(e[4:]), le.Uint32(e[8:])}
		at += int(out[i].StoredBytes)
	}
	return out
}

// OpenBlock decompresses one block of the table into dst, which is as long as its
// plain bytes. Their checksum is left to the caller.
func (f *Frame) OpenBlock(b Block, dst []byte) error {
	if end := b.Offset + int(b.StoredBytes); end > len(f.raw) || len(dst) != int(b.PlainBytes) {
		return damaged(b.Offset, "block of %d stored and %d plain bytes", b.StoredBytes, b.PlainBytes)
	}
	if err := Decompress(f.Codec, dst, f.raw[b.Offset:b.Offset+int(b.StoredBytes)]); err != nil {
		return damaged(b.Offset, "block does not decompress: %v", err)
	}
	return nil
}

// DataOffset is where the record's data begins in the frame's plain bytes.
func (r *Record) DataOffset() int { return int(r.dataOff) }

// Effort is how hard Zstd works.
type Effort int

const (
	Quick    Effort = iota // about 300 MB/s a core
	Thorough               // about half of that, a few percent smaller
)

var zstdWriters = [...]func() *zstd.Encoder{
	Quick:    sync.OnceValue(func() *zstd.Encoder { return newZstd(zstd.SpeedFastest) }),
	Thorough: sync.OnceValue(func() *zstd.Encoder { return newZstd(zstd.SpeedDefault) }),
}

func newZstd(level zstd.EncoderLevel) *zstd.Encoder {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)),
		zstd.WithWindowSize(BlockBytes), zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true))
	if err != nil {
		panic(err) // the options are fixed
	}
	return w
}

// Zstd appends plain to dst, compressed where that makes it smaller. Several
// callers may be in it at once.
func Zstd(effort Effort, dst, plain []byte) []byte {
	at := len(dst)
	if dst = zstdWriters[effort]().EncodeAll(plain, dst); len(dst)-at < len(plain) {
		return dst
	}
	return append(dst[:at], plain...)
}

// zstdReader decodes blocks, zstdTables what is larger.
var (
	zstdReader, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(2*BlockBytes),
		zstd.WithDecodeAllCapLimit(true))
	zstdTables, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecodeAllCapLimit(true))
)

// Decompress fills dst exactly. What is as long as its plain bytes was stored as
// it is.
func Decompress(codec Codec, dst, src []byte) error {
	if len(src) == len(dst) || codec == CodecNone {
		if len(src) != len(dst) {
			return errShort
		}
		copy(dst, src)
		return nil
	}
	var out []byte
	var err error
	switch {
	case codec == CodecS2:
		n, derr := s2.DecodedLen(src)
		if derr != nil || n != len(dst) {
			return errShort
		}
		out, err = s2.Decode(dst, src)
	case len(dst) <= BlockBytes:
		out, err = zstdReader.DecodeAll(src, dst[:0:len(dst)])
	default:
		out, err = zstdTables.DecodeAll(src, dst[:0:len(dst)])
	}
	if err == nil && len(out) != len(dst) {
		err = errShort
	}
	return err
}

type constError string

func (e constError) Error() string { return string(e) }

const errShort = constError("wrong length")
