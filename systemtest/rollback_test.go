package systemtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// TestRolledBack: a seat hands over under load, and is killed again and again while it becomes a
// standby; then the new seat rolls back, and the former one is killed while it takes that up. What it
// serves in the end is what was acknowledged at the hand-over, byte for byte, and what was written
// since is in the log.
func TestRolledBack(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	s := newSite(t, siteConf{target: "      site: elsewhere\nsite: seoul\n"})
	s.mustStart()
	s.volume("exact", "one", "16MiB")
	w := newWriter(s, "exact", "one", exactBytes, rand.New(rand.NewPCG(r.Uint64(), 1)))
	w.marked = true // by the hand-over
	w.connect()
	done := make(chan error, 1)
	go func() { done <- w.run(context.Background()) }()
	w.progress(300)
	f := newFollower(t, s, "  groups: [exact]\n")
	f.start()
	f.follows("one")
	w.progress(100)
	began := time.Now()
	if o := s.pollux("failover", "--planned", "--to", "elsewhere", "--wait", "60s", "--limit", "60s"); o.code != 0 {
		t.Fatalf("code %d: %s", o.code, o.stderr)
	}
	var bad *wrong
	if err := <-done; errors.As(err, &bad) {
		t.Fatal(bad)
	}
	t.Logf("handed over in %.3f s", time.Since(began).Seconds())
	s.killed(r, 5)
	n := f.asSite()
	until(t, time.Minute, "the new site serves", func() error { _, err := n.tryStatus(); return err })
	until(t, time.Minute, "it says that the way back is open", func() error {
		if st, err := n.tryStatus(); err != nil || st.Journal.WayBack == nil {
			return fmt.Errorf("%+v, %v", st.Journal, err)
		}
		return nil
	})
	was := bytes.Clone(w.h.image)
	if w.pending != nil && n.holds("one", was) != nil { // it was sent, and not answered
		w.h.add(*w.pending, 1)
		was = bytes.Clone(w.h.image)
	}
	if err := n.holds("one", was); err != nil {
		t.Fatal(err)
	}
	c := n.dial("one")
	for off := int64(0); off < exactBytes; off += exactBytes / 8 {
		if err := c.WriteAt(t.Context(), bytes.Repeat([]byte{0xbb}, 32<<10), off, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	until(t, time.Minute, "the former seat follows", func() error {
		if st, err := s.tryStatus(); err != nil || st.Standby == nil {
			return fmt.Errorf("%+v, %v", st.Journal, err)
		}
		return nil
	})
	rolled := make(chan outcome, 1)
	go func() { rolled <- n.pollux("failover", "--rollback", "--yes", "--wait", "60s", "--limit", "60s") }()
	s.killed(r, 5)
	if o := <-rolled; o.code != 0 || !strings.Contains(o.stdout, "has its seat at seoul again") {
		t.Errorf("code %d: %s%s", o.code, o.stdout, o.stderr)
	}
	until(t, time.Minute, "the former seat serves what it had", func() error { return s.holds("one", was) })
	s.drained("exact", time.Minute)
	if last, _ := s.restore("one", "before-rollback-3"); bytes.Equal(last, was) || last[0] != 0xbb {
		t.Error("what was written at the other site is not in the log")
	}
	if newest, _ := s.restore("one", ""); !bytes.Equal(newest, was) {
		t.Error("the log's newest point is not that of the hand-over")
	}
}

// killed kills the agent, or what it is by then, again and again, and starts it again.
func (s *site) killed(r *rand.Rand, times int) {
	for range times {
		time.Sleep(time.Duration(r.IntN(400)) * time.Millisecond) // when is random, nothing is waited for
		s.agent.Kill()
		s.launch()
	}
}

// holds reads all of a volume.
func (s *site) holds(volume string, want []byte) error {
	if !s.agentRuns() {
		return errors.New("it does not serve")
	}
	c := s.dial(volume)
	defer c.Close()
	got := make([]byte, len(want))
	for off := 0; off < len(got); off += 1 << 20 {
		end := min(off+1<<20, len(got))
		if err := c.ReadAt(s.t.Context(), got[off:end], int64(off)); err != nil {
			return err
		}
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("volume %s differs at %d", volume, firstDifference(got, want))
	}
	return nil
}

func (s *site) agentRuns() bool {
	st, err := s.tryStatus()
	return err == nil && st.Standby == nil && len(st.Groups) > 0 && st.Journal.Superseded == nil
}

func firstDifference(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}
