package segment

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"

	"github.com/pollux-dr/pollux/internal/change"
)

// Table tells where the data of a frame or fold lies, without its bytes.
type Table struct {
	Codec      change.Codec
	BlockBytes uint32          // plain, of all blocks but the last
	Prev       change.Hash     // of the frame before
	Records    []change.Record // their LSNs are 0
	Blocks     []change.Block  // Offset is from the object's start
}

// maxTableBytes bounds the tables of one object: no more than what they repeat.
const maxTableBytes = MaxBodyBytes

// tablesIn collects the headers and tables of an object's frames and folds: what the
// body has, to be repeated where a reader of the footer finds it.
func tablesIn(obj []byte, entries []Entry) (plain []byte, err error) {
	for i := range entries {
		e := &entries[i]
		if !e.OfStream() {
			continue
		}
		body := obj[e.Offset:][:e.Bytes]
		h, err := tableHeadOf(e, body)
		if err != nil {
			return nil, inEntry(e, err)
		}
		if h.data > len(body) {
			return nil, damaged(e.Offset, "tables of %d bytes in an entry of %d", h.data-h.tables, len(body))
		}
		plain = append(append(plain, body[:h.bytes]...), body[h.tables:h.data]...)
	}
	return plain, nil
}

// tableHead is what a frame's or fold's header says of its tables. Offsets are from
// its start.
type tableHead struct {
	bytes           int // of the header
	tables, data    int // where tables and blocks begin
	records, blocks int // how many
	blockBytes      uint32
	codec           change.Codec
	prev, last      change.Hash
}

func tableHeadOf(e *Entry, b []byte) (tableHead, error) {
	if e.Kind == FoldEntry {
		h, err := ParseFoldHeader(b)
		at := FoldHeaderBytes + int(h.ChainBytes)
		return tableHead{FoldHeaderBytes, at, at + int(h.Records)*foldRecordBytes + int(h.Blocks)*foldBlockBytes,
			int(h.Records), int(h.Blocks), change.BlockBytes, h.Codec, h.Prev, h.Last}, err
	}
	h, hash, err := change.ParseHeader(b)
	return tableHead{change.HeaderBytes, change.HeaderBytes, change.HeaderBytes + int(h.TableBytes), int(h.Records),
		int(h.Blocks), h.BlockBytes, h.Codec, h.Prev, hash}, err
}

// encodeTables appends the tables of an object to dst, as
//
//	0 4 plain bytes   4 4 CRC-32C of the plain bytes   8 - zstd, or as it is where that is not smaller
func encodeTables(dst, obj []byte, entries []Entry) ([]byte, error) {
	plain, err := tablesIn(obj, entries)
	if err != nil || len(plain) == 0 {
		return dst, err
	}
	le := binary.LittleEndian
	dst = le.AppendUint32(dst, uint32(len(plain)))
	dst = le.AppendUint32(dst, crc32.Checksum(plain, castagnoli))
	return change.Zstd(change.Quick, dst, plain), nil
}

// AddTables gives the index of an object of an older version its tables, from the
// whole object.
func (x *Index) AddTables(obj []byte) (err error) {
	if len(x.TableData) == 0 {
		x.TableData, err = encodeTables(nil, obj, x.Entries)
	}
	return err
}

// HasTables reports whether EachTable can tell them.
func (x *Index) HasTables() bool { return len(x.TableData) > 0 || x.Version >= TablesVersion }

// plainTables decompresses and checks the tables.
func (x *Index) plainTables() ([]byte, error) {
	if len(x.TableData) == 0 {
		return nil, nil
	}
	le, at := binary.LittleEndian, x.Bytes-TrailerBytes-int64(len(x.TableData))
	if len(x.TableData) < 8 || le.Uint32(x.TableData) > maxTableBytes {
		return nil, damaged(at, "tables of %d bytes", len(x.TableData))
	}
	b := make([]byte, le.Uint32(x.TableData))
	if err := change.Decompress(change.CodecZstd, b, x.TableData[8:]); err != nil {
		return nil, damaged(at, "the tables do not decompress: %v", err)
	}
	if crc32.Checksum(b, castagnoli) != le.Uint32(x.TableData[4:]) {
		return nil, damaged(at+4, "the tables' checksum does not match")
	}
	return b, nil
}

// checkTables holds the footer's tables against the body's.
func (x *Index) checkTables(obj []byte) error {
	if x.Version < TablesVersion {
		return nil
	}
	want, err := tablesIn(obj, x.Entries)
	if err != nil {
		return err
	}
	got, err := x.plainTables()
	if err == nil && !bytes.Equal(got, want) {
		err = damaged(x.Bytes-TrailerBytes-int64(len(x.TableData)),
			"the tables in the footer are not those of the frames")
	}
	return err
}

// EachTable calls fn for each frame and fold, in the order of the footer. Errors are
// fail.Damaged, and fn's.
func (x *Index) EachTable(fn func(i int, t *Table) error) error {
	b, err := x.plainTables()
	if err != nil {
		return err
	}
	for i := range x.Entries {
		e := &x.Entries[i]
		if !e.OfStream() {
			continue
		}
		h, err := tableHeadOf(e, b)
		if err != nil {
			return inEntry(e, err)
		}
		n := h.data - h.tables
		if h.last != e.Hash || h.data > int(e.Bytes) || n > len(b)-h.bytes {
			return damaged(e.Offset, "the tables of entry %d are not its own", i)
		}
		t := Table{Codec: h.codec, BlockBytes: h.blockBytes, Prev: h.prev}
		if t.Records, t.Blocks, err = change.ParseTables(h.records, h.blocks, h.blockBytes,
			b[h.bytes:][:n]); err != nil {
			return inEntry(e, err)
		}
		end := h.data
		for k := range t.Blocks {
			t.Blocks[k].Offset += int(e.Offset) + h.data
			end += int(t.Blocks[k].StoredBytes)
		}
		if end != int(e.Bytes) {
			return damaged(e.Offset, "the blocks of entry %d end at byte %d of %d", i, end, e.Bytes)
		}
		if err := fn(i, &t); err != nil {
			return err
		}
		b = b[h.bytes+n:]
	}
	return nil
}
