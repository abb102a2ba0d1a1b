package segment

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
)

var (
	streamA = uuid.MustParse("aaaaaaaa-0000-0000-0000-000000000001")
	streamB = uuid.MustParse("bbbbbbbb-0000-0000-0000-000000000002")
	journal = uuid.MustParse("cccccccc-0000-0000-0000-000000000003")
	writer  = uuid.MustParse("dddddddd-0000-0000-0000-000000000004")
)

// maker makes the frames of some streams, and commands.
type maker struct {
	at      map[change.StreamID]change.Point
	entries []Entry
	bodies  [][]byte
}

func newMaker() *maker { return &maker{at: map[change.StreamID]change.Point{}} }

func (m *maker) frame(id change.StreamID, size int) {
	at := m.at[id]
	h := change.Header{Stream: id, FirstLSN: at.LSN + 1, FirstTime: 10, LastTime: 20, Prev: at.Hash}
	e := change.Encoder{Codec: change.CodecS2}
	data := bytes.Repeat([]byte{byte(at.LSN), 2, 3}, size)[:size]
	b, hash := e.Encode(&h, []change.Change{{Kind: change.Write, Volume: 1, Len: uint32(size), Data: [][]byte{data}},
		{Kind: change.Trim, Volume: 1, Off: 8192, Len: 512}})
	m.at[id] = change.Point{LSN: h.LastLSN, Hash: hash}
	m.entries = append(m.entries, FrameEntryOf(&h, hash))
	m.bodies = append(m.bodies, bytes.Clone(b))
}

func (m *maker) command(name string) {
	b := state.Encode(state.KindGroupPut, state.Group{Name: name})
	m.entries = append(m.entries, Entry{Kind: CommandEntry, Command: state.KindGroupPut, Bytes: uint32(len(b))})
	m.bodies = append(m.bodies, b)
}

func (m *maker) build(t testing.TB) []byte {
	t.Helper()
	h := Head{Type: Segment, Journal: journal, Token: Token{Epoch: 1, Term: 2, Writer: writer}, Position: 5,
		DurablePosition: 3,
		FirstIndex:      100, LastIndex: 99 + uint64(len(m.entries)), Time: 1234}
	b, err := Build(h, m.entries, nil, func(i int, dst []byte) error { copy(dst, m.bodies[i]); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func small(t testing.TB) ([]byte, *maker) {
	m := newMaker()
	m.frame(streamB, 100)
	m.command("g")
	m.frame(streamA, 50)
	m.frame(streamB, 10)
	return m.build(t), m
}

// said is all that an object says.
type said struct {
	Index   Index
	Content []string
}

func read(obj []byte) (s said, err error) {
	x, err := Walk(obj, func(i int, c Checked) {
		switch {
		case c.Err != nil:
		case c.Frame != nil:
			plain, err := c.Frame.Plain(nil)
			s.Content = append(s.Content, fmt.Sprintf("%d %+v %v %x %v", i, c.Frame.Header, c.Frame.Records,
				plain, err))
		case c.Fold != nil:
			s.fold(i, c.Fold)
		default:
			s.Content = append(s.Content, fmt.Sprintf("%d %v %s", i, c.Command, c.JSON))
		}
	})
	if x != nil {
		s.Index = *x
	}
	return s, err
}

func TestRoundTrip(t *testing.T) {
	obj, m := small(t)
	s, err := read(obj)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m.entries, s.Index.Entries); diff != "" {
		t.Errorf("entries: %s", diff)
	}
	want := Head{Version: TablesVersion, Type: Segment, Journal: journal, Token: Token{1, 2, writer}, Position: 5,
		DurablePosition: 3, FirstIndex: 100, LastIndex: 103, Time: 1234}
	if diff := cmp.Diff(want, s.Index.Head); diff != "" {
		t.Errorf("head: %s", diff)
	}
	if len(s.Content) != 4 || s.Index.Bytes != int64(len(obj)) || Size(m.entries)+len(s.Index.TableData) != len(obj) {
		t.Errorf("%d entries, %d of %d bytes", len(s.Content), s.Index.Bytes, len(obj))
	}
	// Grouped: the command, stream A, then both frames of stream B.
	e := s.Index.Entries
	if e[1].Offset != HeadBytes || e[2].Offset >= e[0].Offset || e[3].Offset != e[0].Offset+int64(e[0].Bytes) {
		t.Errorf("entries lie at %d %d %d %d", e[0].Offset, e[1].Offset, e[2].Offset, e[3].Offset)
	}
	for i := range m.bodies {
		if !bytes.Equal(obj[e[i].Offset:][:e[i].Bytes], m.bodies[i]) {
			t.Errorf("entry %d has other bytes", i)
		}
	}
}

// TestTail: a range read of the tail is enough for the index.
func TestTail(t *testing.T) {
	obj, _ := small(t)
	size := int64(len(obj))
	whole, err := Parse(obj)
	if err != nil {
		t.Fatal(err)
	}
	need, err := TailBytes(obj[size-TrailerBytes:], size)
	if err != nil {
		t.Fatal(err)
	}
	for n := int64(0); n <= size; n++ {
		x, err := ParseTail(obj[size-n:], size)
		if n < need {
			if !fail.Is(err, fail.Damaged) {
				t.Fatalf("tail of %d bytes: %v", n, err)
			}
		} else if diff := cmp.Diff(whole, x); err != nil || diff != "" {
			t.Fatalf("tail of %d bytes: %v %s", n, err, diff)
		}
	}
}

// TestFlips damages every bit of every byte: an error that says where, never
// other content.
func TestFlips(t *testing.T) {
	obj, m := small(t)
	fence := Document(Head{Type: Fence, Journal: journal, Token: Token{1, 2, writer}, Position: 9, FirstIndex: 104},
		state.KindFence,
		state.Fence{NextIndex: 104, Streams: m.at})
	for name, orig := range map[string][]byte{"segment": obj, "fence": fence} {
		if _, err := Parse(orig); err != nil {
			t.Fatal(err)
		}
		for off := range orig {
			for bit := range 8 {
				b := bytes.Clone(orig)
				b[off] ^= 1 << bit
				if _, err := read(b); !fail.Is(err, fail.Damaged) || !strings.Contains(err.Error(), "at byte") {
					t.Fatalf("%s: byte %d bit %d: %v", name, off, bit, err)
				}
			}
		}
	}
}

// TestTailFlips: readers that see only tail and entries accept a flip nowhere
// but in the head at the object's start, which they never read.
func TestTailFlips(t *testing.T) {
	orig, _ := small(t)
	want, err := read(orig)
	if err != nil {
		t.Fatal(err)
	}
	for off := range orig {
		b := bytes.Clone(orig)
		b[off] ^= 1 << (off % 8)
		x, err := ParseTail(b, int64(len(b)))
		if err != nil {
			continue
		}
		if diff := cmp.Diff(&want.Index, x); diff != "" {
			t.Fatalf("byte %d: another index: %s", off, diff)
		}
		var f change.Frame
		for i, e := range x.Entries {
			if body := b[e.Offset:][:e.Bytes]; e.Kind == FrameEntry {
				err = x.Frame(&f, body, i)
			} else {
				_, _, err = x.Command(body, i)
			}
			if hit := int64(off) >= e.Offset && int64(off) < e.Offset+int64(e.Bytes); hit != (err != nil) {
				t.Fatalf("byte %d, entry %d at %d: %v", off, i, e.Offset, err)
			}
		}
	}
}

func TestCuts(t *testing.T) {
	obj, _ := small(t)
	for n := range obj {
		if _, err := read(obj[:n:n]); !fail.Is(err, fail.Damaged) || !strings.Contains(err.Error(), "at byte") {
			t.Fatalf("%d of %d bytes: %v", n, len(obj), err)
		}
		if _, err := read(obj[n+1:]); !fail.Is(err, fail.Damaged) {
			t.Fatalf("without the first %d bytes: %v", n+1, err)
		}
	}
}

// older makes of an object what an older release would have written.
func older(obj []byte, version byte) []byte {
	le := binary.LittleEndian
	tr, err := parseTrailer(obj[len(obj)-TrailerBytes:], int64(len(obj)))
	if err != nil {
		panic(err)
	}
	b := bytes.Clone(obj[:len(obj)-TrailerBytes-int(tr.tables)])
	if version < FoldsVersion {
		for i := range int(tr.entries) {
			e := b[len(b)-(int(tr.entries)-i)*EntryBytes:]
			clear(e[20:24])
			clear(e[72:80])
		}
	}
	b[4], b[tr.footerOff+4] = version, version
	b = append(b, obj[len(obj)-TrailerBytes:]...)
	le.PutUint32(b[len(b)-TrailerBytes+20:], 0)
	seal(b, int(tr.footerOff))
	return b
}

// TestOlder: objects without tables are read, and can be given some.
func TestOlder(t *testing.T) {
	obj, _ := small(t)
	want, err := read(obj)
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []byte{Version, FoldsVersion} {
		b := older(obj, version)
		got, err := read(b)
		if err != nil || got.Index.HasTables() {
			t.Fatalf("version %d: %v", version, err)
		}
		if diff := cmp.Diff(want.Content, got.Content); diff != "" {
			t.Error(diff)
		}
		if err := got.Index.AddTables(b); err != nil || !bytes.Equal(got.Index.TableData, want.Index.TableData) {
			t.Errorf("version %d: %v", version, err)
		}
	}
}

// TestTables: the footer tells where every byte of data lies.
func TestTables(t *testing.T) {
	for name, obj := range map[string][]byte{"frames": first(small(t)), "fold": first(folded(t))} {
		x, err := Walk(obj, func(int, Checked) {})
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		err = x.EachTable(func(i int, tab *Table) error {
			seen++
			var plain []byte
			for _, b := range tab.Blocks {
				p := make([]byte, b.PlainBytes)
				if err := change.Decompress(tab.Codec, p, obj[b.Offset:][:b.StoredBytes]); err != nil ||
					crc32.Checksum(p, castagnoli) != b.CRC {
					t.Errorf("%s: block at %d: %v", name, b.Offset, err)
				}
				plain = append(plain, p...)
			}
			for _, r := range tab.Records {
				if r.DataOffset()+int(r.DataLen) > len(plain) {
					t.Errorf("%s: record at %d", name, r.Off)
				}
			}
			return nil
		})
		if err != nil || seen != 3 {
			t.Errorf("%s: %d tables, %v", name, seen, err)
		}
		x.TableData = x.TableData[:len(x.TableData)-1]
		if err := x.EachTable(func(int, *Table) error { return nil }); !fail.Is(err, fail.Damaged) {
			t.Errorf("%s: cut short: %v", name, err)
		}
	}
}

func first[A, B any](a A, _ B) A { return a }

// seal makes the checksums of head, footer and trailer right again.
func seal(b []byte, footer int) {
	le := binary.LittleEndian
	end := len(b) - TrailerBytes
	for _, at := range []int{0, footer} {
		le.PutUint32(b[at+124:], crc32.Checksum(b[at:at+124], castagnoli))
	}
	le.PutUint32(b[end+16:], crc32.Checksum(b[footer+HeadBytes:end], castagnoli))
	le.PutUint32(b[end+24:], crc32.Checksum(b[end:end+24], castagnoli))
}

// TestRefuses: checksums are right, what they cover is not.
func TestRefuses(t *testing.T) {
	orig, _ := small(t)
	orig = older(orig, Version)
	le := binary.LittleEndian
	footer := len(orig) - TrailerBytes - 4*EntryBytes - 2*StreamBytes - HeadBytes
	streams := footer + HeadBytes
	entry := func(i int) int { return streams + 2*StreamBytes + i*EntryBytes }
	trailer := len(orig) - TrailerBytes
	both := func(do func(b []byte)) func(b []byte) {
		return func(b []byte) { do(b); do(b[footer:]) }
	}
	for _, tt := range []struct {
		name string
		do   func(b []byte)
		kind fail.Kind
		text string
	}{
		{"version", both(func(b []byte) { b[4] = 4 }), fail.Unsupported, "container version 4"},
		{"type", both(func(b []byte) { b[6] = 9 }), fail.Unsupported, "object type 9"},
		{"cipher", both(func(b []byte) { b[7], b[88] = 2, 3 }), fail.Unsupported, "cipher 2, key 3"},
		{"heads differ", func(b []byte) { b[48] = 77 }, fail.Damaged, "at byte 0"},
		{"index range", both(func(b []byte) { le.PutUint64(b[72:], 1<<40) }), fail.Damaged, "journal index"},
		{"entries and index", both(func(b []byte) { le.PutUint64(b[72:], 104) }), fail.Damaged,
			"4 entries for journal index 100 to 104"},
		{"entry kind", func(b []byte) { b[entry(0)] = 9 }, fail.Damaged, "kind 9"},
		{"fold of version 1", func(b []byte) { b[entry(0)] = 3 }, fail.Damaged, "a fold in an object of version 1"},
		{"version 3 without indexes", both(func(b []byte) { b[4] = 3 }), fail.Damaged, "stands for 0 journal indexes"},
		{"version 2 without indexes", both(func(b []byte) { b[4] = 2 }), fail.Damaged, "stands for 0 journal indexes"},
		{"entry stream", func(b []byte) { b[entry(0)+4] = 2 }, fail.Damaged, "stream 2"},
		{"entry before", func(b []byte) { le.PutUint64(b[entry(0)+8:], 5) }, fail.Damaged, "outside"},
		{"entry negative", func(b []byte) { b[entry(0)+15] = 0x80 }, fail.Damaged, "outside"},
		{"entry beyond", func(b []byte) { le.PutUint32(b[entry(3)+16:], 1<<31) }, fail.Damaged, "outside"},
		{"entry too short", func(b []byte) { b[entry(3)+16]-- }, fail.Damaged, "entries end"},
		{"entries swapped", func(b []byte) {
			swap(b[entry(0)+8:][:8], b[entry(3)+8:][:8])
		}, fail.Damaged, "lies at byte"},
		{"streams swapped", func(b []byte) {
			swap(b[streams:][:16], b[streams+16:][:16])
		}, fail.Damaged, "not in order"},
		{"stream twice", func(b []byte) { copy(b[streams:][:16], b[streams+16:][:16]) }, fail.Damaged, "not in order"},
		{"hash", func(b []byte) { b[entry(2)+60]++ }, fail.Damaged, "not the one that the footer names"},
		{"LSN", func(b []byte) { b[entry(2)+24]++ }, fail.Damaged, "not the one that the footer names"},
		{"command kind", func(b []byte) { b[entry(1)+4]++ }, fail.Damaged, "not the one that the footer names"},
		{"footer offset", func(b []byte) { b[trailer]++ }, fail.Damaged, "does not fit"},
		{"footer offset huge", func(b []byte) { b[trailer+7] = 0x7f }, fail.Damaged, "does not fit"},
		{"entries", func(b []byte) { le.PutUint32(b[trailer+8:], MaxEntries+1) }, fail.Damaged, "does not fit"},
		{"streams", func(b []byte) { le.PutUint32(b[trailer+12:], 5) }, fail.Damaged, "does not fit"},
	} {
		b := bytes.Clone(orig)
		tt.do(b)
		seal(b, footer)
		_, err := read(b)
		if !fail.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func swap(a, b []byte) {
	c := bytes.Clone(a)
	copy(a, b)
	copy(b, c)
}

func TestLimits(t *testing.T) {
	if _, err := Build(Head{Type: Segment}, []Entry{{Kind: CommandEntry, Bytes: MaxBodyBytes}}, nil, nil); !fail.Is(err,
		fail.Internal) {
		t.Errorf("build beyond the limit: %v", err)
	}
	obj, _ := small(t)
	if _, err := ParseTail(obj, MaxObjectBytes+1); !fail.Is(err, fail.Damaged) {
		t.Errorf("parse beyond the limit: %v", err)
	}
	if _, err := TailBytes(obj[len(obj)-TrailerBytes:], int64(len(obj))+1); !fail.Is(err, fail.Damaged) {
		t.Errorf("another size: %v", err)
	}
}

func TestMove(t *testing.T) {
	obj, _ := small(t)
	want, err := read(obj)
	if err != nil {
		t.Fatal(err)
	}
	if err := Move(obj, 77); err != nil {
		t.Fatal(err)
	}
	got, err := read(obj)
	want.Index.Position = 77
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	obj[3]++
	if err := Move(obj, 78); !fail.Is(err, fail.Damaged) {
		t.Errorf("move of damage: %v", err)
	}
}

func TestDocument(t *testing.T) {
	want := state.Fence{NextIndex: 3,
		Streams: map[change.StreamID]change.Point{streamA: {LSN: 4, Hash: change.Hash{5}}}, Reason: "test"}
	obj := Document(Head{Type: Fence, Journal: journal, Token: Token{2, 1, writer}, Position: 4, FirstIndex: 3},
		state.KindFence, want)
	x, err := Parse(obj)
	if err != nil || len(x.Entries) != 1 || x.FirstIndex != 3 || x.LastIndex != 2 || x.Type != Fence {
		t.Fatalf("%+v, %v", x, err)
	}
	var got state.Fence
	e := x.Entries[0]
	if err := state.Decode(obj[e.Offset:][:e.Bytes], state.KindFence, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTokenOrder(t *testing.T) {
	for _, tt := range []struct {
		a, b Token
		want int
	}{
		{Token{Epoch: 1, Term: 9}, Token{Epoch: 2, Term: 1}, -1},
		{Token{Epoch: 2, Term: 1}, Token{Epoch: 2, Term: 2}, -1},
		{Token{2, 2, streamA}, Token{2, 2, streamB}, 0},
	} {
		if got := tt.a.Compare(tt.b); got != tt.want || tt.b.Compare(tt.a) != -tt.want {
			t.Errorf("%v and %v: %d", tt.a, tt.b, got)
		}
	}
}

// FuzzParseObject: with checksums made right, anything parses cleanly or is
// refused, and nothing panics.
func FuzzParseObject(f *testing.F) {
	obj, m := small(f)
	f.Add(obj, true)
	f.Add(Document(Head{Type: Fence, FirstIndex: 7}, state.KindFence, state.Fence{NextIndex: 7, Streams: m.at}), true)
	f.Add(Document(Head{Type: Identity, FirstIndex: 1}, state.KindIdentity, state.Identity{Journal: journal}), false)
	f.Add(newMaker().build(f), true)
	withFold, _ := folded(f)
	f.Add(withFold, true)
	f.Fuzz(func(t *testing.T, b []byte, fix bool) {
		if fix && len(b) >= 2*HeadBytes+TrailerBytes {
			b = bytes.Clone(b)
			if at := binary.LittleEndian.Uint64(b[len(b)-TrailerBytes:]); at <= uint64(len(b)-TrailerBytes-HeadBytes) {
				seal(b, int(at))
			}
		}
		s, err := read(b)
		if err != nil {
			if !fail.Is(err, fail.Damaged) && !fail.Is(err, fail.Unsupported) {
				t.Fatal(err)
			}
			return
		}
		if len(s.Content) < len(s.Index.Entries) {
			t.Fatalf("%d of %d entries", len(s.Content), len(s.Index.Entries))
		}
		again, err := Build(s.Index.Head, s.Index.Entries, nil, func(i int, dst []byte) error {
			copy(dst, b[s.Index.Entries[i].Offset:])
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := read(again); err != nil || cmp.Diff(s.Content, got.Content) != "" {
			t.Errorf("built again: %v", err)
		}
	})
}
