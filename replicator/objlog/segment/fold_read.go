package segment

import (
	"cmp"
	"encoding/binary"
	"hash/crc32"
	"slices"

	"github.com/zeebo/xxh3"

	"github.com/pollux-dr/pollux/internal/change"
)

// Fold is a parsed fold. It refers to the bytes that it was parsed from.
type Fold struct {
	FoldHeader
	// Records do not overlap; all are of LastLSN, for nothing between is left.
	Records []change.Record
	data    []int64 // where each record's data begins in the plain bytes
	stored  []int64 // where each block begins in raw
	raw     []byte
	chain   []byte
}

// Extent is a run of a volume's bytes that changed. Data is nil where they became
// zeros.
type Extent struct {
	Kind   change.Kind
	Volume uint32
	Off    int64
	Len    int64
	Data   []byte
}

// Reset parses a whole fold, which b must hold exactly, into f, whose memory it
// reuses: header, digest, tables, and the chain of the headers of its frames, which
// must lead from Prev to Last. The blocks' bytes are checked by Part. Errors are
// fail.Damaged, with the offset inside the fold, or fail.Unsupported.
func (f *Fold) Reset(b []byte) error {
	h, err := ParseFoldHeader(b)
	if err != nil {
		return err
	}
	if int64(len(b)) != h.Bytes() {
		return badFold(int64(len(b)), "%d bytes, its header says %d", len(b), h.Bytes())
	}
	if xxh3.Hash128(b[FoldHeaderBytes:]).Bytes() != h.digest {
		return badFold(FoldHeaderBytes, "digest does not match")
	}
	f.FoldHeader, f.raw = h, b
	if err := f.follow(); err != nil {
		return err
	}
	if err := f.parseRecords(); err != nil {
		return err
	}
	return f.parseBlocks()
}

// follow walks the chain of the frames' headers.
func (f *Fold) follow() error {
	n := int(f.Frames) * change.HeaderBytes
	if cap(f.chain) < n {
		f.chain = make([]byte, n)
	}
	f.chain = f.chain[:n]
	if err := change.Decompress(change.CodecZstd, f.chain, f.raw[FoldHeaderBytes:][:f.ChainBytes]); err != nil {
		return badFold(FoldHeaderBytes, "chain does not decompress: %v", err)
	}
	at := change.Point{LSN: f.FirstLSN - 1, Hash: f.Prev}
	bytes, plain, begin, end := int64(0), int64(0), int64(0), int64(0)
	for i := 0; i < n; i += change.HeaderBytes {
		h, hash, err := change.Relink(f.chain[i:][:change.HeaderBytes], at.Hash)
		if err != nil {
			return badFold(FoldHeaderBytes, "frame %d of the chain: %v", i/change.HeaderBytes, err)
		}
		if err := h.Follows(at); err != nil || h.Stream != f.Stream {
			return badFold(FoldHeaderBytes, "frame %d of the chain does not follow: stream %s, LSN %d after %d",
				i/change.HeaderBytes, h.Stream, h.FirstLSN, at.LSN)
		}
		if h.Flags&change.FlagMarks != 0 {
			return badFold(FoldHeaderBytes, "frame %d of the chain holds a mark", i/change.HeaderBytes)
		}
		if i == 0 {
			begin = h.FirstTime
		}
		end = h.LastTime
		at = change.Point{LSN: h.LastLSN, Hash: hash}
		bytes, plain = bytes+int64(h.FrameBytes()), plain+int64(h.PlainBytes)
	}
	if at != (change.Point{LSN: f.LastLSN, Hash: f.Last}) || bytes != f.FrameBytes || plain != f.FramePlainBytes ||
		begin != f.FirstTime || end != f.LastTime {
		return badFold(FoldHeaderBytes, "the chain leads to %v in place of LSN %d hash %s", at, f.LastLSN, f.Last)
	}
	return nil
}

// Headers calls fn with the headers of the frames that it stands for, in order.
func (f *Fold) Headers(fn func(h change.Header, hash change.Hash)) {
	for i := 0; i < len(f.chain); i += change.HeaderBytes {
		if h, hash, err := change.ParseHeader(f.chain[i:]); err == nil { // Reset saw to that
			fn(h, hash)
		}
	}
}

func (f *Fold) parseRecords() error {
	f.Records, f.data = f.Records[:0], f.data[:0]
	at := FoldHeaderBytes + int(f.ChainBytes)
	le, plain := binary.LittleEndian, int64(0)
	for range f.FoldHeader.Records {
		b := f.raw[at:][:foldRecordBytes]
		r := change.Record{LSN: f.LastLSN, Off: int64(le.Uint64(b)), Len: le.Uint32(b[8:]), DataLen: le.Uint32(b[12:]),
			Volume: le.Uint32(b[16:]), Kind: change.Kind(b[20])}
		data := r.Kind == change.Write
		switch {
		case r.Off < 0 || r.Off > change.MaxOffset-int64(r.Len) || r.Len == 0 || (data && r.DataLen != r.Len) ||
			(!data && r.DataLen != 0):
			return badFold(int64(at), "%v of %d bytes at %d with %d bytes of data", r.Kind, r.Len, r.Off, r.DataLen)
		case r.Kind < change.Write || r.Kind > change.Trim:
			return foldUnsupported("record %v", r.Kind)
		}
		f.Records, f.data = append(f.Records, r), append(f.data, plain)
		plain += int64(r.DataLen)
		at += foldRecordBytes
	}
	if plain != f.PlainBytes {
		return badFold(int64(FoldHeaderBytes), "records hold %d bytes, the fold %d", plain, f.PlainBytes)
	}
	return nil
}

// table is where the block table begins.
func (f *Fold) table() int {
	return FoldHeaderBytes + int(f.ChainBytes) + len(f.Records)*foldRecordBytes
}

func (f *Fold) parseBlocks() error {
	f.stored = f.stored[:0]
	at, table := f.table(), int64(f.table()+int(f.Blocks)*foldBlockBytes)
	end, left, le := table, f.PlainBytes, binary.LittleEndian
	for range f.Blocks {
		stored, plain := int64(le.Uint32(f.raw[at:])), int64(le.Uint32(f.raw[at+4:]))
		if plain != min(left, change.BlockBytes) || stored > plain || stored == 0 {
			return badFold(int64(at), "block of %d stored and %d plain bytes", stored, plain)
		}
		f.stored = append(f.stored, end)
		end, left, at = end+stored, left-plain, at+foldBlockBytes
	}
	if end != int64(len(f.raw)) {
		return badFold(table, "blocks end at byte %d of %d", end, len(f.raw))
	}
	return nil
}

// overlap returns an error where two records have a byte in common.
func (f *Fold) overlap() error {
	order := make([]int, len(f.Records))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		x, y := &f.Records[a], &f.Records[b]
		return cmp.Or(cmp.Compare(x.Volume, y.Volume), cmp.Compare(x.Off, y.Off))
	})
	for i := 1; i < len(order); i++ {
		x, y := &f.Records[order[i-1]], &f.Records[order[i]]
		if x.Volume == y.Volume && x.Off+int64(x.Len) > y.Off {
			return badFold(FoldHeaderBytes, "two records have byte %d of volume %d", y.Off, y.Volume)
		}
	}
	return nil
}

// Parts is how many parts Part has, at least one.
func (f *Fold) Parts() int { return max(1, (int(f.Blocks)+foldPartBlocks-1)/foldPartBlocks) }

// PartBytes is how many plain bytes part i has.
func (f *Fold) PartBytes(i int) int {
	const partBytes = foldPartBlocks * change.BlockBytes
	return int(min(partBytes, f.PlainBytes-int64(i)*partBytes))
}

// Part opens part i into buf (which grows as needed), checks its blocks, and
// returns the extents whose data lies in it, cut at its ends. Extents without data
// are in the first part.
func (f *Fold) Part(i int, buf []byte) ([]Extent, []byte, error) {
	const partBytes = foldPartBlocks * change.BlockBytes
	lo := int64(i) * partBytes
	hi := min(lo+partBytes, f.PlainBytes)
	if int64(cap(buf)) < hi-lo {
		buf = make([]byte, hi-lo)
	}
	buf = buf[:hi-lo]
	le := binary.LittleEndian
	for b := i * foldPartBlocks; b < min((i+1)*foldPartBlocks, int(f.Blocks)); b++ {
		e := f.raw[f.table()+b*foldBlockBytes:]
		stored, plain, sum := int64(le.Uint32(e)), int64(le.Uint32(e[4:])), le.Uint32(e[8:])
		dst := buf[int64(b)*change.BlockBytes-lo:][:plain]
		if err := change.Decompress(f.Codec, dst, f.raw[f.stored[b]:][:stored]); err != nil {
			return nil, buf, badFold(f.stored[b], "block does not decompress: %v", err)
		}
		if got := crc32.Checksum(dst, castagnoli); got != sum {
			return nil, buf, badFold(f.stored[b], "block checksum %08x, stored %08x", got, sum)
		}
	}
	var out []Extent
	for k := range f.Records {
		r, at := &f.Records[k], f.data[k]
		if r.DataLen == 0 {
			if i == 0 {
				out = append(out, Extent{Kind: r.Kind, Volume: r.Volume, Off: r.Off, Len: int64(r.Len)})
			}
			continue
		}
		from, to := max(at, lo), min(at+int64(r.DataLen), hi)
		if from < to {
			out = append(out, Extent{Kind: r.Kind, Volume: r.Volume, Off: r.Off + from - at, Len: to - from,
				Data: buf[from-lo : to-lo]})
		}
	}
	return out, buf, nil
}
