package segment

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
)

// Index is what an object's tail tells: head and footer.
type Index struct {
	Head
	Entries []Entry
	Bytes   int64 // of the whole object
	// TableData is what EachTable reads; empty in objects of older versions.
	TableData []byte
}

type trailer struct {
	footerOff        int64
	entries, streams uint32
	sum              uint32 // CRC-32C of streams, entries and tables
	tables           uint32 // bytes
}

// putTrailer writes
//
//	0 8 footer offset   8 4 entries   12 4 streams   16 4 CRC-32C of what lies between
//	20 4 bytes of tables   24 4 CRC-32C of bytes 0..23   28 4 magic "PLXE"
func putTrailer(b []byte, t trailer) {
	b = b[:TrailerBytes]
	clear(b)
	le := binary.LittleEndian
	le.PutUint64(b, uint64(t.footerOff))
	le.PutUint32(b[8:], t.entries)
	le.PutUint32(b[12:], t.streams)
	le.PutUint32(b[16:], t.sum)
	le.PutUint32(b[20:], t.tables)
	le.PutUint32(b[24:], crc32.Checksum(b[:24], castagnoli))
	copy(b[28:], trailerMagic)
}

func parseTrailer(b []byte, size int64) (trailer, error) {
	var t trailer
	at := size - TrailerBytes
	if len(b) != TrailerBytes || string(b[28:]) != trailerMagic {
		return t, damaged(max(0, at), "no trailer: the object is cut short or not of Pollux")
	}
	le := binary.LittleEndian
	if crc32.Checksum(b[:24], castagnoli) != le.Uint32(b[24:]) {
		return t, damaged(at+24, "trailer checksum does not match")
	}
	if size > MaxObjectBytes {
		return t, damaged(at, "object of %d bytes, %d at most", size, int64(MaxObjectBytes))
	}
	t = trailer{int64(le.Uint64(b)), le.Uint32(b[8:]), le.Uint32(b[12:]), le.Uint32(b[16:]), le.Uint32(b[20:])}
	if t.entries > MaxEntries || t.streams > t.entries ||
		t.footerOff < HeadBytes || t.footerOff+HeadBytes+int64(t.streams)*StreamBytes+int64(t.entries)*EntryBytes+
		int64(t.tables) != at {
		return t, damaged(at, "trailer of %d entries and %d streams does not fit the object's %d bytes", t.entries,
			t.streams, size)
	}
	return t, nil
}

// TailBytes returns how many bytes at the end of an object ParseTail needs,
// judged from a tail that holds at least the trailer.
func TailBytes(tail []byte, size int64) (int64, error) {
	if len(tail) < TrailerBytes {
		return 0, damaged(0, "object of %d bytes", size)
	}
	t, err := parseTrailer(tail[len(tail)-TrailerBytes:], size)
	if err != nil {
		return 0, err
	}
	return size - t.footerOff, nil
}

// ParseTail decodes and checks the footer of an object of size bytes from its
// last bytes, at least TailBytes of them.
func ParseTail(tail []byte, size int64) (*Index, error) {
	need, err := TailBytes(tail, size)
	if err != nil {
		return nil, err
	}
	if int64(len(tail)) < need {
		return nil, damaged(size-need, "tail of %d bytes, %d needed", len(tail), need)
	}
	b := tail[int64(len(tail))-need:]
	off := size - need
	t, err := parseTrailer(b[len(b)-TrailerBytes:], size)
	if err != nil {
		return nil, err
	}
	x := &Index{Bytes: size}
	if x.Head, err = ParseHead(b, off); err != nil {
		return nil, err
	}
	tables := b[HeadBytes : len(b)-TrailerBytes]
	if crc32.Checksum(tables, castagnoli) != t.sum {
		return nil, damaged(off+HeadBytes, "footer checksum does not match")
	}
	if x.Version == Version && x.Type == Segment && x.LastIndex-x.FirstIndex+1 != uint64(t.entries) {
		return nil, damaged(off, "%d entries for journal index %d to %d", t.entries, x.FirstIndex, x.LastIndex)
	}
	streams := make([]change.StreamID, t.streams)
	for i := range streams {
		copy(streams[i][:], tables[i*StreamBytes:])
	}
	x.Entries = make([]Entry, t.entries)
	tables = tables[len(streams)*StreamBytes:]
	if split := len(tables) - int(t.tables); t.tables > 0 {
		if x.Version < TablesVersion {
			return nil, damaged(off, "tables in an object of version %d", x.Version)
		}
		x.TableData, tables = slices.Clone(tables[split:]), tables[:split]
	}
	for i := range x.Entries {
		if err := x.Entries[i].parse(tables[i*EntryBytes:][:EntryBytes], streams, off); err != nil {
			return nil, err
		}
	}
	if err := x.number(tables, off); err != nil {
		return nil, err
	}
	return x, x.checkLayout(streams, off)
}

// number gives the entries their journal indexes, which together cover the
// object's.
func (x *Index) number(table []byte, footerOff int64) error {
	le, covered, last := binary.LittleEndian, uint64(0), x.FirstIndex-1
	for i := range x.Entries {
		e := &x.Entries[i]
		e.Covers = 1
		switch {
		case x.Type != Segment:
			continue
		case x.Version == Version:
			e.Index = x.FirstIndex + uint64(i)
			if e.Kind == FoldEntry {
				return damaged(footerOff, "a fold in an object of version %d", x.Version)
			}
			continue
		}
		e.Covers, e.Index = le.Uint32(table[i*EntryBytes+20:]), le.Uint64(table[i*EntryBytes+72:])
		covered += uint64(e.Covers)
		if e.Index <= last || e.Index > x.LastIndex || e.Covers == 0 || (e.Covers > 1 && e.Kind != FoldEntry) ||
			e.Index-x.FirstIndex+1 < covered {
			return damaged(footerOff, "entry %d stands for %d journal indexes up to %d, after %d", i, e.Covers,
				e.Index, last)
		}
		last = e.Index
	}
	if x.Type == Segment && x.Version != Version && covered != x.LastIndex-x.FirstIndex+1 {
		return damaged(footerOff, "entries stand for %d journal indexes of %d to %d", covered, x.FirstIndex,
			x.LastIndex)
	}
	return nil
}

// checkLayout sees to it that the entries fill the object from head to footer
// as Build lays them out: commands, then stream by stream, each in journal
// order. So every byte belongs to one entry, and is covered by its checksums.
func (x *Index) checkLayout(streams []change.StreamID, footerOff int64) error {
	place := make(map[change.StreamID]int, len(streams)) // where the stream stands, 0: commands
	for i, id := range streams {
		if i > 0 && slices.Compare(streams[i-1][:], id[:]) >= 0 {
			return damaged(footerOff+HeadBytes, "the footer's streams are not in order")
		}
		place[id] = i + 1
	}
	slot := func(e *Entry) int {
		if e.Kind == CommandEntry {
			return 0
		}
		return place[e.Stream]
	}
	next := make([]int64, len(streams)+2) // first the lengths, then where each begins
	for i := range x.Entries {
		next[slot(&x.Entries[i])+1] += int64(x.Entries[i].Bytes)
	}
	next[0] = HeadBytes
	for i := 1; i < len(next); i++ {
		next[i] += next[i-1]
	}
	if end := next[len(next)-1]; end != footerOff {
		return damaged(min(end, footerOff), "entries end at byte %d, the footer begins at %d", end, footerOff)
	}
	for i := range x.Entries {
		e := &x.Entries[i]
		at := &next[slot(e)]
		if e.Offset != *at {
			return damaged(footerOff, "entry %d lies at byte %d in place of %d", i, e.Offset, *at)
		}
		*at += int64(e.Bytes)
	}
	return nil
}

func (e *Entry) parse(b []byte, streams []change.StreamID, footerOff int64) error {
	le := binary.LittleEndian
	*e = Entry{Kind: EntryKind(b[0]), Flags: le.Uint16(b[2:]), Offset: int64(le.Uint64(b[8:])),
		Bytes:    le.Uint32(b[16:]),
		FirstLSN: le.Uint64(b[24:]), LastLSN: le.Uint64(b[32:]),
		FirstTime: int64(le.Uint64(b[40:])), LastTime: int64(le.Uint64(b[48:]))}
	copy(e.Hash[:], b[56:72])
	ord := le.Uint32(b[4:])
	switch {
	case e.Offset < HeadBytes || e.Offset+int64(e.Bytes) > footerOff:
		return damaged(footerOff, "entry at %d with %d bytes lies outside the object's body", e.Offset, e.Bytes)
	case e.Kind == CommandEntry:
		e.Command = state.Kind(ord)
	case e.OfStream() && (e.FirstLSN == 0 || e.LastLSN < e.FirstLSN):
		return damaged(footerOff, "entry of LSN %d to %d", e.FirstLSN, e.LastLSN)
	case e.OfStream() && int(ord) < len(streams):
		e.Stream = streams[ord]
	default:
		return damaged(footerOff, "entry of kind %d, stream %d", b[0], ord)
	}
	return nil
}

// Parse decodes and checks a whole object but for the entries' own checksums:
// Frame and Command check what they return, Walk checks all.
func Parse(obj []byte) (*Index, error) {
	x, err := ParseTail(obj, int64(len(obj)))
	if err != nil {
		return nil, err
	}
	if _, err := ParseHead(obj, 0); err != nil {
		return nil, err
	}
	t, err := parseTrailer(obj[len(obj)-TrailerBytes:], x.Bytes)
	if err != nil {
		return nil, err
	}
	if !sameHead(obj, obj[t.footerOff:]) {
		return nil, damaged(0, "head and footer are of different objects")
	}
	return x, nil
}

// Frame returns entry i of obj as a checked frame.
func (x *Index) Frame(f *change.Frame, body []byte, i int) error {
	e := &x.Entries[i]
	if err := f.Reset(body); err != nil {
		return inEntry(e, err)
	}
	if f.Hash != e.Hash || f.Stream != e.Stream || f.FirstLSN != e.FirstLSN || f.LastLSN != e.LastLSN {
		return damaged(e.Offset, "frame is not the one that the footer names")
	}
	return nil
}

// Fold returns entry i, whose bytes are body, as a checked fold.
func (x *Index) Fold(f *Fold, body []byte, i int) error {
	e := &x.Entries[i]
	if err := f.Reset(body); err != nil {
		return inEntry(e, err)
	}
	if f.Last != e.Hash || f.Stream != e.Stream || f.FirstLSN != e.FirstLSN || f.LastLSN != e.LastLSN ||
		f.Frames != e.Covers {
		return damaged(e.Offset, "fold is not the one that the footer names")
	}
	return nil
}

// Command returns entry i, whose bytes are body, as a command.
func (x *Index) Command(body []byte, i int) (state.Kind, []byte, error) {
	e := &x.Entries[i]
	kind, js, err := state.Open(body)
	if err != nil {
		return 0, nil, inEntry(e, err)
	}
	if kind != e.Command {
		return 0, nil, damaged(e.Offset, "command is not the one that the footer names")
	}
	return kind, js, nil
}

func inEntry(e *Entry, err error) error {
	return fail.At("decode entry", fmt.Sprintf("at byte %d", e.Offset), err)
}
