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
)

// Entry is one line of the footer: one journal index. Offsets are from the
// object's start.
type Entry struct {
	Kind                EntryKind
	Command             state.Kind      // of a command
	Stream              change.StreamID // of a frame
	Offset              int64
	Bytes               uint32
	FirstLSN, LastLSN   uint64
	FirstTime, LastTime int64
	Hash                change.Hash // of a frame
	Flags               uint16      // of a frame
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
	entryBytes   = 80
	streamBytes  = 16

	// MaxEntries and MaxObjectBytes bound one object.
	MaxEntries     = 1 << 18
	MaxObjectBytes = 64 << 20
	// MaxInFlight bounds how far beyond the durable position a writer creates
	// objects. Readers and successors rely on it.
	MaxInFlight = 16
)

// Size returns the encoded size of an object with these entries.
func Size(entries []Entry) int {
	n := 2*HeadBytes + TrailerBytes + len(entries)*entryBytes
	seen := map[change.StreamID]bool{}
	for i := range entries {
		n += int(entries[i].Bytes)
		if entries[i].Kind == FrameEntry && !seen[entries[i].Stream] {
			seen[entries[i].Stream] = true
			n += streamBytes
		}
	}
	return n
}

// Build encodes an object in buf (which grows as needed). entries are in journal
// order with Bytes set; Build sets their offsets. fetch fills dst, which is
// exactly as long as the entry. What readers would refuse as beyond the limits is
// not built.
func Build(h Head, entries []Entry, buf []byte, fetch func(i int, dst []byte) error) ([]byte, error) {
	size := Size(entries)
	if size > MaxObjectBytes || len(entries) > MaxEntries {
		return nil, fail.New(fail.Internal, "build", "object", fmt.Sprintf("%d bytes and %d entries exceed its limits", size, len(entries)))
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
		if x.Kind == CommandEntry || y.Kind == CommandEntry {
			return cmp.Compare(y.Kind, x.Kind)
		}
		return slices.Compare(x.Stream[:], y.Stream[:])
	})

	at := HeadBytes
	var streams []change.StreamID
	for _, i := range order {
		e := &entries[i]
		e.Offset = int64(at)
		if err := fetch(i, buf[at:at+int(e.Bytes)]); err != nil {
			return nil, err
		}
		at += int(e.Bytes)
		if e.Kind == FrameEntry && (len(streams) == 0 || streams[len(streams)-1] != e.Stream) {
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
		ord, _ := slices.BinarySearchFunc(streams, entries[i].Stream, func(a, b change.StreamID) int { return slices.Compare(a[:], b[:]) })
		entries[i].put(buf[at:], uint32(ord))
		at += entryBytes
	}
	putTrailer(buf[at:], trailer{footerOff: int64(footer), entries: uint32(len(entries)), streams: uint32(len(streams)),
		sum: crc32.Checksum(buf[footer+HeadBytes:at], castagnoli)})
	return buf, nil
}

// put writes an entry:
//
//	 0 1 kind   1 1 reserved   2 2 flags   4 4 stream's place, or command kind
//	 8 8 offset   16 4 bytes   20 4 reserved   24 8 first LSN   32 8 last LSN
//	40 8 first time   48 8 last time   56 16 hash   72 8 reserved
func (e *Entry) put(b []byte, ord uint32) {
	b = b[:entryBytes]
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
}

// Document encodes an object that holds one document: an identity or a fence.
func Document(h Head, kind state.Kind, v any) []byte {
	doc := state.Encode(kind, v)
	e := []Entry{{Kind: CommandEntry, Command: kind, Bytes: uint32(len(doc))}}
	h.LastIndex = h.FirstIndex - 1 // it takes no index
	b, _ := Build(h, e, nil, func(_ int, dst []byte) error { copy(dst, doc); return nil })
	return b
}
