package change

import (
	"encoding/binary"
	"hash/crc32"
	"runtime"
	"sync"

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
	Codec Codec // CodecNone or CodecS2
	out   []byte
	parts [][]byte
	lanes [maxLanes]lane
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
	h.BlockBytes = blockBytesFor(changes, plain)
	h.Blocks = (h.PlainBytes + h.BlockBytes - 1) / h.BlockBytes
	h.TableBytes = h.Records*recordBytes + h.Blocks*blockEntryBytes

	head := HeaderBytes + int(h.TableBytes)
	need := head + plain + s2.MaxEncodedLen(BlockBytes) // one block's worst case on top
	if cap(e.out) < need {
		e.out = make([]byte, need+need/4)
	}
	e.out = e.out[:cap(e.out)]
	e.putRecords(changes)
	end := e.putBlocks(h, changes, HeaderBytes+len(changes)*recordBytes, head)

	h.StoredBytes = uint32(end - head)
	h.Digest = xxh3.Hash128(e.out[HeaderBytes:end]).Bytes()
	hash := h.put(e.out)
	return e.out[:end], hash
}

// blockBytesFor suits the blocks to the runs of the volume that changes write, on
// average. What is scattered dies bit by bit, and whoever needs one write later should
// not have to fetch fifteen dead ones; pages from all over a volume compress as well on
// their own. What is contiguous compresses better together.
func blockBytesFor(changes []Change, plain int) uint32 {
	runs, volume, end := 0, uint32(0), int64(-1)
	for i := range changes {
		c := &changes[i]
		if c.Kind != Write {
			continue
		}
		if c.Volume != volume || c.Off != end {
			runs++
		}
		volume, end = c.Volume, c.Off+int64(c.Len)
	}
	size := MinBlockBytes
	for size < BlockBytes && size*runs < plain {
		size *= 2
	}
	return uint32(size)
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

// lane is one worker's share of a frame's blocks.
type lane struct {
	parts   [][]byte // of all data; the worker's begins skip bytes into it
	skip    int
	blocks  int // how many
	out     []byte
	used    int    // bytes of out, once it is done
	table   []byte // its blocks' entries
	scratch []byte
}

// A frame of so many bytes or more is shared out: fewer are done before another
// goroutine has begun.
const (
	minLaneBytes = 256 << 10
	maxLanes     = 4
)

// putBlocks compresses the changes' data in blocks of h.BlockBytes and writes the
// block table: per block
//
//	0 4 stored bytes   4 4 plain bytes   8 4 CRC-32C of the plain bytes
func (e *Encoder) putBlocks(h *Header, changes []Change, table, end int) int {
	e.parts = e.parts[:0]
	for i := range changes {
		e.parts = append(e.parts, changes[i].Data...)
	}
	blocks, size := int(h.Blocks), int(h.BlockBytes)
	lanes := max(1, min(blocks*size/minLaneBytes, maxLanes, runtime.GOMAXPROCS(0)))
	var wg sync.WaitGroup
	first := 0
	for i := range lanes {
		l := &e.lanes[i]
		l.parts, l.skip, l.blocks = e.parts, first*size, (blocks-first)/(lanes-i)
		l.table = e.out[table+first*blockEntryBytes:][:l.blocks*blockEntryBytes]
		first += l.blocks
		if i == 0 {
			l.out = e.out[end:] // the others' are moved behind it
			continue
		}
		if need := l.blocks*size + s2.MaxEncodedLen(size); cap(l.out) < need {
			l.out = make([]byte, need)
		}
		l.out = l.out[:cap(l.out)]
		wg.Go(func() { l.run(e.Codec, size) })
	}
	e.lanes[0].run(e.Codec, size)
	wg.Wait()
	end += e.lanes[0].used
	for i := 1; i < lanes; i++ {
		end += copy(e.out[end:], e.lanes[i].out[:e.lanes[i].used])
	}
	return end
}

func (l *lane) run(codec Codec, size int) {
	if cap(l.scratch) < BlockBytes {
		l.scratch = make([]byte, 0, BlockBytes)
	}
	l.used = 0
	left, table := l.blocks, l.table
	flush := func(block []byte) {
		l.used += putBlock(codec, block, l.out[l.used:], table)
		table = table[blockEntryBytes:]
		left--
	}
	fill, skip := l.scratch[:0], l.skip
	for _, p := range l.parts {
		if skip >= len(p) {
			skip -= len(p)
			continue
		}
		p, skip = p[skip:], 0
		for len(p) > 0 && left > 0 {
			if len(fill) == 0 && len(p) >= size {
				flush(p[:size]) // whole blocks need no copy
				p = p[size:]
				continue
			}
			n := min(size-len(fill), len(p))
			fill = append(fill, p[:n]...)
			p = p[n:]
			if len(fill) == size {
				flush(fill)
				fill = fill[:0]
			}
		}
		if left == 0 {
			break
		}
	}
	if len(fill) > 0 {
		flush(fill)
	}
}

// putBlock writes one block to out and its entry to table.
func putBlock(codec Codec, plain, out, table []byte) int {
	stored := len(plain)
	if codec == CodecS2 {
		stored = len(s2.Encode(out, plain))
	}
	if codec == CodecNone || stored >= len(plain) {
		stored = copy(out, plain)
	}
	le := binary.LittleEndian
	le.PutUint32(table, uint32(stored))
	le.PutUint32(table[4:], uint32(len(plain)))
	le.PutUint32(table[8:], crc32.Checksum(plain, castagnoli))
	return stored
}
