package state

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

var otherStream = uuid.MustParse("99999999-0000-0000-0000-000000000009")

// twoHosts is the example with a second agent in its group.
func twoHosts(t *testing.T) *State {
	s := example(t)
	must(t, s, KindStreamCreate, Stream{ID: otherStream, Group: "g", Agent: "b"})
	must(t, s, KindVolumeCreate,
		Volume{Name: "w", Group: "g", Stream: otherStream, Agent: "b", SizeBytes: 1, Backing: "/w"})
	return s
}

func begin(id byte, at time.Time) MarkBegin {
	return MarkBegin{ID: uuid.UUID{id}, Name: "m" + string(rune('0'+id)), Group: "g", Time: at,
		LimitSeconds: 5, Epoch: 3}
}

func step(id byte, stream change.StreamID) MarkStep {
	return MarkStep{ID: uuid.UUID{id}, Group: "g", Stream: stream}
}

// TestMark: a bookmark comes of a mark only when all have held and all confirmed.
func TestMark(t *testing.T) {
	s := twoHosts(t)
	at := time.Unix(1000, 0).UTC()
	must(t, s, KindMarkBegin, begin(1, at))
	held := func(stream change.StreamID, lsn uint64) MarkStep { m := step(1, stream); m.LSN = lsn; return m }
	confirm := func(stream change.StreamID, seconds float64) MarkStep {
		m := step(1, stream)
		m.HeldSeconds = seconds
		return m
	}
	must(t, s, KindMarkHeld, held(testStream, 70))
	before := s.Barriers["g"]
	for name, tt := range map[string]struct {
		kind Kind
		v    MarkStep
	}{"confirmed too early": {KindMarkConfirm, confirm(testStream, 1)},
		"held twice":      {KindMarkHeld, held(testStream, 71)},
		"held by no part": {KindMarkHeld, held(uuid.UUID{7}, 71)},
		"held nowhere":    {KindMarkHeld, held(otherStream, 0)}} {
		if _, err := apply(s, tt.kind, tt.v); !fail.Is(err, fail.Refused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	must(t, s, KindMarkHeld, held(otherStream, 900))
	if before.Parts[otherStream].LSN != 0 {
		t.Error("a mark that a reader had was changed")
	}
	must(t, s, KindMarkConfirm, confirm(otherStream, 0.5))
	if s.Bookmarks["g/m1"] != nil || s.Barriers["g"].Outcome != "" {
		t.Fatal("a bookmark before all have confirmed")
	}
	must(t, s, KindMarkConfirm, confirm(testStream, 0.25))
	want := &Bookmark{Name: "m1", Group: "g", Stream: testStream, LSN: 70, Epoch: 3, Time: at, HeldSeconds: 0.5,
		Points: map[change.StreamID]uint64{testStream: 70, otherStream: 900}}
	if want.Stream.String() > otherStream.String() {
		want.Stream, want.LSN = otherStream, 900
	}
	if diff := cmp.Diff(want, s.Bookmarks["g/m1"]); diff != "" || s.Barriers["g"].Outcome != MarkDone {
		t.Error(diff)
	}
	for stream, lsn := range want.Points {
		if got, ok := want.On(stream); !ok || got != lsn {
			t.Errorf("on %s: %d, %v", stream, got, ok)
		}
	}
	if _, ok := want.On(uuid.UUID{7}); ok {
		t.Error("a point in a stream that is no part")
	}
	if _, err := apply(s, KindMarkVoid, step(1, testStream)); !fail.Is(err, fail.NotFound) {
		t.Errorf("void after the end: %v", err)
	}
}

// TestMarkEnds: a void mark becomes nothing, one at a time is in progress, and one
// that nobody ended gives way.
func TestMarkEnds(t *testing.T) {
	s := twoHosts(t)
	at := time.Unix(1000, 0).UTC()
	must(t, s, KindMarkBegin, begin(1, at))
	if _, err := apply(s, KindMarkBegin, begin(2, at.Add(20*time.Second))); !fail.Is(err, fail.Retry) {
		t.Errorf("a second one beside it: %v", err)
	}
	must(t, s, KindMarkVoid, step(1, testStream))
	m := step(1, testStream)
	m.LSN = 5
	if _, err := apply(s, KindMarkHeld, m); !fail.Is(err, fail.NotFound) || s.Barriers["g"].Outcome != "void" {
		t.Errorf("held after it was void: %v", err)
	}
	must(t, s, KindMarkBegin, begin(2, at.Add(20*time.Second)))
	must(t, s, KindMarkBegin, begin(3, at.Add(60*time.Second)))
	if _, err := apply(s, KindMarkVoid, step(2, testStream)); !fail.Is(err, fail.NotFound) {
		t.Errorf("a step of the one that gave way: %v", err)
	}
	for name, b := range map[string]MarkBegin{"name": {Name: "9", Group: "g", LimitSeconds: 1},
		"group":      {Name: "x", Group: "no", LimitSeconds: 1},
		"exists":     {Name: "b", Group: "g", LimitSeconds: 1},
		"limit":      {Name: "x", Group: "g"},
		"long limit": {Name: "x", Group: "g", LimitSeconds: 1e300}} {
		if _, err := apply(s, KindMarkBegin, b); err == nil {
			t.Errorf("%s is not looked at", name)
		}
	}
	must(t, s, KindGroupPut, Group{Name: "empty"})
	if _, err := apply(s, KindMarkBegin,
		MarkBegin{Name: "x", Group: "empty", LimitSeconds: 1}); !fail.Is(err, fail.Refused) {
		t.Errorf("a group without volumes: %v", err)
	}
}
