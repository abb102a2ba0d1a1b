package failback

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pollux-dr/pollux/control/node"
	"github.com/pollux-dr/pollux/control/promote"
	"github.com/pollux-dr/pollux/control/standby"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/twin/branch"
	"github.com/pollux-dr/pollux/replicator/twin/mount"
)

// alone writes what never leaves A: new blocks, overwritten ones, zeros, in both volumes.
func alone(s *sites, a *config.Agent) {
	blocks := []int64{0, 4}
	for block := int64(1); block < 40; block += 2 {
		blocks = append(blocks, block)
	}
	s.write(a, "v", blocks...)
	s.zero(a, "v", 6)
	s.write(a, "w", 300)
}

const divergentBlocks = 20 + 3 + 1

// since writes at B: some blocks that A has written, too, and others.
func (s *story) since() {
	s.write(s.b, "v", 3, 4, 6, 100, 102, 400)
	s.write(s.b, "w", 2)
	s.inLog()
}

var cuts = []string{"decide", "settle", "extents", "save", "put back v", "put back", "adopt", "aside journal",
	"aside agent", "aside"}

// TestRun: what only A has is saved and can be mounted, its backings go back to the branch point, and
// a standby there follows B from then on; not more is read than differs. A run that was cut short
// behind any step is gone on with by the next, which is cut short behind the one after that; no daemon
// starts before, and one more changes nothing.
func TestRun(t *testing.T) {
	for _, cut := range []bool{false, true} {
		t.Run(fmt.Sprint("cut ", cut), func(t *testing.T) {
			t.Parallel()
			s := newStory(t, alone)
			s.since()
			o := s.options(s.a)
			if cut {
				s.cutShort(o)
			}
			rep, err := Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if rep.Epoch != 1 || rep.Successor.Epoch != 2 || rep.Successor.Site != "busan" || len(rep.Left) > 0 ||
				rep.Resumed || rep.Done != cut {
				t.Errorf("report %+v", rep)
			}
			if rep.DivergentBytes != divergentBlocks*blockBytes || rep.ComparedBytes != 0 {
				t.Errorf("%d divergent bytes, %d compared; want %d, 0", rep.DivergentBytes, rep.ComparedBytes,
					divergentBlocks*blockBytes)
			}
			s.wantBackings(s.a, s.parted)
			s.wantBranch(s.a, rep.Branch, s.lone)
			if _, err := node.Start(t.Context(), s.a, "test", o.Logger); !fail.Is(err, fail.Refused) {
				t.Errorf("an agent starts where a standby is: %v", err)
			}
			if again, err := Run(t.Context(), o); err != nil || !again.Done || again.Branch != rep.Branch {
				t.Errorf("once more: %+v, %v", again, err)
			}
			s.follow(s.a)
		})
	}
}

// cutShort runs a failback again and again, each time up to one step further.
func (s *story) cutShort(o Options) {
	s.t.Helper()
	for _, cut := range cuts {
		o.step = func(name string) error {
			if name == cut {
				return errors.New("cut short")
			}
			return nil
		}
		if _, err := Run(s.t.Context(), o); err == nil || err.Error() != "cut short" {
			s.t.Fatalf("it was not cut short behind %s: %v", cut, err)
		}
		if cut != "aside" {
			s.wantNoDaemon(fail.Refused)
		}
	}
}

// wantNoDaemon: neither an agent nor a standby starts over a half.
func (s *story) wantNoDaemon(kind fail.Kind) {
	s.t.Helper()
	log := s.options(s.a).Logger
	if _, err := node.Start(s.t.Context(), s.a, "test", log); !fail.Is(err, kind) {
		s.t.Errorf("an agent starts over a half: %v", err)
	}
	if _, err := standby.Start(s.t.Context(), s.a, standby.Options{Version: "test", Logger: log}); !fail.Is(err, kind) {
		s.t.Errorf("a standby starts over a half: %v", err)
	}
}

// wantBranch mounts a branch's volumes, and holds them against what the site had last.
func (s *story) wantBranch(c *config.Agent, id string, want map[string][]byte) {
	s.t.Helper()
	b, err := branch.Load(c.State, id)
	s.must(err)
	l := s.log()
	for i := range b.Volumes {
		v := &b.Volumes[i]
		image, err := BaseImage(s.t.Context(), l, b, v, s.dir)
		s.must(err)
		d, err := b.Mount(s.t.Context(), c.State, v, image, mount.Options{Dir: s.dir})
		s.must(err)
		got := make([]byte, volumeBytes)
		s.must(d.ReadAt(s.t.Context(), got, 0))
		if at := differ(got, want[v.Name]); at >= 0 {
			s.t.Errorf("the branch of %s differs in block %d", v.Name, at)
		}
		if err := d.Zero(s.t.Context(), 0, 4096, false, false); !fail.Is(err, fail.Refused) || !d.Info().ReadOnly {
			s.t.Errorf("a branch takes writes: %v", err)
		}
		s.must(d.Close())
		s.must(image.Close())
	}
}

// TestTransferred: not more blocks are read from the store than 1.1 times what diverged and what
// changed since.
func TestTransferred(t *testing.T) {
	t.Parallel()
	s := newStory(t, alone)
	s.since()
	const changed = 7 * blockBytes
	rep, err := Run(t.Context(), s.options(s.a))
	if err != nil {
		t.Fatal(err)
	}
	back := s.blocks.Load()
	if rep.PayloadBytes > rep.DivergentBytes || rep.ReadBytes > rep.DivergentBytes {
		t.Errorf("%d bytes were put back, and %d read, of %d", rep.PayloadBytes, rep.ReadBytes, rep.DivergentBytes)
	}
	n := s.engine(s.a)
	if most := (rep.DivergentBytes + changed) * 11 / 10; back+n > most {
		t.Errorf("%d and %d bytes of blocks were read, of at most %d", back, n, most)
	}
	s.wantBackings(s.a, s.images)
}

// TestDryRun: nothing is changed.
func TestDryRun(t *testing.T) {
	t.Parallel()
	s := newStory(t, alone)
	before := tree(t, s.a.State)
	o := s.options(s.a)
	o.DryRun = true
	rep, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if rep.DivergentBytes != divergentBlocks*blockBytes || rep.Groups[0].LastLSN <= rep.Groups[0].PointLSN {
		t.Errorf("report %+v", rep)
	}
	if diff := cmp.Diff(before, tree(t, s.a.State)); diff != "" {
		t.Errorf("something changed: %.300s", diff)
	}
	o.DryRun = false
	o.Confirm = func(*Report) error { return fail.New(fail.Refused, "", "", "no") }
	if _, err := Run(t.Context(), o); !fail.Is(err, fail.Refused) {
		t.Errorf("not confirmed: %v", err)
	}
	if diff := cmp.Diff(before, tree(t, s.a.State)); diff != "" {
		t.Errorf("something changed: %.300s", diff)
	}
}

// TestWALLost: without the WAL the volumes are compared with the log, the report says so, and what
// differs is saved all the same.
func TestWALLost(t *testing.T) {
	for _, how := range []string{"gone", "another", "asked for"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			s := newStory(t, alone)
			s.since()
			o := s.options(s.a)
			wal := filepath.Join(s.a.State, "agent", "wal")
			switch how {
			case "gone":
				s.must(os.RemoveAll(wal))
			case "another": // an empty one
				s.must(os.RemoveAll(wal))
				s.must(os.Mkdir(wal, 0o700))
			case "asked for":
				o.Compare = true
			}
			rep, err := Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if g := rep.Groups[0]; !g.Compare || g.Why == "" || rep.ComparedBytes != 2*volumeBytes ||
				rep.DivergentBytes != divergentBlocks*blockBytes {
				t.Errorf("report %+v", rep)
			}
			s.wantBackings(s.a, s.parted)
			s.wantBranch(s.a, rep.Branch, s.lone)
			s.follow(s.a)
		})
	}
}

// TestRefused: where the seat did not move, or there is none, nothing is done.
func TestRefused(t *testing.T) {
	t.Parallel()
	s := newStory(t, alone)
	if _, err := Run(t.Context(), s.options(s.conf("host-c", "daegu"))); !fail.Is(err, fail.NotFound) {
		t.Errorf("a host without a state: %v", err)
	}
	s.closeB()
	if _, err := Run(t.Context(), s.options(s.b)); !fail.Is(err, fail.Refused) || fail.HintOf(err) == "" {
		t.Errorf("the seat: %v", err)
	}
	backing := filepath.Join(s.a.State, "volumes", "v.img")
	s.must(os.Rename(backing, backing+".away"))
	if _, err := Run(t.Context(), s.options(s.a)); !fail.Is(err, fail.NotFound) {
		t.Errorf("without a backing: %v", err)
	}
	s.must(os.WriteFile(backing, make([]byte, volumeBytes), 0o600))
	if _, err := Run(t.Context(), s.options(s.a)); !fail.Is(err, fail.Refused) {
		t.Errorf("with another file in its place: %v", err)
	}
	if r, err := branch.List(s.a.State); err != nil || len(r) > 0 {
		t.Errorf("a branch was made: %v %v", r, err)
	}
}

// TestCircle: A goes back, takes the journal over again, and B goes back in its turn.
func TestCircle(t *testing.T) {
	t.Parallel()
	s := newStory(t, alone)
	s.since()
	if _, err := Run(t.Context(), s.options(s.a)); err != nil {
		t.Fatal(err)
	}
	s.follow(s.a)
	s.away()
	inLog := s.snapshot()
	s.write(s.b, "v", 7)
	lone := s.snapshot()
	s.closeB()
	s.back()
	s.images = inLog
	o := s.promotion(s.a)
	o.Overwrite, o.Agents = true, []string{"host-b"}
	if _, err := promote.Force(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	d := s.start(s.a)
	defer d.Close()
	s.write(s.a, "v", 9)
	s.inLog()
	rep, err := Run(t.Context(), s.options(s.b))
	if err != nil {
		t.Fatal(err)
	}
	if rep.Epoch != 2 || rep.Successor.Epoch != 3 || rep.DivergentBytes != blockBytes {
		t.Errorf("report %+v", rep)
	}
	s.wantBranch(s.b, rep.Branch, lone)
	s.follow(s.b)
}
