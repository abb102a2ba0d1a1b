package failback

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/standby"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/twin/branch"
)

// TestHandedOver: a host that has handed its journal over becomes a standby without a branch, wherever
// that is cut short; one that has more than the log, or was taken over by force, does not.
func TestHandedOver(t *testing.T) {
	s := newSites(t)
	a, b := s.conf("host-a", "seoul"), s.conf("host-b", "busan")
	d := s.start(a)
	s.call(a, api.VerbGroupPut, api.GroupPut{Name: "g", Create: true})
	for _, name := range []string{"v", "w"} {
		s.createVolume(a, name)
		s.write(a, name, 2)
	}
	there, err := standby.Start(t.Context(), b, standby.Options{Version: "test", Logger: s.options(b).Logger})
	s.must(err)
	defer func() { s.must(there.Close()) }()
	s.call(a, api.VerbHandOver, api.HandOver{To: "busan", WaitSeconds: 120, LimitSeconds: 120})
	select {
	case <-d.HandedOver():
	case <-time.After(2 * time.Minute):
		t.Fatal("the agent of the former seat does not know that it handed over")
	}
	s.must(d.Close())
	s.write(b, "v", 6) // which only B has
	delete(s.images, "v")

	o := s.options(a)
	o.HandedOver = true
	looked := &run{Options: o, conf: a, rep: &Report{DryRun: true}}
	looked.DryRun = true
	s.must(looked.begin(t.Context()))
	for what, change := range map[string]func(r *run){
		"a write that the log does not have": func(r *run) { r.rec.Streams[0].End.LSN++ },
		"another history":                    func(r *run) { r.rec.Streams[0].End.Hash[0]++ },
		"not known what it has":              func(r *run) { r.rec.Streams[0].Compare = true },
		"a volume that is not followed":      func(r *run) { r.leave("x", "it was removed") },
		"another epoch's hand-over":          func(r *run) { r.found.log.State.Moves[0].How = "forced" },
	} {
		r := *looked
		rec, rep := *looked.rec, *looked.rep
		moves := r.found.log.State.Moves
		rec.Streams, r.found.log.State.Moves = slices.Clone(rec.Streams), slices.Clone(moves)
		r.rec, r.rep = &rec, &rep
		if change(&r); !fail.Is(r.nothingOwn(), fail.Fenced) {
			t.Errorf("%s: %v", what, r.nothingOwn())
		}
		r.found.log.State.Moves = moves
	}
	looked.found.close()

	var seen []string
	o.step = func(name string) error {
		if slices.Contains(seen, name) {
			return nil
		}
		seen = append(seen, name)
		return errors.New("cut short")
	}
	for tries := 0; ; tries++ {
		rep, err := Run(t.Context(), o)
		if err == nil {
			if rep.DivergentBytes != 0 || len(rep.Volumes) != 2 {
				t.Errorf("report %+v", rep)
			}
			break
		}
		if err.Error() != "cut short" || tries > 20 {
			t.Fatal(err)
		}
	}
	if len(seen) < 8 {
		t.Errorf("cut behind %q only", seen)
	}
	if list, err := branch.List(a.State); len(list) > 0 || err != nil {
		t.Errorf("branches %+v, %v", list, err)
	}
	for _, name := range []string{"agent", "journal", "superseded.json"} {
		if _, err := os.Stat(filepath.Join(a.State, name)); err == nil {
			t.Errorf("%s is there", name)
		}
	}
	s.wantBackings(a, s.images)
	if rep, err := Run(t.Context(), o); err != nil || !rep.Done {
		t.Errorf("once more: %+v, %v", rep, err)
	}
}

// TestHandedOverByForce: whoever was taken over by force does not follow by itself.
func TestHandedOverByForce(t *testing.T) {
	s := newStory(t, func(*sites, *config.Agent) {})
	s.since()
	o := s.options(s.a)
	o.HandedOver = true
	if _, err := Run(t.Context(), o); !fail.Is(err, fail.Fenced) {
		t.Error(err)
	}
}
