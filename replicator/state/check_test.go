package state

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// TestCheck: what no proposer may say is refused before it is in Raft's log.
func TestCheck(t *testing.T) {
	id := uuid.New()
	lease := change.Lease{Epoch: 1, Number: 1}
	text := string(make([]byte, 10))
	for name, c := range map[string]struct {
		kind Kind
		v    any
	}{
		"group without a name": {KindGroupPut, Group{}},
		"group's ack":          {KindGroupPut, Group{Name: "g", Ack: "never"}},
		"group's overflow":     {KindGroupPut, Group{Name: "g", Overflow: "drop"}},
		"bitmap with remote":   {KindGroupPut, Group{Name: "g", Ack: "remote", Overflow: "bitmap"}},
		"group's pitr":         {KindGroupPut, Group{Name: "g", PITR: "\x1b[2J"}},
		"group's RPO":          {KindGroupPut, Group{Name: "g", RPOTargetSeconds: -1}},
		"group's owner":        {KindGroupPut, Group{Name: "g", Owner: "a\x1b[2J"}},
		"group's agents":       {KindGroupPut, Group{Name: "g", Agents: []string{"a", ""}}},
		"stream with a lease":  {KindStreamCreate, Stream{ID: id, Group: "g", Agent: "a", Lease: lease}},
		"stream with gaps":     {KindStreamCreate, Stream{ID: id, Group: "g", Agent: "a", Gaps: []Gap{{}}}},
		"stream with resyncs":  {KindStreamCreate, Stream{ID: id, Group: "g", Agent: "a", Resyncs: []Resync{{}}}},
		"stream with a number": {KindStreamCreate, Stream{ID: id, Group: "g", Agent: "a", Number: 1}},
		"stream without an id": {KindStreamCreate, Stream{Group: "g", Agent: "a"}},
		"volume that is ready": {KindVolumeCreate,
			Volume{Name: "v", Group: "g", Stream: id, Agent: "a", SizeBytes: 1, Ready: true}},
		"volume that is too large": {KindVolumeCreate,
			Volume{Name: "v", Group: "g", Stream: id, Agent: "a", SizeBytes: 1 << 62}},
		"volume whose path forges": {KindVolumeCreate,
			Volume{Name: "v", Group: "g", Stream: id, Agent: "a", SizeBytes: 1, Backing: text}},
		"volume outside": {KindVolumeCreate,
			Volume{Name: "../v", Group: "g", Stream: id, Agent: "a", SizeBytes: 1}},
		"ready beyond all LSNs": {KindVolumeReady, VolumeReady{Name: "v", FirstLSN: 1 << 63}},
		"bookmark at LSN 0":     {KindBookmarkAdd, Bookmark{Name: "b", Group: "g", Stream: id}},
		"bookmark beyond all":   {KindBookmarkAdd, Bookmark{Name: "b", Group: "g", Stream: id, LSN: 1 << 63}},
		"bookmark of a mark": {KindBookmarkAdd,
			Bookmark{Name: "b", Group: "g", Stream: id, LSN: 1, Points: map[change.StreamID]uint64{id: 1}}},
		"lease of nobody":     {KindLease, LeaseGrant{Stream: id}},
		"audit with a number": {KindAudit, Audit{Number: 7}},
		"gap backwards":       {KindResyncBegin, ResyncBegin{Stream: id, Lease: lease}},
		"gap to the end of all LSNs": {KindResyncBegin,
			ResyncBegin{Stream: id, Lease: lease, Gap: Gap{To: change.Point{LSN: 1<<64 - 1}}}},
		"end at LSN 0":        {KindResyncEnd, ResyncEnd{Stream: id, Lease: lease}},
		"mark without an id":  {KindMarkBegin, MarkBegin{Name: "b", Group: "g", LimitSeconds: 1}},
		"mark void by a book": {KindMarkVoid, MarkStep{ID: id, Group: "g", Why: strings.Repeat("x", maxText+1)}},
		"what is mostly unknown": {KindVolumeRemove,
			map[string]string{"name": "v", "x": strings.Repeat("x", 2*maxUnknown)}},
		"horizon after all": {KindHorizon,
			Horizon{Groups: map[string]time.Time{"g": farFuture.AddDate(1, 0, 0)}}},
		"group-put with a revision":  {KindGroupPut, Group{Name: "g", Revision: 1}},
		"group-put with standbys":    {KindGroupPut, Group{Name: "g", Standbys: []Standby{{"s", "a"}}}},
		"feature level 0":            {KindFeatureLevel, FeatureLevel{}},
		"patch with a field unknown": {KindGroupPatch, map[string]any{"name": "g", "color": "red"}},
		"patch with another's owner": {KindGroupPatch, GroupPatch{Name: "g", Owner: "a"}},
		"patch with an odd ack":      {KindGroupPatch, GroupPatch{Name: "g", Ack: new("never")}},
		"new group with a revision":  {KindGroupPatch, GroupPatch{Name: "g", Create: true, Revision: 3}},
		"standbys twice": {KindGroupPatch,
			GroupPatch{Name: "g", Standbys: &[]Standby{{"s", "a"}, {"s", "a"}}}},
		"seat of epoch 0":           {KindSeat, SeatPut{Site: "s"}},
		"seat that jumps":           {KindSeat, SeatPut{From: 2, Epoch: 4, Site: "s"}},
		"seat that goes back":       {KindSeat, SeatPut{From: 2, Epoch: 1, Site: "s"}},
		"seat of an odd site":       {KindSeat, SeatPut{From: 2, Epoch: 3, Site: "../s"}},
		"site whose URL forges":     {KindSite, Site{Name: "s", Targets: map[string]string{"x": text}}},
		"stream to its own agent":   {KindStreamMove, StreamMove{Stream: id, From: "a", To: "a"}},
		"stream to nobody":          {KindStreamMove, StreamMove{Stream: id, From: "a"}},
		"what is no command":        {KindFence, Fence{}},
		"a kind of a later release": {Kind(999), struct{}{}},
		"another type":              {KindLease, "lease"},
	} {
		body, err := json.Marshal(c.v)
		if err != nil {
			t.Fatal(err)
		}
		if err := Check(c.kind, body); !fail.Is(err, fail.Invalid) && !fail.Is(err, fail.Unsupported) &&
			!fail.Is(err, fail.Damaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCreateStream: what a new stream claims of itself is not believed, not even where
// a log of an earlier release has it.
func TestCreateStream(t *testing.T) {
	s := New()
	must(t, s, KindGroupPut, Group{Name: "g", Horizon: time.Now()})
	must(t, s, KindStreamCreate, Stream{ID: testStream, Group: "g", Agent: "a", Number: 9, Resyncs: []Resync{{}},
		Lease: change.Lease{Epoch: 9, Number: 9}})
	must(t, s, KindVolumeCreate, Volume{Name: "v", Group: "g", Stream: testStream, Agent: "a", SizeBytes: 4096,
		Backing: "/v", Ready: true, FirstLSN: 7, Removed: true})
	must(t, s, KindLease, LeaseGrant{Stream: testStream, Agent: "a", Epoch: 1})
	lease := change.Lease{Epoch: 1, Number: 1}
	if _, err := apply(s, KindResyncEnd,
		ResyncEnd{Stream: testStream, Lease: lease, LSN: 5}); !fail.Is(err, fail.NotFound) {
		t.Errorf("the end of a resync that never began: %v", err)
	}
	if st := s.Streams[testStream]; st.Number != 1 || st.Lease != lease || st.Resyncing() {
		t.Errorf("stream %+v", st)
	}
	if v := s.Volumes["v"]; v.Ready || v.FirstLSN != 0 || v.Removed || !s.Groups["g"].Horizon.IsZero() {
		t.Errorf("volume %+v, horizon %v", v, s.Groups["g"].Horizon)
	}
}

// TestForgedTexts: texts of peers are one printable line in the state.
func TestForgedTexts(t *testing.T) {
	s := example(t)
	must(t, s, KindAudit, Audit{Who: "a\n2026-11-28 operator/kim", Verb: "x\x1b[2J", Outcome: "hook failed:\nline 2"})
	if a := s.Audits[s.AuditCount()%KeptAudits]; strings.ContainsAny(a.Who+a.Verb+a.Outcome, "\n\x1b") {
		t.Errorf("%+v", a)
	}
}

// FuzzApply: whatever a command says, and whatever came before it, applying it ends
// with a change or an error, and what it changed can be saved and loaded.
func FuzzApply(f *testing.F) {
	add := func(kind Kind, v any) {
		body, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint16(kind), body, uint16(KindResyncEnd),
			[]byte(`{"stream":"11111111-2222-3333-4444-555555555555","lease":{"epoch":2,"number":1},"lsn":5}`))
	}
	id := uuid.New()
	add(KindGroupPut, Group{Name: "h", Ack: "remote", Agents: []string{"b"}})
	add(KindStreamCreate, Stream{ID: id, Group: "g", Agent: "b", Resyncs: []Resync{{}}, Gaps: []Gap{{}}})
	add(KindVolumeCreate, Volume{Name: "w", Group: "g", Stream: testStream, Agent: "a", SizeBytes: 4096, Backing: "/w"})
	add(KindVolumeReady, VolumeReady{Name: "v", FirstLSN: 7})
	add(KindVolumeRemove, VolumeRemove{Name: "v"})
	add(KindBookmarkAdd,
		Bookmark{Name: "c", Group: "g", Stream: testStream, LSN: 9, Points: map[change.StreamID]uint64{id: 1}})
	add(KindBookmarkRemove, BookmarkRemove{Name: "b", Group: "g"})
	add(KindLease, LeaseGrant{Stream: testStream, Agent: "a", Epoch: 2})
	add(KindHeartbeat, Heartbeat{})
	add(KindAudit, Audit{Who: "operator/kim", Verb: "group-put", Outcome: "ok"})
	add(KindResyncBegin,
		ResyncBegin{Stream: testStream, Lease: change.Lease{Epoch: 2, Number: 1}, Gap: Gap{To: change.Point{LSN: 7}}})
	add(KindMarkBegin, MarkBegin{ID: id, Name: "m", Group: "g", LimitSeconds: 1})
	add(KindMarkHeld, MarkStep{ID: id, Group: "g", Stream: testStream, LSN: 1})
	add(KindMarkConfirm, MarkStep{ID: id, Group: "g", Stream: testStream})
	add(KindMarkVoid, MarkStep{ID: id, Group: "g", Why: "no"})
	add(KindFeatureLevel, FeatureLevel{Level: 1})
	add(KindGroupPatch, GroupPatch{Name: "g", Standbys: &[]Standby{{"s", "b"}}})
	add(KindSite, Site{Name: "s", Targets: map[string]string{"x": "file:///x"}})
	add(KindSeat, SeatPut{Site: "s", Epoch: 1})
	add(KindStreamMove, StreamMove{Stream: testStream, From: "a", To: "b", Backings: map[string]string{"v": "/w"}})
	add(KindSeatMove, SeatMove{From: 1, Epoch: 2, Site: "s", First: 9, How: MoveForced})
	add(KindHorizon, Horizon{Groups: map[string]time.Time{"g": time.Unix(1, 0)}})
	f.Fuzz(func(t *testing.T, kind uint16, body []byte, next uint16, more []byte) {
		s := example(t)
		s.Level = int(kind>>8) % (Level + 1)
		for _, c := range []struct {
			kind Kind
			body []byte
		}{{Kind(kind), body}, {Kind(next), more}, {Kind(kind), body}} {
			_ = Check(c.kind, c.body)
			changed, err := s.Apply(c.kind, c.body)
			if err != nil {
				continue
			}
			for _, key := range changed {
				if err := New().Load(key, s.Save(key)); err != nil {
					t.Fatalf("%v changes %s to what cannot be loaded: %v", c.kind, key, err)
				}
			}
		}
	})
}
