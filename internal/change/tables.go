package change

import "encoding/binary"

// RecordTableBytes and BlockTableBytes are what a record and a block take of the
// tables of a frame or fold.
const (
	RecordTableBytes = recordBytes
	BlockTableBytes  = blockEntryBytes
)

// ParseTables decodes the tables of a frame or fold on their own: so many records,
// then so many blocks of blockBytes. The records' LSNs are left 0; the blocks' offsets are counted
// from the first block's bytes. Errors are fail.Damaged.
func ParseTables(records, blocks int, blockBytes uint32, b []byte) ([]Record, []Block, error) {
	if len(b) != records*recordBytes+blocks*blockEntryBytes {
		return nil, nil, damaged(len(b), "tables of %d bytes for %d records and %d blocks", len(b), records, blocks)
	}
	le := binary.LittleEndian
	rs, plain := make([]Record, records), uint64(0)
	for i := range rs {
		at := i * recordBytes
		r := &rs[i]
		*r = Record{Off: int64(le.Uint64(b[at:])), Len: le.Uint32(b[at+8:]), DataLen: le.Uint32(b[at+12:]),
			Volume: le.Uint32(b[at+16:]), Kind: Kind(b[at+20]), dataOff: uint32(plain)}
		data := r.Kind == Write || r.Kind == Mark
		if r.Kind < Write || r.Kind > Mark || r.Off < 0 || r.Off > MaxOffset-int64(r.Len) ||
			(r.Kind == Write && r.DataLen != r.Len) || (!data && r.DataLen != 0) {
			return nil, nil, damaged(at, "%v of %d bytes at %d with %d bytes of data", r.Kind, r.Len, r.Off, r.DataLen)
		}
		plain += uint64(r.DataLen)
	}
	bs, stored, left := make([]Block, blocks), 0, plain
	for i := range bs {
		at := records*recordBytes + i*blockEntryBytes
		bs[i] = Block{Offset: stored, StoredBytes: le.Uint32(b[at:]), PlainBytes: le.Uint32(b[at+4:]),
			CRC: le.Uint32(b[at+8:])}
		if uint64(bs[i].PlainBytes) != min(left, uint64(blockBytes)) || bs[i].StoredBytes > bs[i].PlainBytes ||
			bs[i].StoredBytes == 0 {
			return nil, nil, damaged(at, "block of %d stored and %d plain bytes", bs[i].StoredBytes, bs[i].PlainBytes)
		}
		stored += int(bs[i].StoredBytes)
		left -= uint64(bs[i].PlainBytes)
	}
	if left != 0 {
		return nil, nil, damaged(len(b), "records hold %d bytes more than the blocks", left)
	}
	return rs, bs, nil
}
