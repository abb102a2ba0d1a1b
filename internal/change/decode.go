package change

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/zeebo/xxh3"
)

// Frame is a parsed frame. It refers to the bytes that it was parsed from.
type Frame struct {
	Header
	Hash    Hash
	Records []Record
	raw     []byte
}

// Parse checks a whole frame, which b must hold exactly: header, digest and
// tables. The blocks' plain bytes are checked by Plain. Errors are
// fail.Damaged, with the offset inside the frame, or fail.Unsupported.
func Parse(b []byte) (*Frame, error) {
	f := &Frame{}
	return f, f.Reset(b)
}

// Reset is Parse into an existing Frame, whose memory it reuses.
func (f *Frame) Reset(b []byte) error {
	h, hash, err := ParseHeader(b)
	if err != nil {
		return err
	}
	if len(b) != h.FrameBytes() {
		return damaged(len(b), "frame of %d bytes, its header says %d", len(b), h.FrameBytes())
	}
	if got := xxh3.Hash128(b[HeaderBytes:]).Bytes(); got != h.Digest {
		return damaged(HeaderBytes, "frame body digest %x, stored %x", got, h.Digest)
	}
	f.Header, f.Hash, f.raw = h, hash, b
	if err := f.parseRecords(); err != nil {
		return err
	}
	return f.checkBlocks()
}

// checkBlocks sees to it that BlockTable tells of the frame's bytes and no others.
func (f *Frame) checkBlocks() error {
	le := binary.LittleEndian
	at, left, end := HeaderBytes+int(f.Header.Records)*recordBytes, f.PlainBytes, HeaderBytes+int(f.TableBytes)
	for range f.Blocks {
		stored, plain := le.Uint32(f.raw[at:]), le.Uint32(f.raw[at+4:])
		if plain != min(f.BlockBytes, left) || stored == 0 || stored > plain {
			return damaged(at, "block of %d stored and %d plain bytes", stored, plain)
		}
		left, end, at = left-plain, end+int(stored), at+blockEntryBytes
	}
	if end != len(f.raw) {
		return damaged(end, "blocks end before the frame does")
	}
	return nil
}

func (f *Frame) parseRecords() error {
	if cap(f.Records) < int(f.Header.Records) {
		f.Records = make([]Record, f.Header.Records)
	}
	f.Records = f.Records[:f.Header.Records]
	le := binary.LittleEndian
	pos := uint64(0)
	for i := range f.Records {
		at := HeaderBytes + i*recordBytes
		b := f.raw[at:][:recordBytes]
		r := Record{
			LSN:     f.FirstLSN + uint64(i),
			Off:     int64(le.Uint64(b)),
			Len:     le.Uint32(b[8:]),
			DataLen: le.Uint32(b[12:]),
			Volume:  le.Uint32(b[16:]),
			Kind:    Kind(b[20]),
			dataOff: uint32(pos),
		}
		if err := r.check(at); err != nil {
			return err
		}
		if pos += uint64(r.DataLen); pos > uint64(f.PlainBytes) {
			return damaged(at, "records hold more than the frame's %d plain bytes", f.PlainBytes)
		}
		f.Records[i] = r
	}
	if pos != uint64(f.PlainBytes) {
		return damaged(HeaderBytes, "records hold %d bytes, the frame %d", pos, f.PlainBytes)
	}
	return nil
}

func (r *Record) check(at int) error {
	if r.Off < 0 || r.Off > MaxOffset-int64(r.Len) {
		return damaged(at, "record at offset %d with %d bytes", r.Off, r.Len)
	}
	switch r.Kind {
	case Write:
		if r.DataLen != r.Len || r.Len == 0 || r.Len > MaxRecordBytes {
			return damaged(at, "write of %d bytes with %d bytes of data", r.Len, r.DataLen)
		}
	case Zero, Trim:
		if r.DataLen != 0 || r.Len == 0 {
			return damaged(at, "%v of %d bytes with %d bytes of data", r.Kind, r.Len, r.DataLen)
		}
	case Mark:
		if r.Len != 0 || r.DataLen > MaxNameBytes {
			return damaged(at, "mark of %d bytes", r.DataLen)
		}
	default:
		return unsupported("record %v", r.Kind)
	}
	return nil
}

// Plain decompresses all blocks into buf (which grows as needed) and checks
// each against its checksum. Data cuts a record's bytes out of the result.
func (f *Frame) Plain(buf []byte) ([]byte, error) {
	if cap(buf) < int(f.PlainBytes) {
		buf = make([]byte, f.PlainBytes)
	}
	buf = buf[:f.PlainBytes]
	le := binary.LittleEndian
	table := HeaderBytes + int(f.Header.Records)*recordBytes
	src, dst := HeaderBytes+int(f.TableBytes), 0
	for range f.Blocks {
		e := f.raw[table:][:blockEntryBytes]
		table += blockEntryBytes
		stored, plain, sum := int(le.Uint32(e)), int(le.Uint32(e[4:])), le.Uint32(e[8:])
		if err := Decompress(f.Codec, buf[dst:dst+plain], f.raw[src:src+stored]); err != nil {
			return nil, damaged(src, "block does not decompress: %v", err)
		}
		if got := crc32.Checksum(buf[dst:dst+plain], castagnoli); got != sum {
			return nil, damaged(src, "block checksum %08x, stored %08x", got, sum)
		}
		src, dst = src+stored, dst+plain
	}
	return buf, nil
}

// Data returns record i's bytes within plain, which Plain returned.
func (f *Frame) Data(i int, plain []byte) []byte {
	r := &f.Records[i]
	return plain[r.dataOff : r.dataOff+r.DataLen]
}
