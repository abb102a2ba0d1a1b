package failback

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/journal"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin/gc"
)

// TestNotKept: where retention has let go of the branch point, the volumes are compared with the newest
// point, and go there.
func TestNotKept(t *testing.T) {
	t.Parallel()
	s := newStory(t, alone)
	retention := "every_write=1m"
	s.call(s.b, api.VerbGroupPut, api.GroupPut{Name: "g", Retention: &retention})
	s.since()
	s.growOld()
	st, err := objstore.Open(t.Context(), "file://"+s.store(), objstore.Options{})
	s.must(err)
	defer st.Close()
	for end := time.Now().Add(2 * time.Minute); !s.forgotten(st); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the branch point is kept")
		}
	}
	rep, err := Run(t.Context(), s.options(s.a))
	if err != nil {
		t.Fatal(err)
	}
	if g := rep.Groups[0]; !g.Compare || g.BaseLSN <= g.PointLSN || g.Why == "" {
		t.Errorf("report %+v", rep)
	}
	s.wantBackings(s.a, s.images)
	s.wantBranch(s.a, rep.Branch, s.lone)
	s.follow(s.a)
}

// growOld has the journal say that all which is there now is older than its group's window, as it
// does when it has run for so long: that is a minute at the least, and by no clock that could be set.
func (s *story) growOld() {
	s.t.Helper()
	s.closeB()
	j, err := journal.Open(s.t.Context(), journal.Options{Dir: filepath.Join(s.b.State, "journal"), Site: s.b.Site,
		Targets: []string{"far"}, Required: []string{"far"},
		Places: map[string]journal.TargetPlace{"far": {Site: "busan", URL: "file://" + s.store()}}})
	s.must(err)
	now := time.Now().UTC()
	h := state.StreamHorizon{Groups: map[string]time.Time{"g": now}, Streams: map[change.StreamID]uint64{}}
	for id, p := range j.TargetPoints("far") {
		h.Streams[id] = p.LSN
	}
	_, err = j.Propose(state.KindStreamHorizon, h)
	s.must(err)
	s.must(j.Close())
	s.db = s.start(s.b)
}

// forgotten collects garbage, and reports whether the branch point is not kept any more.
func (s *story) forgotten(st objstore.Store) bool {
	_, err := gc.Collect(s.t.Context(), st, gc.CollectOptions{SparseBelow: gc.DefaultSparseBelow})
	s.must(err)
	_, err = s.log().PointOf(s.t.Context(), "v", "128") // 64 writes to each of two volumes
	return fail.Is(err, fail.NotFound)
}
