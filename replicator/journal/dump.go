package journal

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
)

// RaftEntry is an entry of a journal's Raft log, for people.
type RaftEntry struct {
	Index   uint64          `json:"index"`
	Term    uint64          `json:"term"`
	Type    string          `json:"type"`
	Time    time.Time       `json:"time,omitzero"`
	Tag     string          `json:"tag,omitempty"`     // command, append, uploaded or targets
	Command string          `json:"command,omitempty"` // of a command: its kind
	Body    json.RawMessage `json:"body,omitempty"`    // JSON of all but appends
	Stream  string          `json:"stream,omitempty"`  // of an append
	Lease   *change.Lease   `json:"lease,omitempty"`
	Frames  []RaftFrame     `json:"frames,omitempty"`
}

// RaftFrame is a frame in an append. Held says whether its bytes are here, or in
// the agent's WAL under Ref.
type RaftFrame struct {
	Ref    uint64        `json:"ref"`
	Held   bool          `json:"held"`
	Header change.Header `json:"-"`
	Hash   change.Hash   `json:"hash"`
	First  uint64        `json:"first_lsn"`
	Last   uint64        `json:"last_lsn"`
	Bytes  int           `json:"bytes"`
}

// ParseRaftEntry decodes an entry of the WAL in a journal's raft directory, and
// checks what is in it.
func ParseRaftEntry(b []byte) (*RaftEntry, error) {
	var l raft.Log
	if err := parseRaftLog(b, &l); err != nil {
		return nil, err
	}
	e := &RaftEntry{Index: l.Index, Term: l.Term, Type: l.Type.String(), Time: l.AppendedAt.UTC()}
	if l.AppendedAt.IsZero() {
		e.Time = time.Time{}
	}
	if l.Type != raft.LogCommand || len(l.Data) == 0 {
		return e, nil
	}
	return e, e.parse(l.Data[0], l.Data[1:])
}

func (e *RaftEntry) parse(tag byte, body []byte) error {
	switch tag {
	case tagCommand:
		kind, js, err := state.Open(body)
		e.Tag, e.Command, e.Body = "command", kind.String(), bytes.Clone(js)
		return err
	case tagUploaded, tagLazy, tagTarget:
		e.Tag, e.Body = "uploaded", bytes.Clone(body)
		if tag == tagTarget {
			e.Tag = "targets"
		}
		if !json.Valid(body) {
			e.Body = nil
			return fail.New(fail.Damaged, "decode", e.Tag, "not JSON")
		}
		return nil
	case tagAppend:
		e.Tag = "append"
		return e.parseAppend(body)
	}
	return fail.New(fail.Unsupported, "decode", "Raft entry", fmt.Sprintf("tag %q", tag))
}

func (e *RaftEntry) parseAppend(body []byte) error {
	a, err := change.ParseAppend(body)
	if err != nil {
		return err
	}
	e.Stream, e.Lease = a.Stream.String(), &a.Lease
	for i := range a.Items {
		it := &a.Items[i]
		h, hash, err := change.ParseHeader(it.Header)
		if err == nil && it.Body != nil {
			_, err = change.Parse(append(append([]byte{}, it.Header...), it.Body...))
		}
		if err != nil {
			return fail.At("decode", fmt.Sprintf("frame %d of an append", i), err)
		}
		e.Frames = append(e.Frames, RaftFrame{Ref: it.Ref, Held: it.Body != nil, Header: h, Hash: hash,
			First: h.FirstLSN, Last: h.LastLSN, Bytes: h.FrameBytes()})
	}
	return nil
}

// IsRaftEntry reports whether a WAL entry is one of a Raft log, rather than an
// agent's frame: it repeats the index under which it lies.
func IsRaftEntry(index uint64, b []byte) bool {
	return len(b) >= raftEntryHead && b[1] <= byte(raft.LogConfiguration) && binary.LittleEndian.Uint64(b[8:]) == index
}
