package failback

import (
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin/gc"
)

// TestNotKept: where retention has let go of the branch point, the volumes are compared with the newest
// point, and go there. A point grows old by the time that a journal runs, and by no clock that could be
// set: it takes a minute, beside the other tests, of which this is the first for that reason.
func TestNotKept(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a minute")
	}
	t.Parallel()
	s := newStory(t, alone)
	retention := "every_write=1m"
	s.call(s.b, api.VerbGroupPut, api.GroupPut{Name: "g", Retention: &retention})
	s.since()
	st, err := objstore.Open(t.Context(), "file://"+s.store(), objstore.Options{})
	s.must(err)
	defer st.Close()
	for end := time.Now().Add(2 * time.Minute); !s.forgotten(st); time.Sleep(time.Second) {
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

// forgotten collects garbage, and reports whether the branch point is not kept any more.
func (s *story) forgotten(st objstore.Store) bool {
	_, err := gc.Collect(s.t.Context(), st, gc.CollectOptions{SparseBelow: gc.DefaultSparseBelow})
	s.must(err)
	_, err = s.log().PointOf(s.t.Context(), "v", "128") // 64 writes to each of two volumes
	return fail.Is(err, fail.NotFound)
}
