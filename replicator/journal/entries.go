package journal

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/segment"
	"github.com/pollux-dr/pollux/replicator/state"
)

// Entry is one accepted entry on its way to the targets.
type Entry struct {
	Index uint64
	segment.Entry
	ref  uint64
	body []byte // a command, or a whole frame that is not held by reference
}

// LastIndex is the newest journal index.
func (j *Journal) LastIndex() uint64 {
	j.fsm.mu.RLock()
	defer j.fsm.mu.RUnlock()
	return j.fsm.next - 1
}

// recent keeps the newest entries in memory, where an uploader that keeps up
// finds them.
type recent struct {
	first   uint64
	entries [][]byte
	bytes   int
}

const (
	recentEntries = 4096
	recentBytes   = 16 << 20
)

// add appends an entry; the older half goes when they are too many or too large.
func (r *recent) add(index uint64, entry []byte) {
	if len(r.entries) == recentEntries || r.bytes+len(entry) > recentBytes {
		keep := r.entries[(len(r.entries)+1)/2:]
		r.first += uint64(len(r.entries) - len(keep))
		r.entries, r.bytes = append(r.entries[:0:0], keep...), 0
		for _, e := range keep {
			r.bytes += len(e)
		}
	}
	if len(r.entries) == 0 {
		r.first = index
	}
	r.entries, r.bytes = append(r.entries, entry), r.bytes+len(entry)
}

// from returns the entries from index on, if they are all here. What it returns
// is never changed.
func (r *recent) from(index uint64) ([][]byte, bool) {
	if len(r.entries) == 0 || index < r.first {
		return nil, false
	}
	return r.entries[min(index-r.first, uint64(len(r.entries))):len(r.entries):len(r.entries)], true
}

// Entries calls fn with the entries from index first on, in order, until there
// are no more or fn returns false.
func (j *Journal) Entries(first uint64, fn func(Entry) bool) error {
	j.fsm.mu.RLock()
	got, ok := j.fsm.recent.from(first)
	none := first >= j.fsm.next
	j.fsm.mu.RUnlock()
	if none {
		return nil
	}
	if !ok {
		return j.storedEntries(first, fn)
	}
	for i, v := range got {
		e, err := parseEntry(first+uint64(i), v)
		if err != nil {
			return fail.At("read", fmt.Sprintf("journal entry %d", first+uint64(i)), err)
		}
		if !fn(e) {
			break
		}
	}
	return nil
}

// storedEntries is Entries from Pebble.
func (j *Journal) storedEntries(first uint64, fn func(Entry) bool) error {
	it, err := j.db.NewIter(&pebble.IterOptions{LowerBound: frameKey(first), UpperBound: prefixEnd(keyFrame)})
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

func parseEntry(index uint64, v []byte) (Entry, error) {
	e := Entry{Index: index}
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
		if len(v) < 9+change.HeaderBytes {
			break
		}
		h, hash, err := change.ParseHeader(v[9:])
		e.ref = binary.LittleEndian.Uint64(v[1:])
		e.Entry = segment.FrameEntryOf(&h, hash)
		if len(v) > 9+change.HeaderBytes {
			e.body = bytes.Clone(v[9:])
		}
		return e, err
	}
	return e, fail.New(fail.Damaged, "decode", "journal entry", fmt.Sprintf("tag %q, %d bytes", v[0], len(v)))
}

// Fetch copies the entry's bytes into dst, which is exactly as long. A frame
// that is held by reference is compared with what was accepted.
func (j *Journal) Fetch(e *Entry, dst []byte) error {
	b := e.body
	if b == nil {
		if j.source == nil {
			return fail.New(fail.Internal, "fetch", fmt.Sprintf("journal entry %d", e.Index), "no source for references")
		}
		var err error
		if b, err = j.source(e.ref, dst[:0]); err != nil {
			return fail.At("fetch", fmt.Sprintf("journal entry %d from the agent's WAL", e.Index), err)
		}
	}
	if len(b) != len(dst) {
		return fail.New(fail.Damaged, "fetch", fmt.Sprintf("journal entry %d", e.Index), fmt.Sprintf("%d bytes in place of %d", len(b), len(dst)))
	}
	if e.Kind == segment.FrameEntry {
		if _, hash, err := change.ParseHeader(b); err != nil || hash != e.Hash {
			return fail.New(fail.Damaged, "fetch", fmt.Sprintf("journal entry %d", e.Index), "the agent's WAL holds another frame there")
		}
	}
	if &b[0] != &dst[0] {
		copy(dst, b)
	}
	return nil
}
