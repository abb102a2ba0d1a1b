package change

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/klauspost/compress/s2"
	"github.com/zeebo/xxh3"
)

// Change is a record to be encoded; its data lies in pieces, which the encoder
// only reads.
type Change struct {
	Kind   Kind
	Volume uint32
	Off    int64
	Len    uint32
	Data   [][]byte
}

func (c *Change) dataLen() (n int) {
	for _, p := range c.Data {
		n += len(p)
	}
	return n
}

// Encoder makes frames. It keeps its buffers, so one goroutine at a time uses
// it, and the bytes that it returns are valid until the next call.
type Encoder struct {
	Codec   Codec // CodecNone or CodecS2
	out     []byte
	scratch []byte
}

// Encode makes one frame of changes. The caller has set h's stream, first LSN,
// times, lease and previous hash; the rest is filled in. Callers keep within
// MaxRecords and MaxPlainBytes.
func (e *Encoder) Encode(h *Header, changes []Change) ([]byte, Hash) {
	plain := 0
	h.Flags = 0
	for i := range changes {
		plain += changes[i].dataLen()
		if changes[i].Kind == Mark {
			h.Flags |= FlagMarks
		}
	}
	if len(changes) == 0 || len(changes) > MaxRecords || plain > MaxPlainBytes {
		panic("change: frame beyond its limits")
	}
	h.Codec = e.Codec
	h.Records = uint32(len(changes))
	h.LastLSN = h.FirstLSN + uint64(len(changes)) - 1
	h.PlainBytes = uint32(plain)
	h.Blocks = uint32((plain + BlockBytes - 1) / BlockBytes)
	h.TableBytes = h.Records*recordBytes + h.Blocks*blockEntryBytes

	head := HeaderBytes + int(h.TableBytes)
	need := head + plain + s2.MaxEncodedLen(BlockBytes) // one block's worst case on top
	if cap(e.out) < need {
		e.out = make([]byte, need+need/4)
	}
	e.out = e.out[:cap(e.out)]
	e.putRecords(changes)
	end := e.putBlocks(changes, HeaderBytes+len(changes)*recordBytes, head)

	h.StoredBytes = uint32(end - head)
	h.Digest = xxh3.Hash128(e.out[HeaderBytes:end]).Bytes()
	hash := h.put(e.out)
	return e.out[:end], hash
}

// putRecords writes the record table: per record
//
//	0 8 offset   8 4 length   12 4 data bytes   16 4 volume   20 1 kind   21 3 reserved
func (e *Encoder) putRecords(changes []Change) {
	le := binary.LittleEndian
	for i := range changes {
		c := &changes[i]
		b := e.out[HeaderBytes+i*recordBytes:][:recordBytes]
		le.PutUint64(b, uint64(c.Off))
		le.PutUint32(b[8:], c.Len)
		le.PutUint32(b[12:], uint32(c.dataLen()))
		le.PutUint32(b[16:], c.Volume)
		le.PutUint32(b[20:], uint32(c.Kind))
	}
}

// putBlocks compresses the changes' data in blocks of BlockBytes and writes the
// block table: per block
//
//	0 4 stored bytes   4 4 plain bytes   8 4 CRC-32C of the plain bytes
func (e *Encoder) putBlocks(changes []Change, table, end int) int {
	if cap(e.scratch) < BlockBytes {
		e.scratch = make([]byte, 0, BlockBytes)
	}
	fill := e.scratch[:0]
	flush := func(block []byte) {
		end = e.putBlock(block, table, end)
		table += blockEntryBytes
	}
	for i := range changes {
		for _, p := range changes[i].Data {
			for len(p) > 0 {
				if len(fill) == 0 && len(p) >= BlockBytes {
					flush(p[:BlockBytes]) // whole blocks need no copy
					p = p[BlockBytes:]
					continue
				}
				n := min(BlockBytes-len(fill), len(p))
				fill = append(fill, p[:n]...)
				p = p[n:]
				if len(fill) == BlockBytes {
					flush(fill)
					fill = fill[:0]
				}
			}
		}
	}
	if len(fill) > 0 {
		flush(fill)
	}
	return end
}

func (e *Encoder) putBlock(plain []byte, table, end int) int {
	stored := len(plain)
	if e.Codec == CodecS2 {
		stored = len(s2.Encode(e.out[end:], plain))
	}
	if e.Codec == CodecNone || stored >= len(plain) {
		stored = copy(e.out[end:], plain)
	}
	le := binary.LittleEndian
	b := e.out[table:][:blockEntryBytes]
	le.PutUint32(b, uint32(stored))
	le.PutUint32(b[4:], uint32(len(plain)))
	le.PutUint32(b[8:], crc32.Checksum(plain, castagnoli))
	return end + stored
}
