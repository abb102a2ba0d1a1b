package journal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/hashicorp/raft"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/golden"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/state"
)

var (
	goldenJournal = uuid.MustParse("50000000-0000-4000-8000-000000000001")
	goldenStream  = uuid.MustParse("51000000-0000-4000-8000-000000000001")
	goldenTime    = time.Date(2026, 11, 20, 10, 5, 30, 123456789, time.UTC)
)

// goldenAppend is an append of a stream's next frames, with their bodies or by
// reference from ref on.
func goldenAppend(at *change.Point, frames int, ref uint64) []byte {
	a := change.Append{Stream: goldenStream, Lease: change.Lease{Epoch: 1, Number: 1}}
	for range frames {
		h := change.Header{Stream: goldenStream, FirstLSN: at.LSN + 1, FirstTime: goldenTime.UnixNano(),
			LastTime: goldenTime.UnixNano(), Epoch: 1, Lease: 1,
			Prev: at.Hash}
		e := change.Encoder{Codec: change.CodecNone}
		b, hash := e.Encode(&h, []change.Change{{Kind: change.Write, Volume: 2, Off: int64(at.LSN) * 512,
			Len: 64, Data: [][]byte{bytes.Repeat([]byte{byte(at.LSN)}, 64)}}})
		*at = change.Point{LSN: h.LastLSN, Hash: hash}
		it := change.AppendItem{Header: bytes.Clone(b[:change.HeaderBytes])}
		if ref > 0 {
			it.Ref, ref = ref, ref+1
		} else {
			it.Body = bytes.Clone(b[change.HeaderBytes:])
		}
		a.Items = append(a.Items, it)
	}
	return append([]byte{tagAppend}, bytes.Join(a.Parts(), nil)...)
}

// goldenEntry is an entry of Raft's log that is kept as name.entry.
type goldenEntry struct {
	name string
	raft.Log
}

// goldenLog is a log with every kind of entry.
func goldenLog() (log []goldenEntry) {
	var at change.Point
	tagged := func(tag byte, v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return append([]byte{tag}, b...)
	}
	command := func(kind state.Kind, v any) []byte { return append([]byte{tagCommand}, state.Encode(kind, v)...) }
	add := func(name string, typ raft.LogType, data []byte) {
		log = append(log, goldenEntry{name, raft.Log{Index: uint64(len(log) + 1), Term: 3, Type: typ,
			Data: data, AppendedAt: goldenTime}})
	}
	token := segment.Token{Epoch: 1, Term: 3, Writer: uuid.MustParse("52000000-0000-4000-8000-000000000001")}
	uploaded := func(target string, position, index uint64) Uploaded {
		return Uploaded{Target: target, Position: position, Index: index, Token: token,
			Streams: map[change.StreamID]change.Point{goldenStream: {LSN: 1, Hash: change.Hash{1}}}}
	}
	add("configuration", raft.LogConfiguration, []byte("hashicorp/raft's own"))
	log[0].Extensions, log[0].AppendedAt = []byte("extensions"), time.Time{}
	add("noop", raft.LogNoop, nil)
	add("targets", raft.LogCommand, tagged(tagTarget, targetPut{Targets: []string{"north", "south"},
		Required: []string{"south"}}))
	add("command", raft.LogCommand, command(state.KindGroupPut, state.Group{Name: "db", Ack: "local",
		Overflow: "throttle", PITR: state.PITRFold, Created: goldenTime})) // 1
	add("command-stream", raft.LogCommand, command(state.KindStreamCreate, state.Stream{ID: goldenStream,
		Group: "db", Agent: "host-a"})) // 2
	add("command-lease", raft.LogCommand, command(state.KindLease, state.LeaseGrant{Stream: goldenStream,
		Agent: "host-a", Epoch: 1})) // 3
	add("append-by-reference", raft.LogCommand, goldenAppend(&at, 2,
		17)) // 4, 5
	add("identity", raft.LogCommand, tagged(tagIdentity, identity{Journal: goldenJournal, Epoch: 1,
		Site: "north", Created: goldenTime}))
	add("append", raft.LogCommand, goldenAppend(&at, 2, 0)) // 6, 7
	add("uploaded", raft.LogCommand, tagged(tagUploaded, uploaded("south", 3, 4)))
	add("uploaded-unsynced", raft.LogCommand, tagged(tagLazy, uploaded("south", 4, 5)))
	add("targets-let-go", raft.LogCommand, tagged(tagTarget, targetPut{Targets: []string{"north", "south"},
		Required: []string{"south"},
		LetGo: map[string]LetGo{"north": {Reason: "over its limit", Time: goldenTime, Oldest: goldenTime,
			Bytes: 77}}, Keep: []string{"north"}}))
	add("append-last", raft.LogCommand, goldenAppend(&at, 1, 0)) // 8
	return log
}

// goldenFSM is an FSM in memory, whose frames are where they are expected.
func goldenFSM(t *testing.T, frames map[uint64][]byte) *fsm {
	db, err := pebble.Open("", &pebble.Options{FS: vfs.NewMem(), Logger: pebbleLogger{slog.New(slog.DiscardHandler)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	host := fsmHost{syncLog: func() error { return nil }, named: func(uuid.UUID) {}, changed: func() {},
		holdLog: func() func() { return func() {} }, fatal: func(err error) { t.Error(err) },
		frame: func(e *Entry) ([]byte, error) { return frames[e.Index], nil }}
	f := &fsm{db: db, host: host, log: slog.New(slog.DiscardHandler)}
	if err := f.load(); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestGoldenLog: entries of every kind are understood as they were, and what they make
// of the state is what a snapshot of an earlier build says.
func TestGoldenLog(t *testing.T) {
	log, frames := goldenLog(), map[uint64][]byte{} // by journal index, those with their bodies
	f := goldenFSM(t, frames)
	tags := map[byte]bool{}
	for i := range log {
		e := &log[i]
		b := golden.Same(t, e.name+".entry", append(raftHead(nil, &e.Log), e.Data...))
		var l raft.Log
		if err := parseRaftLog(b, &l); err != nil {
			t.Fatalf("%s: %v", e.name, err)
		}
		want := e.Log
		want.AppendedAt = l.AppendedAt
		if diff := cmp.Diff(fmt.Sprintf("%+v %d", want, e.AppendedAt.UnixNano()), fmt.Sprintf("%+v %d", l,
			l.AppendedAt.UnixNano())); diff != "" {
			t.Errorf("%s means something else: %s", e.name, diff)
		}
		if l.Type != raft.LogCommand {
			continue
		}
		tags[l.Data[0]] = true
		if a, err := change.ParseAppend(l.Data[1:]); l.Data[0] == tagAppend {
			if err != nil {
				t.Fatalf("%s: %v", e.name, err)
			}
			for k, it := range a.Items {
				if it.Body != nil {
					frames[f.next+uint64(k)] = slices.Concat(it.Header, it.Body)
				}
			}
		}
		if r := f.Apply(&l).(result); r.err != nil {
			t.Errorf("%s: %v", e.name, r.err)
		}
	}
	for name, n := range golden.Constants(t, "", "tag") {
		if !tags[byte(n)] && name != "tagLogged" { // which is none of an entry's
			t.Errorf("no golden entry has %s", name)
		}
	}
	goldenSnapshot(t, f, frames)
}

// goldenSnapshot holds the snapshot of an earlier build against the FSM.
func goldenSnapshot(t *testing.T, f *fsm, frames map[uint64][]byte) {
	fs := vfs.NewMem()
	store := &snapStore{fs: fs, dir: ""}
	sink, err := store.Create(1, 13, 3, raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter,
		ID: "member-a", Address: "10.0.0.1:7400"}}}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	snap, err := f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if err := snap.Persist(sink); err != nil {
		t.Fatal(err)
	}
	snap.Release()
	kept := golden.Same(t, "snapshot.snap", fileOf(t, fs, store.path(sink.ID())))

	again := &snapStore{fs: vfs.NewMem(), dir: ""}
	w, err := again.fs.Create(again.path(sink.ID()), vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(kept); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	meta, r, err := again.Open(sink.ID())
	if err != nil {
		t.Fatal(err)
	}
	if meta.Index != 13 || meta.Term != 3 || len(meta.Configuration.Servers) != 1 ||
		meta.Configuration.Servers[0].ID != "member-a" {
		t.Errorf("its meta means something else: %+v", meta)
	}
	g := goldenFSM(t, nil)
	if err := g.Restore(r); err != nil {
		t.Fatal(err)
	}
	mirrors := func(f *fsm) map[string]any {
		return map[string]any{"applied": f.applied, "firm": f.durableApplied, "next": f.next, "floor": f.floor,
			"points": f.points, "targets": f.targets, "durable": f.durable,
			"identity": f.id, "copied": f.copied, "last reference": f.lastRef, "state": f.state}
	}
	if diff := cmp.Diff(mirrors(f), mirrors(g), cmp.AllowUnexported(state.State{})); diff != "" {
		t.Errorf("the snapshot is of another state than the log leads to: %s", diff)
	}
	for _, index := range slices.Sorted(maps.Keys(frames)) {
		v, err := get(g.db, frameKey(index))
		if err != nil {
			t.Fatal(err)
		}
		e, err := parseEntry(index, v)
		if err != nil || !bytes.Equal(e.body, frames[index]) {
			t.Errorf("entry %d has another frame: %v", index, err)
		}
		own, err := get(f.db, frameKey(index))
		if err != nil {
			t.Fatal(err)
		}
		golden.Same(t, fmt.Sprintf("index-%d.value", index), own)
		if e, err = parseEntry(index, own); err != nil || e.logged == 0 || int(e.Bytes) != len(frames[index]) {
			t.Errorf("entry %d in Raft's log: %+v, %v", index, e, err)
		}
	}
}

func fileOf(t *testing.T, fs vfs.FS, path string) []byte {
	t.Helper()
	r, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
