package journal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/wal"
)

// Entry is one accepted entry on its way to the targets.
type Entry struct {
	segment.Entry
	ref    uint64 // in the agent's WAL
	logged uint64 // in Raft's log, from offset of the entry's data on
	offset int
	body   []byte // a command, or a whole frame that is at hand
}

// entryReader reads what the journal has accepted, wherever the bytes lie.
type entryReader struct {
	fsm    *fsm
	db     *pebble.DB
	logged loggedFrames
	source FrameSource
}

// SetSource says where frames that are held by reference are read.
func (r *entryReader) SetSource(s FrameSource) { r.source = s }

// References reports whether frames are still taken by reference.
func (r *entryReader) References() bool { return r.fsm.figures().copied == 0 }

// LastIndex is the newest journal index.
func (r *entryReader) LastIndex() uint64 { return r.fsm.lastIndex() }

// Floor is the first entry that is still held.
func (r *entryReader) Floor() uint64 { return r.fsm.firstIndex() }

// recent keeps the newest entries in memory, where an uploader that keeps up
// finds them.
type recent struct {
	first   uint64
	entries []indexed
	bytes   int
}

// indexed is an index value, and the frame where the value does not have it.
type indexed struct{ value, frame []byte }

const (
	recentEntries = 4096
	recentBytes   = 16 << 20
)

// add appends an entry; the older half goes when they are too many or too large.
func (r *recent) add(index uint64, value, frame []byte) {
	n := len(value) + len(frame)
	if len(r.entries) == recentEntries || r.bytes+n > recentBytes {
		keep := r.entries[(len(r.entries)+1)/2:]
		r.first += uint64(len(r.entries) - len(keep))
		r.entries, r.bytes = append(r.entries[:0:0], keep...), 0
		for _, e := range keep {
			r.bytes += len(e.value) + len(e.frame)
		}
	}
	if len(r.entries) == 0 {
		r.first = index
	}
	r.entries, r.bytes = append(r.entries, indexed{value, frame}), r.bytes+n
}

// from returns the entries from index on, if they are all here. What it returns
// is never changed.
func (r *recent) from(index uint64) ([]indexed, bool) {
	if len(r.entries) == 0 || index < r.first {
		return nil, false
	}
	return r.entries[min(index-r.first, uint64(len(r.entries))):len(r.entries):len(r.entries)], true
}

// Entries calls fn with the entries from index first on, in order, until there
// are no more or fn returns false.
func (r *entryReader) Entries(first uint64, fn func(Entry) bool) error {
	got, ok, none := r.fsm.recentFrom(first)
	if none {
		return nil
	}
	if !ok {
		return r.storedEntries(first, fn)
	}
	for i, v := range got {
		e, err := parseEntry(first+uint64(i), v.value)
		if err != nil {
			return fail.At("read", fmt.Sprintf("journal entry %d", first+uint64(i)), err)
		}
		if v.frame != nil {
			e.body = v.frame
		}
		if !fn(e) {
			break
		}
	}
	return nil
}

// storedEntries is Entries from Pebble.
func (r *entryReader) storedEntries(first uint64, fn func(Entry) bool) error {
	it, err := r.db.NewIter(&pebble.IterOptions{LowerBound: frameKey(first), UpperBound: prefixEnd(keyFrame)})
	if err != nil {
		return fail.Wrap(fail.Internal, "read", "journal index", err)
	}
	defer it.Close()
	want := first
	for ok := it.First(); ok; ok = it.Next() {
		index := binary.BigEndian.Uint64(it.Key()[1:])
		if index != want {
			return fail.New(fail.Damaged, "read", "journal index", fmt.Sprintf("entry %d is missing", want))
		}
		e, err := parseEntry(index, it.Value())
		if err != nil {
			return fail.At("read", fmt.Sprintf("journal entry %d", index), err)
		}
		if !fn(e) {
			return nil
		}
		want++
	}
	return fail.Wrap(fail.Internal, "read", "journal index", it.Error())
}

// Backlog is the bytes of the frames after index that the journal holds, to about
// a MiB.
func (r *entryReader) Backlog(index uint64) int64 { return r.fsm.backlogAfter(index) }

// Behind tells how far a target that holds the journal up to index lags: the age
// of the oldest frame after it, and the bytes of all of them to about a MiB.
func (r *entryReader) Behind(index uint64) (lag time.Duration, bytes int64) {
	var oldest int64
	_ = r.Entries(index+1, func(e Entry) bool { // for a status: what cannot be read is somebody else's error
		oldest = e.FirstTime
		return oldest == 0
	})
	if oldest == 0 {
		return 0, 0
	}
	return max(0, clock.Now().Sub(time.Unix(0, oldest))), r.fsm.backlogAfter(index)
}

func parseEntry(index uint64, v []byte) (Entry, error) {
	e, err := decodeEntry(v)
	e.Index, e.Covers = index, 1
	return e, err
}

func decodeEntry(v []byte) (e Entry, err error) {
	if len(v) == 0 {
		return e, fail.New(fail.Damaged, "decode", "journal entry", "empty")
	}
	switch v[0] {
	case tagCommand:
		e.body = bytes.Clone(v[1:])
		kind, _, err := state.Open(e.body)
		e.Entry = segment.Entry{Kind: segment.CommandEntry, Command: kind, Bytes: uint32(len(e.body))}
		return e, err
	case tagAppend:
		if len(v) < appendedHead+change.HeaderBytes {
			break
		}
		h, hash, err := change.ParseHeader(v[appendedHead:])
		e.ref = binary.LittleEndian.Uint64(v[1:])
		e.Entry = segment.FrameEntryOf(&h, hash)
		if len(v) > appendedHead+change.HeaderBytes {
			e.body = bytes.Clone(v[appendedHead:])
		}
		return e, err
	case tagLogged:
		if len(v) != loggedHead+change.HeaderBytes {
			break
		}
		h, hash, err := change.ParseHeader(v[loggedHead:])
		e.logged, e.offset = binary.LittleEndian.Uint64(v[1:]), int(binary.LittleEndian.Uint32(v[9:]))
		e.Entry = segment.FrameEntryOf(&h, hash)
		return e, err
	}
	return e, fail.New(fail.Damaged, "decode", "journal entry", fmt.Sprintf("tag %q, %d bytes", v[0], len(v)))
}

// Fetch copies the entry's bytes into dst, which is exactly as long. A frame
// that lies elsewhere is compared with what was accepted.
func (r *entryReader) Fetch(e *Entry, dst []byte) error {
	b := e.body
	var err error
	switch {
	case b != nil:
	case e.logged > 0:
		if b, err = r.logged.read(e.logged, e.offset, int(e.Bytes), dst[:0]); err != nil {
			return fail.At("fetch", fmt.Sprintf("journal entry %d from Raft's log", e.Index), err)
		}
	case r.source == nil:
		return fail.New(fail.Internal, "fetch", fmt.Sprintf("journal entry %d", e.Index), "no source for references")
	default:
		if b, err = r.source(e.ref, dst[:0]); err != nil {
			return fail.At("fetch", fmt.Sprintf("journal entry %d from the agent's WAL", e.Index), err)
		}
	}
	if len(b) != len(dst) {
		return fail.New(fail.Damaged, "fetch", fmt.Sprintf("journal entry %d", e.Index),
			fmt.Sprintf("%d bytes in place of %d", len(b), len(dst)))
	}
	if e.Kind == segment.FrameEntry {
		if _, hash, err := change.ParseHeader(b); err != nil || hash != e.Hash {
			where := "the agent's WAL"
			if e.logged > 0 {
				where = "Raft's log"
			}
			return fail.New(fail.Damaged, "fetch", fmt.Sprintf("journal entry %d", e.Index),
				where+" holds another frame there")
		}
	}
	if &b[0] != &dst[0] {
		copy(dst, b)
	}
	return nil
}

// frame reads an entry's bytes for a snapshot.
func (r *entryReader) frame(e *Entry) ([]byte, error) {
	b := make([]byte, e.Bytes)
	return b, r.Fetch(e, b)
}

// loggedFrames reads frames out of Raft's log. One entry has many frames, which are
// asked for one after another: it keeps the last one.
type loggedFrames struct {
	log   *wal.Log
	mu    sync.Mutex
	index uint64
	buf   []byte
	data  []byte // of the entry at index
}

// read appends n bytes of the entry's data to dst.
func (r *loggedFrames) read(index uint64, offset, n int, dst []byte) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if index != r.index {
		r.index = 0
		b, err := r.log.Read(index, r.buf)
		if err != nil {
			return nil, err
		}
		var l raft.Log
		if err := parseRaftLog(b, &l); err != nil {
			return nil, err
		}
		r.index, r.buf, r.data = index, b, l.Data
	}
	if offset+n > len(r.data) {
		return nil, fail.New(fail.Damaged, "read", fmt.Sprintf("Raft entry %d", index),
			fmt.Sprintf("%d bytes at %d of %d", n, offset, len(r.data)))
	}
	return append(dst, r.data[offset:offset+n]...), nil
}
