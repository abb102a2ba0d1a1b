package change

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/golden"
)

// goldenChanges have every kind of record, and data for two blocks of 4 KiB that
// compresses.
func goldenChanges() []Change {
	data := bytes.Repeat([]byte("a frame's golden bytes; "), 256)[:6000]
	return []Change{
		{Kind: Write, Volume: 2, Off: 4096, Len: 5000, Data: [][]byte{data[:5000]}},
		{Kind: Write, Volume: 3, Off: 1 << 30, Len: 1000, Data: [][]byte{data[5000:]}},
		{Kind: Zero, Volume: 2, Off: 1 << 40, Len: 1 << 30},
		{Kind: Trim, Volume: 3, Off: 512, Len: 512},
		{Kind: Mark, Data: [][]byte{[]byte("before-upgrade")}},
	}
}

func goldenFrame(codec Codec) []byte {
	h := Header{Stream: testStream, FirstLSN: 7, FirstTime: 1_795_000_000_000_000_001,
		LastTime: 1_795_000_000_000_000_002, Epoch: 3, Lease: 4,
		Prev: Hash{9, 8, 7}}
	e := Encoder{Codec: codec}
	b, _ := e.Encode(&h, goldenChanges())
	return bytes.Clone(b)
}

// frameZstd is the frame with its blocks compressed with zstd.
func frameZstd() []byte {
	b := goldenFrame(CodecNone)
	le := binary.LittleEndian
	table, data := HeaderBytes+len(goldenChanges())*recordBytes, HeaderBytes+int(le.Uint32(b[104:]))
	out := bytes.Clone(b[:data])
	for plain := b[data:]; len(plain) > 0; table += blockEntryBytes {
		n := int(le.Uint32(b[table+4:]))
		from := len(out)
		out = Zstd(Quick, out, plain[:n])
		le.PutUint32(out[table:], uint32(len(out)-from))
		plain = plain[n:]
	}
	out[8] = byte(CodecZstd)
	le.PutUint32(out[108:], uint32(len(out)-data))
	reseal(out)
	return out
}

// TestGoldenFrames: frames of both versions and of every codec say what they said. Those
// of version 1 were written by the last release that wrote it.
func TestGoldenFrames(t *testing.T) {
	for name, tt := range map[string]struct {
		write      func() []byte
		codec      Codec
		blockBytes uint32
		same       bool // this build writes these bytes; compression may change with its library
	}{
		"v1-none.frame": {nil, CodecNone, BlockBytes, false},
		"v1-s2.frame":   {nil, CodecS2, BlockBytes, false},
		"v2-none.frame": {func() []byte { return goldenFrame(CodecNone) }, CodecNone, MinBlockBytes, true},
		"v2-s2.frame":   {func() []byte { return goldenFrame(CodecS2) }, CodecS2, MinBlockBytes, false},
		"v2-zstd.frame": {frameZstd, CodecZstd, MinBlockBytes, false},
	} {
		b := golden.Kept(t, name, tt.write)
		if tt.same {
			golden.Same(t, name, tt.write())
		}
		c, err := decode(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		blocks := (6014 + tt.blockBytes - 1) / tt.blockBytes
		want := Header{Codec: tt.codec, Flags: FlagMarks, Stream: testStream, FirstLSN: 7, LastLSN: 11,
			FirstTime: 1_795_000_000_000_000_001,
			LastTime:  1_795_000_000_000_000_002, Epoch: 3, Lease: 4, Prev: Hash{9, 8, 7}, Records: 5,
			Blocks: blocks, PlainBytes: 6014,
			TableBytes: 5*24 + 12*blocks, StoredBytes: uint32(len(b)) - 160 - 5*24 - 12*blocks,
			BlockBytes: tt.blockBytes, Digest: c.Header.Digest}
		if diff := cmp.Diff(want, c.Header); diff != "" {
			t.Errorf("%s: header: %s", name, diff)
		}
		for i, ch := range goldenChanges() {
			r := c.Records[i]
			got := Record{LSN: 7 + uint64(i), Kind: ch.Kind, Volume: ch.Volume, Off: ch.Off, Len: ch.Len,
				DataLen: uint32(ch.dataLen()), dataOff: r.dataOff}
			if r != got || !bytes.Equal(c.Data[i], bytes.Join(ch.Data, nil)) {
				t.Errorf("%s: record %d: %+v in place of %+v, or other data", name, i, r, got)
			}
		}
		golden.Text(t, name+".hash", c.Hash.String()+"\n")
	}
	for name, n := range golden.Constants(t, "Kind", "") {
		if !slices.ContainsFunc(goldenChanges(), func(c Change) bool { return c.Kind == Kind(n) }) {
			t.Errorf("no golden frame has a record of %s", name)
		}
	}
}

// message is a kept message's payload.
type message struct {
	name string
	typ  MessageType
	want any // nil: the payload is empty
	old  bool
}

var (
	goldenJournal = uuid.MustParse("50000000-0000-4000-8000-000000000001")
	goldenPoint   = Point{LSN: 42, Hash: Hash{0xaa, 15: 0xbb}}
	goldenFault   = &Fault{Kind: "fenced", Text: "lease 1 of epoch 1 was superseded", Hint: "look for another agent"}
	goldenMoment  = time.Date(2026, 11, 20, 10, 5, 30, 123456789, time.UTC)
)

func goldenMessages() []message {
	return []message{
		{name: "hello", typ: MsgHello, want: Hello{Agent: "host-a", Reference: true}},
		{name: "welcome", typ: MsgWelcome, want: Welcome{Journal: goldenJournal.String(), Epoch: 2, Reference: true}},
		{name: "welcome-error", typ: MsgWelcome, want: Welcome{Leader: "10.0.0.2:7400", Error: goldenFault}},
		{name: "attach", typ: MsgAttach, want: Attach{Stream: testStream}},
		{name: "attached", typ: MsgAttached, want: Attached{Stream: testStream, Lease: Lease{2, 5},
			Committed: goldenPoint, Released: 40, Durable: 38, Voters: 3,
			Unsound: true, Gap: Point{LSN: 41, Hash: Hash{1}}}},
		{name: "attached-error", typ: MsgAttached, want: Attached{Stream: testStream, Error: goldenFault}},
		{name: "ack", typ: MsgAck, want: Ack{Stream: testStream, Committed: goldenPoint, Released: 40,
			Durable: 38, Voters: 3, Unsound: true}},
		{name: "ack-fault", typ: MsgAck, want: Ack{Stream: testStream, Fault: goldenFault}},
		{name: "follow", typ: MsgFollow, want: Follow{Agent: "host-a"}, old: true},
		{name: "follow-level", typ: MsgFollow, want: Follow{Agent: "host-a", Level: 1}},
		{name: "state", typ: MsgState, want: StateUpdate{Reset: true, Keys: []StateKey{{"group/db",
			json.RawMessage(`{"name":"db"}`)}, {"bookmark/db/b", json.RawMessage(`null`)}},
			Info: &JournalInfo{Journal: goldenJournal, Epoch: 2, Site: "north", Term: 7,
				Leader: "10.0.0.2:7400", Voters: 3, Members: 4, LogBytes: 5000, LogBudget: 1 << 30,
				Targets: []TargetInfo{{Name: "south", URL: "s3://bucket/prefix", Site: "south", Optional: true,
					Position: 9, Index: 100, LastSuccess: goldenMoment, Error: "503",
					State: TargetLetGo, Reason: "over its limit", Fenced: true, Stopped: true,
					OldestRequest: goldenMoment, Objects: 9, Bytes: 12345, LagSeconds: 0.5, BacklogBytes: 77,
					FoldedFrom: 1000, FoldedTo: 100}}}}},
		{name: "propose", typ: MsgPropose, want: Propose{ID: 3, Command: []byte("PLXC...")}},
		{name: "proposed", typ: MsgProposed, want: Proposed{ID: 3, Index: 101}},
		{name: "proposed-error", typ: MsgProposed, want: Proposed{ID: 3, Error: goldenFault}},
		{name: "join", typ: MsgJoin, old: true, want: Join{Member: "member-b", Address: "10.0.0.3:7400", Fresh: true,
			Targets: []string{"south"}}},
		{name: "join-level", typ: MsgJoin, want: Join{Member: "member-b", Address: "10.0.0.3:7400", Fresh: true,
			Level: 1, Targets: []string{"south"}}},
		{name: "joined", typ: MsgJoined, want: Joined{Journal: goldenJournal}},
		{name: "joined-error", typ: MsgJoined, want: Joined{Leader: "10.0.0.2:7400", Error: goldenFault}},
		{name: "raft", typ: MsgRaft, want: RaftHello{Journal: goldenJournal, From: "member-a", To: "member-b"}},
		{name: "raft-ready", typ: MsgRaftReady},
		{name: "member", typ: MsgMember},
		{name: "member-status", typ: MsgMemberStatus, old: true, want: MemberStatus{Journal: goldenJournal,
			Member: "member-a", Version: "1.2.3", State: "leader", Term: 7, Last: 500, Applied: 499,
			LogBytes: 5000}},
		{name: "member-status-site", typ: MsgMemberStatus, want: MemberStatus{Journal: goldenJournal,
			Member: "member-a", Version: "1.2.3", Level: 1, State: "leader", Term: 7, Last: 500, Applied: 499,
			LogBytes: 5000, Site: "north", TargetSites: map[string]string{"main": "south"}}},
		{name: "member-status-level", typ: MsgMemberStatus, old: true, want: MemberStatus{Journal: goldenJournal,
			Member: "member-a", Version: "1.2.3", Level: 1, State: "leader", Term: 7, Last: 500, Applied: 499,
			LogBytes: 5000}},
		{name: "beat", typ: MsgBeat},
		{name: "submit", typ: MsgSubmit, want: Propose{ID: 4, Command: []byte("PLXC...")}},
		{name: "resync-begin", typ: MsgResync, want: Resync{Stream: testStream, From: goldenPoint,
			To: Point{LSN: 90, Hash: Hash{2}}}},
		{name: "resync-end", typ: MsgResync, want: Resync{Stream: testStream, To: Point{LSN: 90, Hash: Hash{2}},
			End: 110}},
	}
}

// TestGoldenMessages: every kind of message has a vector that is understood as it was.
func TestGoldenMessages(t *testing.T) {
	missing := golden.Constants(t, "MessageType", "")
	has := func(typ MessageType) {
		maps.DeleteFunc(missing, func(_ string, n uint64) bool { return n == uint64(typ) })
	}
	has(MsgAppend) // see TestGoldenAppend
	for _, m := range goldenMessages() {
		has(m.typ)
		if m.want == nil {
			continue // nothing to keep
		}
		var b []byte
		if name := m.name + ".message"; m.old {
			b = golden.Kept(t, name, nil)
		} else {
			b = golden.Same(t, name, Encode(m.want))
		}
		got := reflect.New(reflect.TypeOf(m.want))
		if err := Decode(b, got.Interface()); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
		if diff := cmp.Diff(m.want, got.Elem().Interface()); diff != "" {
			t.Errorf("%s means something else: %s", m.name, diff)
		}
	}
	if len(missing) > 0 {
		t.Errorf("no vector of %v", slices.Sorted(maps.Keys(missing)))
	}
}

// TestGoldenAppend: an append with a frame by reference and one with its body.
func TestGoldenAppend(t *testing.T) {
	first := golden.Kept(t, "v2-none.frame", nil)
	h, hash, err := ParseHeader(first)
	if err != nil {
		t.Fatal(err)
	}
	next := Header{Stream: testStream, FirstLSN: h.LastLSN + 1, FirstTime: h.LastTime, LastTime: h.LastTime,
		Epoch: 3, Lease: 4, Prev: hash}
	e := Encoder{Codec: CodecNone}
	second, _ := e.Encode(&next, []Change{{Kind: Write, Volume: 2, Off: 0, Len: 512,
		Data: [][]byte{bytes.Repeat([]byte{7}, 512)}}})
	want := Append{Stream: testStream, Lease: Lease{Epoch: 3, Number: 5}, Items: []AppendItem{
		{Ref: 17, Header: first[:HeaderBytes], Offset: 56}, {Header: second[:HeaderBytes],
			Body: second[HeaderBytes:], Offset: 232}}}
	got, err := ParseAppend(golden.Same(t, "append.message", payload(want)))
	if err != nil || got.Check() != nil {
		t.Fatal(err, got.Check())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("it means something else: %s", diff)
	}
}
