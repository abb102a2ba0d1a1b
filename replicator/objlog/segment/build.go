package segment

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
)

// EntryKind says what an entry is.
type EntryKind uint8

const (
	FrameEntry   EntryKind = 1 // a frame, as package change encodes it
	CommandEntry EntryKind = 2 // a command or document, as package state encodes it
	FoldEntry    EntryKind = 3 // a run of a stream's frames, folded
)

// Entry is one line of the footer. Offsets are from the object's start.
type Entry struct {
	Kind EntryKind
	// Index is its journal index, of a fold that of its last frame; 0 in identity
	// and fence. Covers is how many it stands for: of a fold the frames, else 1.
	Index               uint64
	Covers              uint32
	Command             state.Kind      // of a command
	Stream              change.StreamID // of a frame or fold, as the rest
	Offset              int64
	Bytes               uint32
	FirstLSN, LastLSN   uint64
	FirstTime, LastTime int64
	Hash                change.Hash // of the (last) frame
	Flags               uint16      // of a frame
}

// OfStream reports whether it is a frame or a fold.
func (e *Entry) OfStream() bool { return e.Kind == FrameEntry || e.Kind == FoldEntry }

// FoldEntryOf describes a fold by its header.
func FoldEntryOf(h *FoldHeader) Entry {
	return Entry{Kind: FoldEntry, Covers: h.Frames, Stream: h.Stream, Bytes: uint32(h.Bytes()),
		FirstLSN: h.FirstLSN, LastLSN: h.LastLSN, FirstTime: h.FirstTime, LastTime: h.LastTime, Hash: h.Last}
}

// FrameEntryOf describes a frame by its header.
func FrameEntryOf(h *change.Header, hash change.Hash) Entry {
	return Entry{Kind: FrameEntry, Stream: h.Stream, Bytes: uint32(h.FrameBytes()),
		FirstLSN: h.FirstLSN, LastLSN: h.LastLSN, FirstTime: h.FirstTime, LastTime: h.LastTime,
		Hash: hash, Flags: h.Flags}
}

const (
	trailerMagic = "PLXE"
	// TrailerBytes end every object.
	TrailerBytes = 32
	// EntryBytes and StreamBytes are what an entry and a stream take of the footer.
	EntryBytes  = 80
	StreamBytes = 16

	// MaxEntries, MaxBodyBytes and MaxObjectBytes bound one object. The body is all but
	// the tables that the footer repeats.
	MaxEntries     = 1 << 18
	MaxBodyBytes   = 64 << 20
	MaxObjectBytes = 2*MaxBodyBytes + 8
	// MaxInFlight bounds how far beyond the durable position a writer creates
	// objects. Readers and successors rely on it.
	MaxInFlight = 16
)

// Size returns the encoded size of an object with these entries, without the tables.
func Size(entries []Entry) int {
	n := 2*HeadBytes + TrailerBytes + len(entries)*EntryBytes
	seen := map[change.StreamID]bool{}
	for i := range entries {
		n += int(entries[i].Bytes)
		if entries[i].OfStream() && !seen[entries[i].Stream] {
			seen[entries[i].Stream] = true
			n += StreamBytes
		}
	}
	return n
}

// Build encodes an object in buf (which grows as needed). entries are in journal
// order with Bytes set; Build sets their offsets, and where there are no folds
// their journal indexes. fetch fills dst, which is exactly as long as the entry. What readers would refuse as
// beyond the limits is not built.
func Build(h Head, entries []Entry, buf []byte, fetch func(i int, dst []byte) error) ([]byte, error) {
	size := Size(entries)
	if size > MaxBodyBytes || len(entries) > MaxEntries {
		return nil, fail.New(fail.Internal, "build", "object",
			fmt.Sprintf("%d bytes and %d entries exceed its limits", size, len(entries)))
	}
	if cap(buf) < size {
		buf = make([]byte, size)
	}
	buf = buf[:size]
	order := make([]int, len(entries))
	for i := range order {
		order[i] = i
	}
	// Commands first, then stream by stream; within one, journal order stays.
	slices.SortStableFunc(order, func(a, b int) int {
		x, y := &entries[a], &entries[b]
		if x.OfStream() && y.OfStream() {
			return slices.Compare(x.Stream[:], y.Stream[:])
		}
		return cmp.Compare(btoi(x.OfStream()), btoi(y.OfStream()))
	})
	folds := slices.ContainsFunc(entries, func(e Entry) bool { return e.Kind == FoldEntry })
	h.Version = Version
	if slices.ContainsFunc(entries, func(e Entry) bool { return e.OfStream() }) {
		h.Version = TablesVersion
	}

	at := HeadBytes
	var streams []change.StreamID
	for _, i := range order {
		e := &entries[i]
		e.Offset = int64(at)
		if err := fetch(i, buf[at:at+int(e.Bytes)]); err != nil {
			return nil, err
		}
		at += int(e.Bytes)
		if e.OfStream() && (len(streams) == 0 || streams[len(streams)-1] != e.Stream) {
			streams = append(streams, e.Stream)
		}
	}
	footer := at
	h.put(buf)
	h.put(buf[footer:])
	at = footer + HeadBytes
	for _, id := range streams {
		at += copy(buf[at:], id[:])
	}
	for i := range entries {
		if !folds {
			entries[i].Covers, entries[i].Index = 1, 0
			if h.Type == Segment {
				entries[i].Index = h.FirstIndex + uint64(i)
			}
		}
		ord, _ := slices.BinarySearchFunc(streams, entries[i].Stream, func(a, b change.StreamID) int {
			return slices.Compare(a[:], b[:])
		})
		entries[i].put(buf[at:], h.Version, uint32(ord))
		at += EntryBytes
	}
	buf, err := encodeTables(buf[:at], buf, entries)
	if err != nil {
		return nil, err
	}
	tables := len(buf) - at
	at = len(buf)
	buf = slices.Grow(buf, TrailerBytes)[:at+TrailerBytes]
	putTrailer(buf[at:], trailer{footerOff: int64(footer), entries: uint32(len(entries)), streams: uint32(len(streams)),
		tables: uint32(tables),
		sum:    crc32.Checksum(buf[footer+HeadBytes:at], castagnoli)})
	return buf, nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// put writes an entry:
//
//	 0 1 kind   1 1 reserved   2 2 flags   4 4 stream's place, or command kind
//	 8 8 offset   16 4 bytes   20 4 covers   24 8 first LSN   32 8 last LSN
//	40 8 first time   48 8 last time   56 16 hash   72 8 journal index
//
// Version 1 has neither covers nor journal index.
func (e *Entry) put(b []byte, version uint16, ord uint32) {
	b = b[:EntryBytes]
	clear(b)
	le := binary.LittleEndian
	b[0] = byte(e.Kind)
	le.PutUint16(b[2:], e.Flags)
	if e.Kind == CommandEntry {
		ord = uint32(e.Command)
	}
	le.PutUint32(b[4:], ord)
	le.PutUint64(b[8:], uint64(e.Offset))
	le.PutUint32(b[16:], e.Bytes)
	le.PutUint64(b[24:], e.FirstLSN)
	le.PutUint64(b[32:], e.LastLSN)
	le.PutUint64(b[40:], uint64(e.FirstTime))
	le.PutUint64(b[48:], uint64(e.LastTime))
	copy(b[56:72], e.Hash[:])
	if version >= FoldsVersion {
		le.PutUint32(b[20:], e.Covers)
		le.PutUint64(b[72:], e.Index)
	}
}

// Document encodes an object that holds one document: an identity or a fence.
func Document(h Head, kind state.Kind, v any) []byte {
	doc := state.Encode(kind, v)
	e := []Entry{{Kind: CommandEntry, Command: kind, Bytes: uint32(len(doc))}}
	h.LastIndex = h.FirstIndex - 1 // it takes no index
	b, _ := Build(h, e, nil, func(_ int, dst []byte) error { copy(dst, doc); return nil })
	return b
}
