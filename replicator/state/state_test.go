package state

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

var testStream = uuid.MustParse("11111111-2222-3333-4444-555555555555")

func apply(s *State, kind Kind, v any) ([]string, error) {
	_, body, err := Open(Encode(kind, v))
	if err != nil {
		return nil, err
	}
	return s.Apply(kind, body)
}

func must(t testing.TB, s *State, kind Kind, v any) {
	t.Helper()
	if _, err := apply(s, kind, v); err != nil {
		t.Fatalf("%v: %v", kind, err)
	}
}

// example has one of everything.
func example(t testing.TB) *State {
	t.Helper()
	s := New()
	must(t, s, KindGroupPut, Group{Name: "g", Ack: "local", Created: time.Unix(100, 0).UTC()})
	must(t, s, KindStreamCreate, Stream{ID: testStream, Group: "g", Agent: "a"})
	must(t, s, KindVolumeCreate,
		Volume{Name: "v", Group: "g", Stream: testStream, Agent: "a", SizeBytes: 4096, Backing: "/v"})
	must(t, s, KindVolumeReady, VolumeReady{Name: "v", FirstLSN: 7})
	must(t, s, KindVolumeCreate,
		Volume{Name: "old", Group: "g", Stream: testStream, Agent: "a", SizeBytes: 1, Backing: "/old"})
	must(t, s, KindVolumeRemove, VolumeRemove{Name: "old"})
	must(t, s, KindBookmarkAdd, Bookmark{Name: "b", Group: "g", Stream: testStream, LSN: 9})
	must(t, s, KindLease, LeaseGrant{Stream: testStream, Agent: "a", Epoch: 2})
	must(t, s, KindHeartbeat, Heartbeat{})
	must(t, s, KindAudit, Audit{Who: "operator/kim", Verb: "group-put", Outcome: "ok"})
	return s
}

func TestApply(t *testing.T) {
	s := example(t)
	if st := s.StreamOf("g", "a"); st == nil || st.Number != 1 || st.Lease != (change.Lease{Epoch: 2, Number: 1}) {
		t.Errorf("stream %+v", st)
	}
	if v := s.Volumes["v"]; v.Number != 2 || !v.Ready || v.FirstLSN != 7 || v.Removed {
		t.Errorf("volume %+v", v)
	}
	if v := s.Volumes["old"]; v.Number != 3 || !v.Removed {
		t.Errorf("removed volume %+v", v)
	}
	must(t, s, KindLease, LeaseGrant{Stream: testStream, Agent: "a", Epoch: 3})
	if l := s.Streams[testStream].Lease; l != (change.Lease{Epoch: 3, Number: 2}) {
		t.Errorf("lease %+v", l)
	}
	must(t, s, KindGroupPut, Group{Name: "g", Ack: "remote", Created: time.Unix(999, 0)})
	if g := s.Groups["g"]; g.Ack != "remote" || g.Created.Unix() != 100 {
		t.Errorf("group %+v: a change keeps the time of creation", g)
	}
	must(t, s, KindVolumeCreate,
		Volume{Name: "again", Group: "g", Stream: testStream, Agent: "a", SizeBytes: 1, Backing: "/old"})
}

func TestRefusals(t *testing.T) {
	vol := func(do func(v *Volume)) Volume {
		v := Volume{Name: "w", Group: "g", Stream: testStream, Agent: "a", SizeBytes: 1, Backing: "/w"}
		do(&v)
		return v
	}
	for _, tt := range []struct {
		name string
		kind Kind
		v    any
		want fail.Kind
		text string
	}{
		{"group name", KindGroupPut, Group{Name: "1g"}, fail.Invalid, "1g"},
		{"no group name", KindGroupPut, Group{}, fail.Invalid, ""},
		{"long name", KindGroupPut, Group{Name: strings.Repeat("x", 201)}, fail.Invalid, ""},
		{"stream without group", KindStreamCreate, Stream{ID: uuid.UUID{1}, Group: "no", Agent: "a"},
			fail.NotFound, "no such group"},
		{"stream twice", KindStreamCreate, Stream{ID: uuid.UUID{1}, Group: "g", Agent: "a"}, fail.Exists, ""},
		{"stream id twice", KindStreamCreate, Stream{ID: testStream, Group: "g", Agent: "z"}, fail.Exists, ""},
		{"volume name", KindVolumeCreate, vol(func(v *Volume) { v.Name = "-w" }), fail.Invalid, ""},
		{"volume without group", KindVolumeCreate, vol(func(v *Volume) { v.Group = "no" }),
			fail.NotFound, "no such group"},
		{"volume without stream", KindVolumeCreate, vol(func(v *Volume) { v.Stream = uuid.UUID{5} }),
			fail.NotFound, "no such stream"},
		{"volume twice", KindVolumeCreate, vol(func(v *Volume) { v.Name = "v" }), fail.Exists, "of that name exists"},
		{"removed volume again", KindVolumeCreate, vol(func(v *Volume) { v.Name = "old" }),
			fail.Exists, "removed volume"},
		{"volume without size", KindVolumeCreate, vol(func(v *Volume) { v.SizeBytes = 0 }), fail.Invalid, ""},
		{"backing twice", KindVolumeCreate, vol(func(v *Volume) { v.Backing = "/v" }), fail.Refused, "volume v"},
		{"ready without volume", KindVolumeReady, VolumeReady{Name: "no"}, fail.NotFound, ""},
		{"ready when removed", KindVolumeReady, VolumeReady{Name: "old"}, fail.NotFound, ""},
		{"remove twice", KindVolumeRemove, VolumeRemove{Name: "old"}, fail.NotFound, ""},
		{"bookmark name", KindBookmarkAdd, Bookmark{Name: "-10m", Group: "g"}, fail.Invalid, ""},
		{"bookmark without group", KindBookmarkAdd, Bookmark{Name: "x", Group: "no"}, fail.NotFound, ""},
		{"bookmark twice", KindBookmarkAdd, Bookmark{Name: "b", Group: "g"}, fail.Exists, "g/b"},
		{"lease without stream", KindLease, LeaseGrant{Stream: uuid.UUID{5}}, fail.NotFound, ""},
		{"lease for another agent", KindLease, LeaseGrant{Stream: testStream, Agent: "z"},
			fail.Fenced, "agent a, not z"},
		{"resync without stream", KindResyncBegin, ResyncBegin{Stream: uuid.UUID{5}}, fail.NotFound, ""},
		{"resync without lease", KindResyncBegin, ResyncBegin{Stream: testStream, Gap: Gap{To: change.Point{LSN: 9}}},
			fail.Fenced, "superseded"},
		{"gap of nothing", KindResyncBegin, ResyncBegin{Stream: testStream, Lease: exampleLease,
			Gap: Gap{From: change.Point{LSN: 9}, To: change.Point{LSN: 9}}}, fail.Invalid, ""},
		{"end without resync", KindResyncEnd,
			ResyncEnd{Stream: testStream, Lease: exampleLease, LSN: 9}, fail.NotFound, ""},
		{"document", KindFence, Fence{}, fail.Unsupported, "fence"},
		{"unknown", 4242, Fence{}, fail.Unsupported, "command(4242)"},
	} {
		s := example(t)
		before := dump(s)
		changed, err := apply(s, tt.kind, tt.v)
		if !fail.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) || changed != nil {
			t.Errorf("%s: changed %v, %v", tt.name, changed, err)
		}
		if diff := cmp.Diff(before, dump(s)); diff != "" {
			t.Errorf("%s changed the state:\n%s", tt.name, diff)
		}
	}
	if _, err := New().Apply(KindGroupPut, []byte("{")); !fail.Is(err, fail.Damaged) {
		t.Errorf("no JSON: %v", err)
	}
}

var exampleLease = change.Lease{Epoch: 2, Number: 1}

// TestResyncs: gaps add up, and all of them end together.
func TestResyncs(t *testing.T) {
	s := example(t)
	point := func(lsn uint64) change.Point { return change.Point{LSN: lsn, Hash: change.Hash{byte(lsn)}} }
	begin := func(from, to uint64) {
		must(t, s, KindResyncBegin,
			ResyncBegin{Stream: testStream, Lease: exampleLease, Gap: Gap{From: point(from), To: point(to)}})
	}
	st := s.Streams[testStream]
	if st.Resyncing() || (*Stream)(nil).Resyncing() {
		t.Error("unsound from the beginning")
	}
	begin(10, 20)
	begin(25, 30) // it overflowed again before the first one had ended
	if !st.Resyncing() {
		t.Error("sound in the middle of a resync")
	}
	if _, err := apply(s, KindResyncEnd,
		ResyncEnd{Stream: testStream, Lease: exampleLease, To: point(30), LSN: 9}); !fail.Is(err, fail.Invalid) {
		t.Errorf("an end before the beginning: %v", err)
	}
	if _, err := apply(s, KindResyncEnd,
		ResyncEnd{Stream: testStream, Lease: exampleLease, To: point(20), LSN: 40}); !fail.Is(err, fail.Refused) {
		t.Errorf("the end of the first gap's resync: %v", err)
	}
	must(t, s, KindResyncEnd, ResyncEnd{Stream: testStream, Lease: exampleLease, To: point(30), LSN: 40})
	begin(50, 60)
	must(t, s, KindResyncEnd, ResyncEnd{Stream: testStream, Lease: exampleLease, To: point(60), LSN: 70})
	if diff := cmp.Diff([]Resync{{10, 40}, {50, 70}}, st.Resyncs); diff != "" || st.Resyncing() || len(st.Gaps) != 3 {
		t.Errorf("%s, %+v", diff, st.Gaps)
	}
	st.Gaps, st.Resyncs = make([]Gap, MaxGaps), []Resync{{1, 5}, {6, 20}}
	for i := range st.Gaps {
		st.Gaps[i].To = point(uint64(i + 1))
	}
	if _, err := apply(s, KindResyncBegin,
		ResyncBegin{Stream: testStream, Lease: exampleLease, Gap: Gap{To: point(99)}}); !fail.Is(err, fail.Refused) {
		t.Errorf("one gap too many: %v", err)
	}
	must(t, s, KindStreamHorizon, StreamHorizon{Streams: map[change.StreamID]uint64{testStream: 10}})
	must(t, s, KindResyncBegin, ResyncBegin{Stream: testStream, Lease: exampleLease, Gap: Gap{To: point(9999)}})
	if len(st.Gaps) != MaxGaps-10+1 || st.Forgotten != 10 || st.Gaps[0].To != point(11) ||
		st.Resyncs[0] != (Resync{6, 20}) {
		t.Errorf("%d gaps, forgotten up to %d, resyncs %v", len(st.Gaps), st.Forgotten, st.Resyncs)
	}
}

// TestSaveLoad: a state saved key by key goes on like the original, numbers
// included, in whatever order it is loaded.
func TestSaveLoad(t *testing.T) {
	s := example(t)
	again := New()
	for key, v := range dump(s) {
		if key == "next" {
			continue
		}
		if err := again.Load(key, []byte(v)); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(dump(s), dump(again)); diff != "" {
		t.Error(diff)
	}
	for key, b := range map[string]string{"/x": "{}", "stream/x": "{}", "group/g": "{",
		"stream/" + testStream.String(): "[]", "volume/v": "1"} {
		if err := New().Load(key, []byte(b)); !fail.Is(err, fail.Damaged) {
			t.Errorf("load %s: %v", key, err)
		}
	}
}

func TestSorted(t *testing.T) {
	s := example(t)
	var names []string
	for _, v := range Sorted(s.Volumes, func(v *Volume) string { return v.Name }) {
		names = append(names, v.Name)
	}
	if diff := cmp.Diff([]string{"old", "v"}, names); diff != "" {
		t.Error(diff)
	}
}
