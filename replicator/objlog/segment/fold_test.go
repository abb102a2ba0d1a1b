package segment

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/zeebo/xxh3"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// foldOf makes a fold of the maker's frames of a stream by hand: the last write,
// and a trim. It replaces their entries by one.
func (m *maker) foldOf(t testing.TB, id change.StreamID) []byte {
	t.Helper()
	h := FoldHeader{Codec: change.CodecZstd, Stream: id}
	var headers []byte
	last := 0
	for i := range m.entries {
		if e := &m.entries[i]; e.Kind == FrameEntry && e.Stream == id {
			fh, hash, err := change.ParseHeader(m.bodies[i])
			if err != nil {
				t.Fatal(err)
			}
			if h.FirstLSN == 0 {
				h.FirstLSN, h.FirstTime, h.Prev = fh.FirstLSN, fh.FirstTime, fh.Prev
			}
			h.LastLSN, h.LastTime, h.Last = fh.LastLSN, fh.LastTime, hash
			h.FrameBytes, h.FramePlainBytes = h.FrameBytes+int64(fh.FrameBytes()),
				h.FramePlainBytes+int64(fh.PlainBytes)
			headers = append(headers, m.bodies[i][:change.HeaderBytes]...)
			last = i
		}
	}
	plain := bytes.Repeat([]byte("what is left "), 10000)[:70000]
	var blocks []FoldBlock
	for at := 0; at < len(plain); at += change.BlockBytes {
		b := plain[at:min(at+change.BlockBytes, len(plain))]
		blocks = append(blocks, FoldBlock{change.Zstd(change.Quick, nil, b), uint32(len(b)),
			crc32.Checksum(b, castagnoli)})
	}
	fold := EncodeFold(nil, &h, headers, []change.Record{
		{Kind: change.Write, Volume: 1, Off: 0, Len: 100, DataLen: 100},
		{Kind: change.Trim, Volume: 1, Off: 8192, Len: 512},
		{Kind: change.Write, Volume: 1, Off: 1 << 20, Len: 69900, DataLen: 69900}}, blocks)
	var entries []Entry
	var bodies [][]byte
	for i := range m.entries {
		m.entries[i].Index, m.entries[i].Covers = 100+uint64(i), 1
		switch e := &m.entries[i]; {
		case i == last:
			f := FoldEntryOf(&h)
			f.Index = e.Index
			entries, bodies = append(entries, f), append(bodies, fold)
		case e.Kind != FrameEntry || e.Stream != id:
			entries, bodies = append(entries, *e), append(bodies, m.bodies[i])
		}
	}
	n := uint64(len(m.entries))
	m.entries, m.bodies = entries, bodies
	obj, err := Build(Head{Type: Segment, Journal: journal, Token: Token{1, 2, writer}, Position: 5, FirstIndex: 100,
		LastIndex: 99 + n}, entries, nil,
		func(i int, dst []byte) error { copy(dst, bodies[i]); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return obj
}

// folded has a fold of two frames, another stream's frame between them, and a
// command.
func folded(t testing.TB) ([]byte, *maker) {
	m := newMaker()
	m.frame(streamB, 100)
	m.command("g")
	m.frame(streamA, 50)
	m.frame(streamB, 10)
	m.frame(streamA, 10)
	return m.foldOf(t, streamB), m
}

func TestFoldRoundTrip(t *testing.T) {
	obj, m := folded(t)
	s, err := read(obj)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m.entries, s.Index.Entries); diff != "" {
		t.Errorf("entries: %s", diff)
	}
	if s.Index.Version != TablesVersion || len(s.Content) != 4 || s.Index.LastIndex != 104 {
		t.Errorf("version %d, %d entries up to index %d", s.Index.Version, len(s.Content), s.Index.LastIndex)
	}
	e := s.Index.Entries[2] // command 101, frame 102, fold 103, frame 104
	if e.Kind != FoldEntry || e.Index != 103 || e.Covers != 2 || e.FirstLSN != 1 || e.LastLSN != 4 ||
		e.Hash != m.at[streamB].Hash {
		t.Errorf("%+v", e)
	}
	if err := Move(obj, 9); err != nil {
		t.Error(err)
	}
	if moved, err := Parse(obj); err != nil || moved.Position != 9 || moved.Version != TablesVersion {
		t.Errorf("moved: %+v, %v", moved, err)
	}
}

// TestFoldFlips: every byte of an object with a fold is covered.
func TestFoldFlips(t *testing.T) {
	orig, _ := folded(t)
	for off := range orig {
		b := bytes.Clone(orig)
		b[off] ^= 1 << (off % 8)
		if _, err := read(b); !fail.Is(err, fail.Damaged) || !strings.Contains(err.Error(), "at byte") {
			t.Fatalf("byte %d: %v", off, err)
		}
	}
}

// sealFold makes a fold's checksums right again.
func sealFold(b []byte) {
	sum := xxh3.Hash128(b[FoldHeaderBytes:]).Bytes()
	copy(b[128:144], sum[:])
	binary.LittleEndian.PutUint32(b[188:], crc32.Checksum(b[:188], castagnoli))
}

// TestFoldRefuses: numbers that contradict each other under right checksums.
func TestFoldRefuses(t *testing.T) {
	obj, m := folded(t)
	e := m.entries[2]
	orig := obj[e.Offset:][:e.Bytes]
	h, err := ParseFoldHeader(orig)
	if err != nil {
		t.Fatal(err)
	}
	records := FoldHeaderBytes + int(h.ChainBytes)
	blocks := records + 3*foldRecordBytes
	le := binary.LittleEndian
	for _, tt := range []struct {
		name string
		do   func(b []byte)
		kind fail.Kind
		text string
	}{
		{"version", func(b []byte) { b[4] = 3 }, fail.Unsupported, "version 3"},
		{"cipher", func(b []byte) { b[9], b[12] = 1, 2 }, fail.Unsupported, "cipher 1, key 2"},
		{"codec", func(b []byte) { b[8] = 7 }, fail.Unsupported, "codec 7"},
		{"header bytes", func(b []byte) { b[6]++ }, fail.Damaged, "header of"},
		{"LSN", func(b []byte) { b[40]++ }, fail.Damaged, "the chain leads to"},
		{"first LSN", func(b []byte) { b[32]++ }, fail.Damaged, "does not follow"},
		{"hash before", func(b []byte) { b[64]++ }, fail.Damaged, "the chain leads to"},
		{"hash", func(b []byte) { b[80]++ }, fail.Damaged, "the chain leads to"},
		{"stream", func(b []byte) { b[16]++ }, fail.Damaged, "does not follow"},
		{"frames", func(b []byte) { b[96] = 3 }, fail.Damaged, "chain does not decompress"},
		{"many frames", func(b []byte) { le.PutUint32(b[96:], 1<<30) }, fail.Damaged, "frames"},
		{"plain bytes", func(b []byte) { le.PutUint64(b[112:], 1<<40) }, fail.Damaged, "plain"},
		{"overlap", func(b []byte) { le.PutUint64(b[records+foldRecordBytes:], 50) }, fail.Damaged, "two records"},
		{"far away", func(b []byte) { le.PutUint64(b[records:], 1<<62-10) }, fail.Damaged, "bytes of data"},
		{"first time", func(b []byte) { b[48]++ }, fail.Damaged, "the chain leads to"},
		{"last time", func(b []byte) { b[56]++ }, fail.Damaged, "the chain leads to"},
		{"frame bytes", func(b []byte) { b[144]++ }, fail.Damaged, "the chain leads to"},
		{"blocks", func(b []byte) { b[104]++ }, fail.Damaged, "blocks for"},
		{"record length", func(b []byte) { b[records+8]-- }, fail.Damaged, "bytes of data"},
		{"record kind", func(b []byte) { b[records+20] = 9 }, fail.Damaged, "bytes of data"},
		{"mark", func(b []byte) { b[records+foldRecordBytes+20] = 4 }, fail.Unsupported, "mark"},
		{"records hold less", func(b []byte) { b[records+8]--; b[records+12]-- }, fail.Damaged, "records hold"},
		{"block length", func(b []byte) { b[blocks+4]-- }, fail.Damaged, "plain bytes"},
		{"block ends early", func(b []byte) { b[blocks+foldBlockBytes]-- }, fail.Damaged, "blocks end"},
		{"block checksum", func(b []byte) { b[blocks+8]++ }, fail.Damaged, "block checksum"},
	} {
		b := bytes.Clone(orig)
		tt.do(b)
		sealFold(b)
		var f Fold
		err := f.Reset(b)
		if err == nil {
			err = f.overlap()
		}
		for i := 0; err == nil && i < f.Parts(); i++ {
			_, _, err = f.Part(i, nil)
		}
		if !fail.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// FuzzParseFold: whatever it is given, a fold is read as it was written or
// refused, within its limits.
func FuzzParseFold(f *testing.F) {
	obj, m := folded(f)
	e := m.entries[2]
	f.Add(obj[e.Offset:][:e.Bytes], true)
	f.Fuzz(func(t *testing.T, b []byte, fix bool) {
		if fix && len(b) >= FoldHeaderBytes {
			b = bytes.Clone(b)
			sealFold(b)
		}
		var fold Fold
		err := fold.Reset(b)
		var total int64
		for i := 0; err == nil && i < fold.Parts(); i++ {
			var extents []Extent
			if extents, _, err = fold.Part(i, nil); err == nil {
				for _, e := range extents {
					total += int64(len(e.Data))
				}
			}
		}
		switch {
		case err != nil && !fail.Is(err, fail.Damaged) && !fail.Is(err, fail.Unsupported):
			t.Fatal(err)
		case err == nil && total != fold.PlainBytes:
			t.Fatalf("%d of %d plain bytes", total, fold.PlainBytes)
		}
	})
}

func (s *said) fold(i int, f *Fold) {
	for p := range f.Parts() {
		extents, _, err := f.Part(p, nil)
		s.Content = append(s.Content, fmt.Sprintf("%d %+v %+v %v", i, f.FoldHeader, extents, err))
	}
}
