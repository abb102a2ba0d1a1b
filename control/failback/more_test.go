package failback

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/pollux-dr/pollux/control/promote"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin/branch"
)

// failing is a store that goes away after some reads of blocks.
type failing struct {
	objstore.Store
	left *atomic.Int64
}

func (f failing) Read(ctx context.Context, name string, off, n int64, buf []byte) ([]byte, error) {
	if off > 0 && f.left.Add(-1) < 0 {
		return nil, fail.New(fail.Retry, "read", name, "the store is away")
	}
	return f.Store.Read(ctx, name, off, n, buf)
}

// TestStoreGoesAway: a run that ends in the middle of a comparison or of putting back is gone on with,
// and the branch has what was there before it.
func TestStoreGoesAway(t *testing.T) {
	for _, compare := range []bool{false, true} {
		t.Run(fmt.Sprint("compare ", compare), func(t *testing.T) {
			t.Parallel()
			s := newStory(t, alone)
			s.since()
			o := s.options(s.a)
			o.Compare = compare
			runs := 0
			for reads := int64(0); ; reads++ {
				var left atomic.Int64
				left.Store(reads)
				o.Open = func(ctx context.Context, t config.Target) (objstore.Store, func(), error) {
					st, err := objstore.Open(ctx, t.URL, objstore.Options{ReadOnly: true})
					return failing{st, &left}, func() {}, err
				}
				rep, err := Run(t.Context(), o)
				if err == nil {
					s.wantBackings(s.a, s.parted)
					s.wantBranch(s.a, rep.Branch, s.lone)
					break
				}
				runs++
				if !fail.Is(err, fail.Retry) || runs > 1000 {
					t.Fatal(err)
				}
			}
			if runs < 2 {
				t.Errorf("it failed %d times only", runs)
			}
			s.follow(s.a)
		})
	}
}

// TestLaterEpochs: of several epochs behind the former seat's the first one says where it parted.
func TestLaterEpochs(t *testing.T) {
	t.Parallel()
	s := newStory(t, alone)
	s.since()
	s.closeB()
	c := s.conf("host-c", "daegu")
	if _, err := promote.Force(t.Context(), s.promotion(c)); err != nil {
		t.Fatal(err)
	}
	d := s.start(c)
	defer d.Close()
	s.write(c, "v", 11)
	s.inLog()
	rep, err := Run(t.Context(), s.options(s.a))
	if err != nil {
		t.Fatal(err)
	}
	if rep.Successor.Epoch != 2 || rep.Successor.Site != "busan" || rep.DivergentBytes != divergentBlocks*blockBytes {
		t.Errorf("report %+v", rep)
	}
	s.wantBackings(s.a, s.parted)
	s.wantBranch(s.a, rep.Branch, s.lone)
	s.follow(s.a)
}

// TestNothingDivergent: a seat that lost nothing goes back as well, with an empty branch.
func TestNothingDivergent(t *testing.T) {
	t.Parallel()
	s := newStory(t, func(*sites, *config.Agent) {})
	s.since()
	rep, err := Run(t.Context(), s.options(s.a))
	if err != nil || rep.DivergentBytes != 0 || rep.PayloadBytes != 0 || rep.ComparedBytes != 0 {
		t.Fatalf("%+v, %v", rep, err)
	}
	s.wantBackings(s.a, s.parted)
	s.follow(s.a)
}

// TestLeft: a volume that the log does not have stays as it is.
func TestLeft(t *testing.T) {
	t.Parallel()
	s := newStory(t, func(s *sites, a *config.Agent) {
		alone(s, a)
		s.createVolume(a, "x")
		s.write(a, "x", 1)
	})
	delete(s.images, "x")
	s.since()
	rep, err := Run(t.Context(), s.options(s.a))
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Left) != 1 || rep.Left[0].Volume != "x" || len(rep.Volumes) != 2 {
		t.Errorf("report %+v", rep)
	}
	s.wantBackings(s.a, map[string][]byte{"x": s.lone["x"]})
	s.wantBackings(s.a, s.parted)
	s.follow(s.a)
}

// TestRemove: a branch that is needed is not removed, and one that is not goes with all that is in it.
func TestRemove(t *testing.T) {
	t.Parallel()
	s := newStory(t, alone)
	o := s.options(s.a)
	o.step = func(name string) error {
		if name == "save" {
			return fail.New(fail.Retry, "", "", "cut short")
		}
		return nil
	}
	if _, err := Run(t.Context(), o); err == nil {
		t.Fatal("it was not cut short")
	}
	all, err := branch.List(s.a.State)
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	id := all[0].ID
	if err := Remove(s.a.State, id, false); !fail.Is(err, fail.Refused) {
		t.Errorf("while it is needed: %v", err)
	}
	o.step = nil
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	b := all[0]
	d, err := Differences(t.Context(), s.log(), s.a.State, b, &b.Volumes[0])
	if err != nil || d.BothBytes != 0 || d.Bytes == 0 {
		t.Errorf("before B wrote anything: %+v %v", d, err)
	}
	s.since()
	d, err = Differences(t.Context(), s.log(), s.a.State, b, &b.Volumes[0])
	if err != nil || d.ChangedBytes != 6*blockBytes || d.BothBytes != 3*blockBytes || len(d.Both) != 2 {
		t.Errorf("%+v %v", d, err)
	}
	for _, dry := range []bool{true, false} {
		if err := Remove(s.a.State, id, dry); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(branch.PathOf(s.a.State, id), "agent")); (err == nil) != dry {
			t.Errorf("dry run %v: %v", dry, err)
		}
	}
	if err := Remove(s.a.State, id, false); !fail.Is(err, fail.NotFound) {
		t.Errorf("once more: %v", err)
	}
	if rep, err := Run(t.Context(), o); err != nil || !rep.Done {
		t.Errorf("behind that: %+v %v", rep, err)
	}
}
