package state

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/golden"
)

// vector is a command that is kept as name.command. A new kind gets a line of its own;
// where a command gains a field, the new form gets one, and the old line stays with old
// set: this build reads it, and does not write it any more.
type vector struct {
	name string
	kind Kind
	want any
	old  bool
}

var (
	goldenStream = uuid.MustParse("51000000-0000-4000-8000-000000000001")
	goldenOther  = uuid.MustParse("51000000-0000-4000-8000-000000000002")
	goldenMark   = uuid.MustParse("51000000-0000-4000-8000-000000000003")
	goldenVoid   = uuid.MustParse("51000000-0000-4000-8000-000000000004")
	goldenHash   = change.Hash{0xaa, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xbb}
)

func goldenTime(minute int) time.Time {
	return time.Date(2026, 11, 20, 10, minute, 30, 123456789, time.UTC)
}

// goldenHistory are commands in an order in which all of them apply.
func goldenHistory() []vector {
	lease := change.Lease{Epoch: 1, Number: 1}
	gap := Gap{From: change.Point{LSN: 40, Hash: goldenHash}, To: change.Point{LSN: 90, Hash: change.Hash{1}}}
	step := func(id uuid.UUID, stream change.StreamID) MarkStep {
		return MarkStep{ID: id, Group: "db", Stream: stream}
	}
	held, heldOther := step(goldenMark, goldenStream), step(goldenMark, goldenOther)
	held.LSN, heldOther.LSN = 120, 7
	confirm, confirmOther := step(goldenMark, goldenStream), step(goldenMark, goldenOther)
	confirm.HeldSeconds, confirmOther.HeldSeconds = 0.25, 0.5
	void := step(goldenVoid, goldenOther)
	void.Why = "writers of host-b were not held in time"
	volume := func(name string, stream change.StreamID, agent string) Volume {
		return Volume{Name: name, Group: "db", Stream: stream, Agent: agent, SizeBytes: 1 << 30,
			Backing: "/srv/" + name + ".img", Created: goldenTime(2)}
	}
	return []vector{
		{name: "group-put", kind: KindGroupPut, want: Group{Name: "db", Ack: "local", OnAckLoss: "degrade",
			Overflow: "bitmap", PITR: PITRFold,
			RPOTargetSeconds: 2.5, Paused: true, Retention: &Retention{EveryWriteSeconds: 3600,
				HourlySeconds: 86400, DailySeconds: 864000},
			Owner: "host-a", Agents: []string{"host-b"}, Created: goldenTime(0)}},
		{name: "group-put-least", kind: KindGroupPut, want: Group{Name: "mail", Ack: "journal",
			Overflow: "throttle", PITR: PITREveryWrite, Created: goldenTime(0)}},
		{name: "stream-create", kind: KindStreamCreate, want: Stream{ID: goldenStream, Group: "db", Agent: "host-a"}},
		{name: "stream-create-other", kind: KindStreamCreate, want: Stream{ID: goldenOther, Group: "db",
			Agent: "host-b"}},
		{name: "lease", kind: KindLease, want: LeaseGrant{Stream: goldenStream, Agent: "host-a", Epoch: 1}},
		{name: "volume-create", kind: KindVolumeCreate, want: volume("data", goldenStream, "host-a")},
		{name: "volume-create-other", kind: KindVolumeCreate, want: volume("log", goldenOther, "host-b")},
		{name: "volume-create-removed", kind: KindVolumeCreate, want: volume("tmp", goldenOther, "host-b")},
		{name: "volume-ready", kind: KindVolumeReady, want: VolumeReady{Name: "data", FirstLSN: 17}},
		{name: "volume-remove", kind: KindVolumeRemove, want: VolumeRemove{Name: "tmp"}},
		{name: "bookmark-add", kind: KindBookmarkAdd, want: Bookmark{Name: "before-upgrade", Group: "db",
			Stream: goldenStream, LSN: 30, Epoch: 1, Time: goldenTime(5),
			Points: map[change.StreamID]uint64{goldenStream: 30, goldenOther: 4}, HeldSeconds: 0.125, Quiesced: true}},
		{name: "bookmark-add-least", kind: KindBookmarkAdd, want: Bookmark{Name: "b", Group: "db",
			Stream: goldenStream, LSN: 31, Epoch: 1, Time: goldenTime(6)}},
		{name: "bookmark-remove", kind: KindBookmarkRemove, want: BookmarkRemove{Name: "b", Group: "db"}},
		{name: "heartbeat", kind: KindHeartbeat, want: Heartbeat{Time: goldenTime(7)}},
		{name: "audit", kind: KindAudit, want: Audit{Time: goldenTime(8), Who: "uid 0", Host: "host-a",
			Verb: "volume attach", Request: json.RawMessage(`{"name":"data"}`), Outcome: "done"}},
		{name: "resync-begin", kind: KindResyncBegin, want: ResyncBegin{Stream: goldenStream, Lease: lease, Gap: gap}},
		{name: "resync-end", kind: KindResyncEnd, want: ResyncEnd{Stream: goldenStream, Lease: lease,
			To: gap.To, LSN: 110}},
		{name: "mark-begin", kind: KindMarkBegin, want: MarkBegin{ID: goldenMark, Name: "both", Group: "db",
			Time: goldenTime(9), LimitSeconds: 5, Epoch: 1}},
		{name: "mark-held", kind: KindMarkHeld, want: held},
		{name: "mark-held-other", kind: KindMarkHeld, want: heldOther},
		{name: "mark-confirm", kind: KindMarkConfirm, want: confirm},
		{name: "mark-confirm-other", kind: KindMarkConfirm, want: confirmOther},
		{name: "mark-begin-void", kind: KindMarkBegin, want: MarkBegin{ID: goldenVoid, Name: "again",
			Group: "db", Time: goldenTime(10), LimitSeconds: 5, Epoch: 1}},
		{name: "mark-void", kind: KindMarkVoid, want: void},
		{name: "horizon", kind: KindHorizon, want: Horizon{Groups: map[string]time.Time{"db": goldenTime(1)}}},
		{name: "stream-horizon", kind: KindStreamHorizon,
			want: StreamHorizon{Streams: map[change.StreamID]uint64{goldenStream: 25},
				Groups: map[string]time.Time{"db": goldenTime(3)}}},
	}
}

// goldenLevel1 are commands of feature level 1, to apply after those.
func goldenLevel1() []vector {
	set := func(s string) *string { return &s }
	seconds, no := 1.5, false
	return []vector{
		{name: "feature-level", kind: KindFeatureLevel, want: FeatureLevel{Level: 1}},
		{name: "seat", kind: KindSeat, want: SeatPut{Site: "north", Epoch: 1, Time: goldenTime(11)}},
		{name: "seat-moved", kind: KindSeat, want: SeatPut{From: 1, Site: "south", Epoch: 2, Time: goldenTime(12)}},
		{name: "site", kind: KindSite, want: Site{Name: "south",
			Targets: map[string]string{"main": "s3://s3.south.example/pollux"}}},
		{name: "site-least", kind: KindSite, want: Site{Name: "east"}},
		{name: "group-patch-create", kind: KindGroupPatch, want: GroupPatch{Name: "web", Create: true, Owner: "host-a",
			Created: goldenTime(13), Ack: set("local")}},
		{name: "group-patch", kind: KindGroupPatch, want: GroupPatch{Name: "web", Revision: 1, Ack: set("remote"),
			OnAckLoss: set("wait"), Overflow: set("throttle"), PITR: set(PITRFold), RPOTargetSeconds: &seconds,
			Paused: &no, Retention: &Retention{EveryWriteSeconds: 60}, Agents: &[]string{"host-b", "host-c"},
			Standbys: &[]Standby{{Site: "east", Agent: "host-e"}}}},
		{name: "stream-move", kind: KindStreamMove, want: StreamMove{Stream: goldenOther, From: "host-b", To: "host-s",
			Backings: map[string]string{"log": "/srv/twin/log.img"}}},
	}
}

// goldenLevel2 are commands of feature level 2, to apply after those.
func goldenLevel2() []vector {
	return []vector{
		{name: "feature-level-2", kind: KindFeatureLevel, want: FeatureLevel{Level: 2}},
		{name: "seat-move", kind: KindSeatMove, want: SeatMove{From: 2, Epoch: 3, Site: "north", First: 4711,
			How: MoveForced, Time: goldenTime(14)}},
		{name: "seat-move-planned", kind: KindSeatMove, want: SeatMove{From: 3, Epoch: 4, Site: "south", First: 4800,
			How: MovePlanned, Time: goldenTime(15)}},
	}
}

// goldenLevel3 are commands of feature level 3, to apply after those.
func goldenLevel3() []vector {
	prepare := HandOver{ID: goldenMark, Phase: HandOverPrepare, From: 4, To: "west", Target: "far", LimitSeconds: 30,
		Time: goldenTime(16)}
	hand := prepare
	hand.Phase, hand.Host = HandOverHand, "host-w"
	back := hand
	back.Phase, back.Reason = HandOverBack, "nobody took it up within 30 s"
	over := back
	over.Phase = HandOverOver
	return []vector{
		{name: "feature-level-3", kind: KindFeatureLevel, want: FeatureLevel{Level: 3}},
		{name: "hand-over-prepare", kind: KindHandOver, want: prepare},
		{name: "hand-over", kind: KindHandOver, want: hand},
		{name: "hand-over-back", kind: KindHandOver, want: back},
		{name: "hand-over-over", kind: KindHandOver, want: over},
	}
}

// goldenLevel4 are commands of feature level 4, to apply after those.
func goldenLevel4() []vector {
	back := HandOver{ID: goldenOther, Phase: HandOverPrepare, From: 4, To: "north", Target: "near", LimitSeconds: 30,
		Time: goldenTime(19)}
	over := back
	over.Phase, over.Host, over.Reason = HandOverOver, "host-n", "nobody answered"
	return []vector{
		{name: "feature-level-4", kind: KindFeatureLevel, want: FeatureLevel{Level: 4}},
		{name: "way-back", kind: KindWayBack, want: WayBack{Step: WayBackOpen, Epoch: 4, To: "north", Host: "host-a",
			Bookmark: "handover-4", Points: map[change.StreamID]uint64{goldenStream: 140}, Time: goldenTime(18)}},
		{name: "way-back-prepare", kind: KindHandOver, want: back},
		{name: "way-back-roll-back", kind: KindWayBack, want: WayBack{Step: WayBackRollBack, Epoch: 4,
			HandOver: goldenOther, Who: "kim", Time: goldenTime(20)}},
		{name: "way-back-over", kind: KindHandOver, want: over},
		{name: "way-back-commit", kind: KindWayBack, want: WayBack{Step: WayBackCommit, Epoch: 4, Who: "kim",
			Time: goldenTime(21)}},
	}
}

// goldenDocuments are the documents of an object log.
func goldenDocuments() []vector {
	return []vector{
		{name: "identity", kind: KindIdentity, want: Identity{Journal: goldenMark, Format: 1, Site: "north",
			Created: goldenTime(0)}},
		{name: "fence", kind: KindFence, want: Fence{NextIndex: 77, Reason: "leader host-b of term 3",
			Streams: map[change.StreamID]change.Point{goldenStream: {LSN: 40, Hash: goldenHash}}}},
		{name: "ready", kind: KindReady, want: Ready{ID: goldenMark, Site: "west", Host: "host-w", Index: 4800,
			Refusal: "volume db is being copied", Time: goldenTime(17)}},
	}
}

// kept reads a vector and checks that it says what it is to say.
func (v *vector) kept(t *testing.T) (body []byte) {
	t.Helper()
	var b []byte
	if name := v.name + ".command"; v.old {
		b = golden.Kept(t, name, nil)
	} else {
		b = golden.Same(t, name, Encode(v.kind, v.want))
	}
	kind, body, err := Open(b)
	if err != nil || kind != v.kind {
		t.Fatalf("%s: kind %v, %v", v.name, kind, err)
	}
	got := reflect.New(reflect.TypeOf(v.want))
	if err := Decode(b, v.kind, got.Interface()); err != nil {
		t.Fatalf("%s: %v", v.name, err)
	}
	if diff := cmp.Diff(v.want, got.Elem().Interface()); diff != "" {
		t.Errorf("%s means something else: %s", v.name, diff)
	}
	return body
}

// goldenRest are parts of the saved state that the history does not come to.
func goldenRest() map[string]any {
	return map[string]any{
		"mark-part": BarrierPart{Agent: "host-a", LSN: 120, Confirmed: true, HeldSeconds: 0.25},
		"way-back-rolling": WayBack{Step: WayBackOpen, Epoch: 4, To: "north", Host: "host-a", Bookmark: "handover-4",
			Points: map[change.StreamID]uint64{goldenStream: 140}, HandOver: goldenOther, Who: "kim",
			Time: goldenTime(20)},
		"stream-pruned": Stream{ID: goldenStream, Number: 3, Group: "db", Agent: "host-a", Forgotten: 90},
	}
}

// TestGoldenCommands: every kind of command has a vector, all are understood as they
// were, and what they make of a state is what an earlier build saved of it.
func TestGoldenCommands(t *testing.T) {
	missing := golden.Constants(t, "Kind", "")
	s := New()
	apply := func(history []vector) {
		for _, v := range history {
			maps.DeleteFunc(missing, func(_ string, n uint64) bool { return n == uint64(v.kind) })
			if _, err := s.Apply(v.kind, v.kept(t)); err != nil {
				t.Errorf("%s does not apply: %v", v.name, err)
			}
		}
	}
	apply(goldenHistory())
	keptState(t, "state.txt", s)
	apply(goldenLevel1())
	keptState(t, "state-level1.txt", s)
	apply(goldenLevel2())
	keptState(t, "state-level2.txt", s)
	apply(goldenLevel3())
	keptState(t, "state-level3.txt", s)
	apply(goldenLevel4())
	keptState(t, "state-level4.txt", s)
	for _, v := range goldenDocuments() {
		maps.DeleteFunc(missing, func(_ string, n uint64) bool { return n == uint64(v.kind) })
		v.kept(t)
	}
	if len(missing) > 0 {
		t.Errorf("no vector of %v", slices.Sorted(maps.Keys(missing)))
	}

	golden.Filled(t, s.Groups, s.Streams, s.Volumes, s.Bookmarks, s.Barriers, s.Audits, s.Sites, s.Seat, s.Moves,
		s.HandOver, s.WayBack, goldenRest())
	for name, v := range goldenRest() {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		golden.Same(t, name+".json", b)
	}
}

// keptState holds a state against the vector of what an earlier build saved of it.
func keptState(t *testing.T, name string, s *State) {
	t.Helper()
	saved := golden.Kept(t, name, func() []byte { return []byte(saved(s)) })
	loaded := New()
	for line := range strings.Lines(string(saved)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if err := loaded.Load(key, []byte(value)); err != nil {
			t.Errorf("%s does not load: %v", key, err)
		}
	}
	if diff := cmp.Diff(loaded, s, cmp.AllowUnexported(State{})); diff != "" {
		t.Errorf("%s: the commands make another state than the one that was saved: %s", name, diff)
	}
}

// saved are all keys of a state with their values, a line each.
func saved(s *State) string {
	var out strings.Builder
	keys := s.Keys()
	slices.Sort(keys)
	for _, key := range keys {
		out.WriteString(key + " " + string(s.Save(key)) + "\n")
	}
	return out.String()
}
