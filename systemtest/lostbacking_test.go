package systemtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestLostBacking loses the disk of a volume's backing and nothing else. The
// volume goes on from its newest point in the store, restored to the same place,
// and what the store lacks comes from the agent's WAL and arena: every
// acknowledged write is there, flushed or not.
func TestLostBacking(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		name   string
		killed bool
		before bool // it is restored before the agent starts again
	}{{"stopped", false, false}, {"killed", true, false}, {"killed, restored first", true, true}} {
		t.Run(x.name, func(t *testing.T) {
			s, w := newSmall(t)
			for round := range 2 {
				s.drained("g", time.Minute)
				s.verb("group", "pause", "g") // the store lacks what follows
				w.write(120)
				for range 30 { // acknowledged, not flushed
					if err := w.do(randomOp(w.rand, 0, w.h.size)); err != nil {
						t.Fatal(err)
					}
				}
				if x.killed {
					s.agent.Kill()
				} else {
					s.stop()
				}
				img := filepath.Join(s.conf.state, "volumes", "v.img")
				if err := os.Remove(img); err != nil {
					t.Fatal(err)
				}
				must := func(args ...string) {
					if o := s.pollux(args...); o.code != 0 {
						t.Fatalf("%v: %s", args, o.stderr)
					}
				}
				restore := func() { must(append([]string{"restore", "v", "-o", img}, s.storeArgs()...)...) }
				if x.before {
					restore()
				}
				s.mustStart()
				if g := s.group("g"); g.State != "Suspended" {
					t.Fatalf("round %d: without its backing the group is %s", round, g.State)
				}
				if !x.before {
					restore()
				}
				must("volume", "accept", "v", "--yes", "--socket", s.socket())
				if g := s.group("g"); g.State != "Suspended" ||
					!strings.Contains(g.Reason, "is accepted: restart the agent") {
					t.Errorf("after accept the group is %s: %s", g.State, g.Reason)
				}
				if x.killed {
					s.agent.Kill()
				} else {
					s.stop()
				}
				s.mustStart()
				w.connect()
				sameBytes(t, "the volume with its new backing", readAll(t, s.dial("v")), w.h.image)
				s.verb("group", "resume", "g")
			}
			w.write(50)
			s.drained("g", time.Minute)
			if lsn := w.checkNewest(); lsn != w.h.lsn {
				t.Errorf("the twin ends at LSN %d, the volume at %d", lsn, w.h.lsn)
			}
		})
	}
}
