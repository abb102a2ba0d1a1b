package state

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// raised is the example at the present feature level, with two sites.
func raised(t testing.TB) *State {
	t.Helper()
	s := example(t)
	for n := 1; n <= Level; n++ {
		must(t, s, KindFeatureLevel, FeatureLevel{Level: n})
	}
	must(t, s, KindSeat, SeatPut{Site: "north", Epoch: 1, Time: time.Unix(50, 0).UTC()})
	must(t, s, KindSite, Site{Name: "north", Targets: map[string]string{"near": "file:///n"}})
	must(t, s, KindSite, Site{Name: "south", Targets: map[string]string{"far": "file:///s"}})
	return s
}

// TestLevel: what a level brings is refused below it, levels are raised one by one, and one
// of a later release ends the journal here, by command and at its start.
func TestLevel(t *testing.T) {
	s := example(t)
	before := saved(s)
	for kind, v := range map[Kind]any{KindGroupPatch: GroupPatch{Name: "g"}, KindSeat: SeatPut{Site: "x", Epoch: 1},
		KindSite: Site{Name: "x"}, KindStreamMove: StreamMove{Stream: testStream, From: "a", To: "b"},
		KindSeatMove: SeatMove{From: 1, Epoch: 2, Site: "x", First: 9, How: MoveForced}} {
		if _, err := apply(s, kind, v); !fail.Is(err, fail.Refused) {
			t.Errorf("%v at level 0: %v", kind, err)
		}
		if LevelOf(kind) == 0 {
			t.Errorf("%v is of level 0", kind)
		}
	}
	if saved(s) != before {
		t.Error("what was refused changed the state")
	}
	if _, err := apply(s, KindFeatureLevel, FeatureLevel{Level: Level + 1}); !fail.Is(err, fail.Unsupported) {
		t.Errorf("a level of a later release: %v", err)
	}
	must(t, s, KindFeatureLevel, FeatureLevel{Level: 1})
	if _, err := apply(s, KindFeatureLevel, FeatureLevel{Level: 1}); !fail.Is(err, fail.Refused) {
		t.Errorf("level 1 once more: %v", err)
	}
	for key, value := range map[string]string{keyLevel: `{"level":99}`, "journal/later": `{}`, "later/x": `{}`} {
		if err := New().Load(key, []byte(value)); !fail.Is(err, fail.Unsupported) {
			t.Errorf("%s %s: %v", key, value, err)
		}
	}
	for key, value := range map[string]string{keyLevel: `{"level":-1}`, keySeat: `{"site":"../x","epoch":1}`,
		"site/x": `{"name":"y"}`} {
		if err := New().Load(key, []byte(value)); !fail.Is(err, fail.Damaged) {
			t.Errorf("%s %s: %v", key, value, err)
		}
	}
	if _, err := apply(s, KindGroupPatch,
		map[string]any{"name": "g", "color": "red"}); !fail.Is(err, fail.Unsupported) {
		t.Errorf("a field of a later release: %v", err)
	}
}

// TestSeat: the seat goes from one epoch to the next, never back, and never twice from one.
func TestSeat(t *testing.T) {
	s := raised(t)
	must(t, s, KindSeat, SeatPut{From: 1, Site: "north-2", Epoch: 1, Time: time.Unix(60, 0).UTC()})
	if want := (Seat{Site: "north-2", Epoch: 1, Since: time.Unix(50, 0).UTC()}); s.Seat != want {
		t.Errorf("renamed: %+v", s.Seat)
	}
	if s.SiteOf("near") != "north-2" || s.Protects("near") || !s.Protects("far") {
		t.Errorf("what is at the seat's site counts as elsewhere once that has another name: %+v", s.Sites)
	}
	must(t, s, KindSeat, SeatPut{From: 1, Site: "south", Epoch: 2, Time: time.Unix(70, 0).UTC()})
	for _, r := range []SeatPut{{From: 1, Site: "east", Epoch: 2}, {From: 1, Site: "north", Epoch: 1},
		{Site: "north", Epoch: 1}} {
		if _, err := apply(s, KindSeat, r); !fail.Is(err, fail.Fenced) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if want := (Seat{Site: "south", Epoch: 2, Since: time.Unix(70, 0).UTC()}); s.Seat != want {
		t.Errorf("moved: %+v", s.Seat)
	}
}

// TestProtects: only a target at another site than the seat's protects against its loss; one
// of which nothing is known counts as in earlier releases.
func TestProtects(t *testing.T) {
	s := raised(t)
	for target, want := range map[string]bool{"near": false, "far": true, "unknown": true} {
		if s.Protects(target) != want {
			t.Errorf("%s: %v", target, !want)
		}
	}
	must(t, s, KindSeat, SeatPut{From: 1, Site: "south", Epoch: 2})
	if !s.Protects("near") || s.Protects("far") {
		t.Error("after the move they change roles")
	}
	must(t, s, KindSite, Site{Name: "north", Targets: map[string]string{"near": "file:///n", "far": "file:///moved"}})
	if s.SiteOf("far") != "north" || len(s.Sites["south"].Targets) != 0 {
		t.Errorf("a target is at one site: %+v", s.Sites)
	}
	if !example(t).Protects("near") {
		t.Error("without a seat all count")
	}
}

// TestStreamMove: a stream goes to another agent with its volumes and rights, and its former
// agent's lease is void.
func TestStreamMove(t *testing.T) {
	s := raised(t)
	must(t, s, KindGroupPatch, GroupPatch{Name: "g", Agents: &[]string{"a", "c"},
		Standbys: &[]Standby{{Site: "south", Agent: "b"}}})
	must(t, s, KindMarkBegin, begin(1, time.Unix(100, 0)))
	lease := s.Streams[testStream].Lease
	must(t, s, KindStreamMove,
		StreamMove{Stream: testStream, From: "a", To: "b", Backings: map[string]string{"v": "/b/v"}})
	st := s.Streams[testStream]
	if st.Agent != "b" || st.Lease.Number != lease.Number+1 || st.Lease.Epoch != lease.Epoch {
		t.Errorf("%+v", st)
	}
	if v := s.Volumes["v"]; v.Agent != "b" || v.Backing != "/b/v" || !v.Ready {
		t.Errorf("%+v", v)
	}
	if g := s.Groups["g"]; !slices.Equal(g.Agents, []string{"b", "c"}) || g.Revision != 2 {
		t.Errorf("%+v", g)
	}
	if m := s.Barriers["g"]; m.Outcome == "" {
		t.Error("a mark that is on its way counts on the former agent")
	}
	want := []Standby{{Site: "south", Agent: "b"}}
	if s.Seat.Site != "north" || s.StreamOf("g", "a") != nil || s.StreamOf("g", "b") == nil {
		t.Errorf("the group is at %s, by %+v", s.Seat.Site, s.Streams)
	}
	if diff := cmp.Diff(want, s.Groups["g"].Standbys); diff != "" {
		t.Error(diff)
	}
	if _, err := apply(s, KindResyncEnd,
		ResyncEnd{Stream: testStream, Lease: lease, LSN: 5}); !fail.Is(err, fail.Fenced) {
		t.Errorf("under the former lease: %v", err)
	}
	if _, err := apply(s, KindLease, LeaseGrant{Stream: testStream, Agent: "a", Epoch: 2}); !fail.Is(err, fail.Fenced) {
		t.Errorf("a lease for the former agent: %v", err)
	}
	for key := range map[string]bool{"stream/" + testStream.String(): true, "volume/v": true,
		"group/g": true, "mark/g": true} {
		if err := New().Load(key, s.Save(key)); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
}

// TestStreamMoveRefused: a move that was thought out for another state changes nothing.
func TestStreamMoveRefused(t *testing.T) {
	s := raised(t)
	s.Level = LevelOf(KindStreamMove)
	other := uuid.New()
	must(t, s, KindStreamCreate, Stream{ID: other, Group: "g", Agent: "c"})
	must(t, s, KindVolumeCreate, Volume{Name: "w", Group: "g", Stream: other, Agent: "c", SizeBytes: 1, Backing: "/w"})
	must(t, s, KindGroupPut, Group{Name: "h"})
	must(t, s, KindStreamCreate, Stream{ID: uuid.UUID{7}, Group: "h", Agent: "d"})
	must(t, s, KindVolumeCreate,
		Volume{Name: "x", Group: "h", Stream: uuid.UUID{7}, Agent: "d", SizeBytes: 1, Backing: "/v"})
	must(t, s, KindStreamCreate, Stream{ID: uuid.UUID{8}, Group: "h", Agent: "e"})
	must(t, s, KindResyncBegin, ResyncBegin{Stream: uuid.UUID{8}, Gap: Gap{To: change.Point{LSN: 7}}})
	before := saved(s)
	move := func(do func(*StreamMove)) StreamMove {
		r := StreamMove{Stream: testStream, From: "a", To: "b"}
		do(&r)
		return r
	}
	for name, c := range map[string]struct {
		r    StreamMove
		kind fail.Kind
	}{
		"from whom it is not":       {move(func(r *StreamMove) { r.From = "z" }), fail.Fenced},
		"no stream":                 {move(func(r *StreamMove) { r.Stream = uuid.UUID{9} }), fail.NotFound},
		"in the middle of a resync": {StreamMove{Stream: uuid.UUID{8}, From: "e", To: "b"}, fail.Refused},
		"to one that has one":       {move(func(r *StreamMove) { r.To = "c" }), fail.Refused},
		"onto another's backing":    {move(func(r *StreamMove) { r.To = "d" }), fail.Refused},
		"another stream's volume": {move(func(r *StreamMove) { r.Backings = map[string]string{"w": "/q"} }),
			fail.Refused},
		"a volume that is removed": {move(func(r *StreamMove) { r.Backings = map[string]string{"old": "/q"} }),
			fail.Refused},
	} {
		if _, err := apply(s, KindStreamMove, c.r); !fail.Is(err, c.kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if saved(s) != before {
		t.Error("what was refused changed the state")
	}
	s.Level = LevelOf(KindSeatMove) // a forced failover knows from the log what changed
	must(t, s, KindStreamMove, StreamMove{Stream: uuid.UUID{8}, From: "e", To: "b"})
}

// TestGroupPatch: a patch changes what it names, of what was looked at.
func TestGroupPatch(t *testing.T) {
	s := raised(t)
	must(t, s, KindGroupPatch, GroupPatch{Name: "web", Create: true, Owner: "a", Created: time.Unix(9, 0).UTC(),
		Ack: new("local"), PITR: new(PITRFold)})
	must(t, s, KindGroupPatch, GroupPatch{Name: "web", Revision: 1, Ack: new("remote")})
	if g := s.Groups["web"]; g.Ack != "remote" || g.PITR != PITRFold || g.Owner != "a" ||
		g.Created.Unix() != 9 || g.Revision != 2 {
		t.Errorf("%+v", g)
	}
	before := saved(s)
	for name, c := range map[string]struct {
		r    GroupPatch
		kind fail.Kind
	}{
		"of what it was before":     {GroupPatch{Name: "web", Revision: 1, Paused: new(true)}, fail.Retry},
		"of what is not there":      {GroupPatch{Name: "none", Revision: 1}, fail.NotFound},
		"new, and there":            {GroupPatch{Name: "web", Create: true}, fail.Exists},
		"what does not go together": {GroupPatch{Name: "web", Revision: 2, Overflow: new("bitmap")}, fail.Invalid},
	} {
		if _, err := apply(s, KindGroupPatch, c.r); !fail.Is(err, c.kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if saved(s) != before {
		t.Error("what was refused changed the state")
	}
	must(t, s, KindGroupPatch, GroupPatch{Name: "web", Revision: 2, Standbys: &[]Standby{{"south", "b"}}})
	must(t, s, KindGroupPut, Group{Name: "web", Ack: "local"}) // an agent of an earlier release
	if g := s.Groups["web"]; g.Revision != 4 || len(g.Standbys) != 1 || g.Ack != "local" {
		t.Errorf("after a group-put: %+v", g)
	}
}

// TestGroupCommand: the command makes of the old group the new one, at each level.
func TestGroupCommand(t *testing.T) {
	old := &Group{Name: "g", Ack: "local", PITR: PITRFold, Owner: "a", Created: time.Unix(100, 0).UTC(),
		Retention: &Retention{EveryWriteSeconds: 60}, Agents: []string{"b"}}
	next := &Group{Name: "g", Ack: "remote", PITR: PITRFold, Owner: "a", Created: time.Unix(100, 0).UTC(), Paused: true,
		RPOTargetSeconds: 3, OnAckLoss: "degrade", Overflow: "throttle", Agents: []string{}}
	for level, s := range map[int]*State{0: New(), 1: {Level: 1}} {
		fresh := New()
		fresh.Level = s.Level
		kind, v := GroupCommand(level, nil, old)
		must(t, fresh, kind, v)
		if diff := cmp.Diff(old, fresh.Groups["g"], ignoreRevision); diff != "" {
			t.Errorf("level %d, created: %s", level, diff)
		}
		kind, v = GroupCommand(level, fresh.Groups["g"], next)
		must(t, fresh, kind, v)
		if diff := cmp.Diff(next, fresh.Groups["g"], ignoreRevision); diff != "" {
			t.Errorf("level %d, changed: %s", level, diff)
		}
		if got := fresh.Groups["g"].Revision; got != uint64(2*level) {
			t.Errorf("level %d: revision %d", level, got)
		}
	}
}

// TestNoneLeft: a group whose agents and standbys are all taken away has none.
func TestNoneLeft(t *testing.T) {
	s := raised(t)
	must(t, s, KindGroupPatch, GroupPatch{Name: "g", Agents: &[]string{"b"}, Standbys: &[]Standby{{"south", "b"}}})
	next := *s.Groups["g"]
	next.Agents, next.Standbys = nil, nil
	kind, v := GroupCommand(Level, s.Groups["g"], &next)
	must(t, s, kind, v)
	if g := s.Groups["g"]; len(g.Agents) > 0 || len(g.Standbys) > 0 {
		t.Errorf("%+v", g)
	}
}

// ignoreRevision compares groups but for their revision, and no agents like an empty list.
var ignoreRevision = cmp.Options{
	cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Revision" }, cmp.Ignore()),
	cmp.Transformer("agents", func(a []string) string { return strings.Join(a, ",") }),
}

// TestTargetWithoutURL: a target is at one site, whatever is known of its URL.
func TestTargetWithoutURL(t *testing.T) {
	s := raised(t)
	must(t, s, KindSite, Site{Name: "north", Targets: map[string]string{"near": "file:///n", "far": ""}})
	if _, there := s.Sites["south"].Targets["far"]; there || s.SiteOf("far") != "north" {
		t.Errorf("it is at two: %+v, %+v", s.Sites["north"], s.Sites["south"])
	}
}

// TestPlacesLoad: what Apply lets in of places and levels passes Load, whoever proposed it.
func TestPlacesLoad(t *testing.T) {
	long := strings.Repeat("x", maxTargetName+1)
	for name, c := range map[string]struct {
		kind Kind
		v    any
	}{
		"a site without a name":  {KindSite, Site{}},
		"a site that leads out":  {KindSite, Site{Name: "../x"}},
		"a target of no name":    {KindSite, Site{Name: "x", Targets: map[string]string{"": "file:///x"}}},
		"a target of a long one": {KindSite, Site{Name: "x", Targets: map[string]string{long: "file:///x"}}},
		"an odd target":          {KindSite, Site{Name: "x", Targets: map[string]string{"\x1b": "\n"}}},
		"a seat at no site":      {KindSeat, SeatPut{From: 1, Epoch: 1}},
		"a seat of no epoch":     {KindSeat, SeatPut{From: 1, Site: "x"}},
		"a seat of the last one": {KindSeat, SeatPut{From: 1, Epoch: 1 << 63, Site: "x"}},
	} {
		s := raised(t)
		keys, err := apply(s, c.kind, c.v)
		if err != nil {
			continue
		}
		for _, key := range keys {
			if err := New().Load(key, s.Save(key)); err != nil {
				t.Errorf("%s is applied, and not loaded: %v", name, err)
			}
		}
	}
}

// TestAppliedAlike: members that were built with other tables of characters apply alike what
// one of them has proposed.
func TestAppliedAlike(t *testing.T) {
	all := unicode.PrintRanges
	defer func() { unicode.PrintRanges = all }()
	results := map[string]bool{}
	for _, unicode.PrintRanges = range [][]*unicode.RangeTable{all, nil} { // the second knows none
		s := raised(t)
		_, err := apply(s, KindGroupPatch, GroupPatch{Name: "web", Create: true, PITR: new("\u20c0")})
		_, err2 := apply(s, KindSite, Site{Name: "x", Targets: map[string]string{"\u20c0": "file:///x"}})
		results[fmt.Sprint(err, err2, saved(s))] = true
		for _, key := range s.Keys() {
			if err := New().Load(key, s.Save(key)); err != nil {
				t.Error(err)
			}
		}
	}
	if len(results) != 1 {
		t.Errorf("they differ: %v", results)
	}
}

// TestLaterLevelIsNotProposed: what would end the journal on every member is no proposal.
func TestLaterLevelIsNotProposed(t *testing.T) {
	_, body, err := Open(Encode(KindFeatureLevel, FeatureLevel{Level: Level + 1}))
	if err == nil {
		err = Check(KindFeatureLevel, body)
	}
	if !fail.Is(err, fail.Unsupported) {
		t.Error(err)
	}
}
