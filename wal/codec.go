package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
)

// All integers are little endian; all checksums are CRC-32C (Castagnoli).
//
// A segment file:
//
//	0        4096                                              end of file
//	+--------+-----------------+---------+-----------------+--------+
//	| header | batch           | batch   | batch           | zeros  |
//	|        |                 |         |                 | or old |
//	+--------+-----------------+---------+-----------------+--------+
//	         every batch begins at a multiple of 4096
//
// The segment header fills the first block with two equal copies, at 0 and at
// 2048, so that one damaged sector does not make the whole file unreadable:
//
//	 0        4     6       8          16      24         32        40
//	+--------+-----+-------+----------+-------+----------+---------+
//	| "PLXW" | ver | flags | sequence | salt  | base     | front   |
//	+--------+-----+-------+----------+-------+----------+---------+
//	 40              48          56                          124   128
//	+---------------+-----------+----------------------------+-----+
//	| prev sequence | prev salt | reserved, zero             | crc |
//	+---------------+-----------+----------------------------+-----+
//
// A batch:
//
//	 0        4       8      16       20      24      32      36        40
//	+--------+-------+------+--------+-------+-------+-------+---------+
//	| "PLXB" | flags | salt | offset | chain | first | count | payload |
//	+--------+-------+------+--------+-------+-------+-------+---------+
//	 40               48      56       60    64
//	+----------------+-------+--------+-----+-------------------+------+
//	| synced through | front | digest | crc | entries (payload) | zero |
//	+----------------+-------+--------+-----+-------------------+------+
//	                                                       to a multiple of 4096
//
// chain is the crc of the batch header before it (of the segment header for the
// first batch); digest is the checksum of all the entries' 8-byte headers in
// order, so that the chain covers lengths and contents too.
//
// An entry:
//
//	 0        4     8
//	+--------+-----+----------------+
//	| length | crc | length bytes   |
//	+--------+-----+----------------+
//
// Its crc starts from a mix of salt, index and length: an entry of another
// generation, place or length never passes.
const (
	blockBytes         = 4096
	segmentHeaderBytes = blockBytes
	headerCopyBytes    = 128
	headerCopyStride   = 2048
	batchHeaderBytes   = 64
	entryHeaderBytes   = 8

	formatVersion = 1

	// flagSeal marks the empty batch that a clean Close writes last.
	flagSeal = 1 << 0
)

var (
	segmentMagic = []byte("PLXW")
	batchMagic   = []byte("PLXB")
	castagnoli   = crc32.MakeTable(crc32.Castagnoli)
)

// segmentHeader says where a segment stands in the log.
type segmentHeader struct {
	sequence     uint64 // as in the file's name
	salt         uint64 // this generation of the file; never used twice
	base         uint64 // index of the first entry that goes here; later ones elsewhere are dead
	front        uint64 // the log's first index when the segment was created; <= base
	prevSequence uint64 // the segment that holds base-1; 0: none, everything older is dead
	prevSalt     uint64
}

// batchHeader describes one pwrite's worth of entries.
type batchHeader struct {
	flags        uint32
	salt         uint64
	offsetBytes  uint32 // where in the file the batch lies
	chain        uint32
	first        uint64 // index of the first entry
	count        uint32
	payloadBytes uint32
	synced       uint64 // highest index known to be durable when this was written
	front        uint64 // the log's first index when this was written
	digest       uint32
	crc          uint32 // of the 60 bytes before it
}

var (
	errBadChecksum = errors.New("checksum does not match")
	errNoMagic     = errors.New("no magic number")
)

// versionError reports a format that this build does not know.
type versionError uint16

func (v versionError) Error() string {
	return fmt.Sprintf("format version %d; this build knows version %d", uint16(v), formatVersion)
}

// encodeSegmentHeader fills block, which is blockBytes long, and returns the
// checksum from which the segment's chain starts.
func encodeSegmentHeader(block []byte, h segmentHeader) uint32 {
	clear(block)
	c := block[:headerCopyBytes]
	copy(c, segmentMagic)
	le := binary.LittleEndian
	le.PutUint16(c[4:], formatVersion)
	le.PutUint64(c[8:], h.sequence)
	le.PutUint64(c[16:], h.salt)
	le.PutUint64(c[24:], h.base)
	le.PutUint64(c[32:], h.front)
	le.PutUint64(c[40:], h.prevSequence)
	le.PutUint64(c[48:], h.prevSalt)
	crc := crc32.Checksum(c[:headerCopyBytes-4], castagnoli)
	le.PutUint32(c[headerCopyBytes-4:], crc)
	copy(block[headerCopyStride:], c)
	return crc
}

// decodeSegmentHeader returns the header and its checksum from the first copy
// that holds. The error is a versionError where both copies bear the same
// unknown version.
func decodeSegmentHeader(block []byte) (segmentHeader, uint32, error) {
	var first error
	versions := [2]int{-1, -2}
	for i := range 2 {
		at := i * headerCopyStride
		if len(block) < at+headerCopyBytes {
			return segmentHeader{}, 0, errors.Join(first, errors.New("file is shorter than its header"))
		}
		h, crc, err := decodeHeaderCopy(block[at : at+headerCopyBytes])
		if err == nil {
			return h, crc, nil
		}
		var v versionError
		if errors.As(err, &v) {
			versions[i] = int(v)
		}
		if first == nil {
			first = err
		}
	}
	if versions[0] == versions[1] {
		return segmentHeader{}, 0, versionError(versions[0])
	}
	return segmentHeader{}, 0, fmt.Errorf("segment header: both copies are bad: %s", first)
}

func decodeHeaderCopy(c []byte) (segmentHeader, uint32, error) {
	le := binary.LittleEndian
	if !bytes.Equal(c[:4], segmentMagic) {
		return segmentHeader{}, 0, errNoMagic
	}
	if v := le.Uint16(c[4:]); v != formatVersion {
		return segmentHeader{}, 0, versionError(v)
	}
	crc := crc32.Checksum(c[:headerCopyBytes-4], castagnoli)
	if crc != le.Uint32(c[headerCopyBytes-4:]) {
		return segmentHeader{}, 0, errBadChecksum
	}
	h := segmentHeader{
		sequence:     le.Uint64(c[8:]),
		salt:         le.Uint64(c[16:]),
		base:         le.Uint64(c[24:]),
		front:        le.Uint64(c[32:]),
		prevSequence: le.Uint64(c[40:]),
		prevSalt:     le.Uint64(c[48:]),
	}
	if h.base == 0 || h.front == 0 || h.front > h.base || h.prevSequence >= h.sequence {
		return segmentHeader{}, 0, errors.New("impossible values")
	}
	return h, crc, nil
}

// batchBytes returns the aligned size of a batch with this much payload.
func batchBytes(payloadBytes int64) int64 {
	return alignUp(batchHeaderBytes + payloadBytes)
}

func alignUp(n int64) int64 { return (n + blockBytes - 1) &^ (blockBytes - 1) }

// encodeBatch encodes entries into buf (grown as needed) and returns it, padded
// to whole blocks, with the header's checksum. It sets count, payloadBytes,
// digest and crc itself. It allocates only where buf is too small.
func encodeBatch(buf []byte, h batchHeader, entries parts) ([]byte, uint32) {
	payload := int64(0)
	for i := range entries.bodies {
		payload += entryHeaderBytes + int64(entries.len(i))
	}
	size := int(batchBytes(payload))
	buf = slices.Grow(buf[:0], size)[:size]
	le := binary.LittleEndian
	at, digest := batchHeaderBytes, uint32(0)
	for i, body := range entries.bodies {
		from := at + entryHeaderBytes
		end := from + copy(buf[from:], entries.head(i))
		end += copy(buf[end:], body)
		le.PutUint32(buf[at:], uint32(end-from))
		le.PutUint32(buf[at+4:], entryCRC(h.salt, h.first+uint64(i), buf[from:end])) // warm in the cache by now
		digest = crc32.Update(digest, castagnoli, buf[at:from])
		at = end
	}
	clear(buf[at:])
	copy(buf, batchMagic)
	le.PutUint32(buf[4:], h.flags)
	le.PutUint64(buf[8:], h.salt)
	le.PutUint32(buf[16:], h.offsetBytes)
	le.PutUint32(buf[20:], h.chain)
	le.PutUint64(buf[24:], h.first)
	le.PutUint32(buf[32:], uint32(entries.count()))
	le.PutUint32(buf[36:], uint32(payload))
	le.PutUint64(buf[40:], h.synced)
	le.PutUint64(buf[48:], h.front)
	le.PutUint32(buf[56:], digest)
	crc := crc32.Checksum(buf[:batchHeaderBytes-4], castagnoli)
	le.PutUint32(buf[60:], crc)
	return buf, crc
}

// decodeBatchHeader checks magic and checksum of a batch header; it judges
// nothing that depends on where it was found.
func decodeBatchHeader(b []byte) (batchHeader, error) {
	if len(b) < batchHeaderBytes || !bytes.Equal(b[:4], batchMagic) {
		return batchHeader{}, errNoMagic
	}
	le := binary.LittleEndian
	crc := crc32.Checksum(b[:batchHeaderBytes-4], castagnoli)
	if crc != le.Uint32(b[60:]) {
		return batchHeader{}, errBadChecksum
	}
	return batchHeader{
		flags:        le.Uint32(b[4:]),
		salt:         le.Uint64(b[8:]),
		offsetBytes:  le.Uint32(b[16:]),
		chain:        le.Uint32(b[20:]),
		first:        le.Uint64(b[24:]),
		count:        le.Uint32(b[32:]),
		payloadBytes: le.Uint32(b[36:]),
		synced:       le.Uint64(b[40:]),
		front:        le.Uint64(b[48:]),
		digest:       le.Uint32(b[56:]),
		crc:          crc,
	}, nil
}

// entryCRC is the checksum of an entry's bytes at this index of this generation.
func entryCRC(salt, index uint64, e []byte) uint32 {
	seed := mix64(salt ^ mix64(index^uint64(len(e))<<40))
	return crc32.Update(uint32(seed), castagnoli, e)
}

// decodeEntry returns the bytes of the entry that begins at b, which may go on
// beyond the entry's end.
func decodeEntry(b []byte, salt, index uint64) ([]byte, error) {
	if len(b) < entryHeaderBytes {
		return nil, errors.New("entry header is cut off")
	}
	le := binary.LittleEndian
	n := int64(le.Uint32(b))
	if n > int64(len(b)-entryHeaderBytes) {
		return nil, fmt.Errorf("entry %d claims %d bytes where there is room for %d", index, n, len(b)-entryHeaderBytes)
	}
	e := b[entryHeaderBytes : entryHeaderBytes+n : entryHeaderBytes+n]
	if entryCRC(salt, index, e) != le.Uint32(b[4:]) {
		return nil, fmt.Errorf("entry %d: %w", index, errBadChecksum)
	}
	return e, nil
}

// mix64 is the finaliser of splitmix64.
func mix64(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
