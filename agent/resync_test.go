package agent

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/agent/backing"
	"github.com/pollux-dr/pollux/internal/change"
)

// overflowRig is an agent with one group whose WAL has overflowed.
type overflowRig struct {
	j    *fakeJournal
	o    Options
	a    *Agent
	s    StreamConf
	fail atomic.Bool
	gate atomic.Pointer[readGate]
	ends endCounter
}

// endCounter counts how often the agent's log says that a resync ended.
type endCounter struct {
	slog.Handler
	n *atomic.Int64
}

func (c endCounter) Enabled(context.Context, slog.Level) bool { return true }

func (c endCounter) Handle(_ context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, "resync ended") {
		c.n.Add(1)
	}
	return nil
}

func newOverflowRig(t *testing.T) *overflowRig {
	r := &overflowRig{j: newFakeJournal(), ends: endCounter{slog.DiscardHandler, new(atomic.Int64)}}
	r.o = overflowing(t, r.j)
	r.o.Logger = slog.New(r.ends)
	r.o.OpenBacking = func(path string, size int64) (backing.Backing, error) {
		b, err := backing.Open(path, size)
		return faultyBacking{b, &r.fail, &r.gate}, err
	}
	var err error
	if r.a, err = Open(r.o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { leave(r.a) })
	r.s, _ = addGroup(t, r.a, "g", 1, OverflowBitmap)
	r.fill(t, 4)
	shipped(t, r.a, r.s.ID)
	r.j.setDown(true)
	r.fill(t, 100)
	eventually(t, "the WAL overflows", func() bool { return streamStatus(r.a, r.s.ID).Overflow != nil })
	return r
}

func (r *overflowRig) fill(t *testing.T, n int) {
	t.Helper()
	dev, err := r.a.Device("g")
	if err != nil {
		t.Fatal(err)
	}
	fillBlocks(t, dev, n)
}

// stopCopy stops the next resync in the middle of its first copy.
func (r *overflowRig) stopCopy(t *testing.T) *readGate {
	t.Helper()
	st := r.a.streams[r.s.ID]
	eventually(t, "all is applied", func() bool {
		st.mu.Lock()
		defer st.mu.Unlock()
		return st.apply.applied.LSN == st.order.nextLSN-1
	})
	g := &readGate{off: r.firstChanged(), entered: make(chan struct{}), release: make(chan struct{})}
	r.gate.Store(g)
	return g
}

func (r *overflowRig) firstChanged() int64 {
	st := r.a.streams[r.s.ID]
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, m := range st.overflow.dropped.maps {
		e, _ := m.extents(fakeVolumeBytes)
		return e[0].Off
	}
	return 0
}

func TestResyncEnds(t *testing.T) {
	r := newOverflowRig(t)
	r.j.setDown(false)
	shipped(t, r.a, r.s.ID)
	if _, resyncing := r.j.at(r.s.ID); resyncing || r.j.resyncs.Load() != 1 {
		t.Errorf("resyncing %v after %d resyncs", resyncing, r.j.resyncs.Load())
	}
	if _, err := os.Stat(r.a.overflowPath(r.s.ID)); !os.IsNotExist(err) {
		t.Errorf("the bitmap stays: %v", err)
	}
}

// TestBeginIsNotHeard: the journal takes ResyncBegin and dies; the WAL overflows once
// more before it is back. It stands where nobody was told, and is recognised there.
func TestBeginIsNotHeard(t *testing.T) {
	r := newOverflowRig(t)
	r.j.mu.Lock()
	r.j.dieOnResync, r.j.down = true, false
	r.j.mu.Unlock()
	eventually(t, "a resync begins", func() bool { return r.j.resyncs.Load() == 1 })
	r.fill(t, 100)
	r.j.setDown(false)
	shipped(t, r.a, r.s.ID)
}

// TestEndIsNotHeard: the journal takes ResyncEnd, and its answer is lost. The next session
// ends the resync, and whoever copied does not end it once more.
func TestEndIsNotHeard(t *testing.T) {
	r := newOverflowRig(t)
	r.j.mu.Lock()
	r.j.dieOnEnd, r.j.down = true, false
	r.j.mu.Unlock()
	shipped(t, r.a, r.s.ID)
	st := r.a.streams[r.s.ID]
	eventually(t, "the copier is gone", func() bool {
		st.mu.Lock()
		defer st.mu.Unlock()
		return !st.overflow.resync.working
	})
	if n := r.ends.n.Load(); n != 1 {
		t.Errorf("it ended %d times", n)
	}
}

// TestRebuiltOverflows: an agent that was rebuilt overflows before its first session.
func TestRebuiltOverflows(t *testing.T) {
	j := newFakeJournal()
	j.down = true
	o := overflowing(t, j)
	s := StreamConf{ID: uuid.New(), Number: 1, Group: "g", Policy: Policy{Overflow: OverflowBitmap}}
	at := change.Point{LSN: 500, Hash: change.Hash{7}}
	j.points[s.ID] = at
	taken := map[change.StreamID]Taken{s.ID: {Point: at, Lease: change.Lease{Epoch: 1, Number: 1}}}
	if err := Rebuild(nil, o.StateDir, o.Name, []StreamConf{s}, nil, taken); err != nil {
		t.Fatal(err)
	}
	a, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer leave(a)
	vc := VolumeConf{Name: "g", Number: 2, Group: "g", Stream: s.ID, SizeBytes: fakeVolumeBytes,
		Backing: filepath.Join(t.TempDir(), "v")}
	if _, err := a.AddVolume(context.Background(), vc); err != nil {
		t.Fatal(err)
	}
	dev, err := a.Device("g")
	if err != nil {
		t.Fatal(err)
	}
	fillBlocks(t, dev, 100)
	eventually(t, "the WAL overflows", func() bool { return streamStatus(a, s.ID).Overflow != nil })
	j.setDown(false)
	shipped(t, a, s.ID)
}

// TestStalledJournal: the journal takes nothing for a while, but its connection
// stands, and another group keeps the WAL's front, so that dropped frames stay
// readable. None of them is sent; the overflow ends with and without a cut.
func TestStalledJournal(t *testing.T) {
	for name, cut := range map[string]bool{"goes on": false, "is cut": true} {
		t.Run(name, func(t *testing.T) {
			j := newFakeJournal()
			a, err := Open(overflowing(t, j))
			if err != nil {
				t.Fatal(err)
			}
			defer leave(a)
			p, pdev := addGroup(t, a, "p", 1, OverflowThrottle)
			q, qdev := addGroup(t, a, "q", 3, OverflowBitmap)
			fillBlocks(t, pdev, 2)
			fillBlocks(t, qdev, 2)
			shipped(t, a, p.ID)
			shipped(t, a, q.ID)
			stall := make(chan struct{})
			j.mu.Lock()
			j.stall = stall
			j.mu.Unlock()
			fillBlocks(t, pdev, 8)
			for range 20 {
				fillBlocks(t, qdev, 1)
			}
			fillBlocks(t, pdev, 28)
			eventually(t, "q overflows", func() bool { return streamStatus(a, q.ID).Overflow != nil })
			j.mu.Lock()
			if j.stall = nil; cut {
				j.cutLocked()
			}
			j.mu.Unlock()
			close(stall)
			shipped(t, a, p.ID)
			shipped(t, a, q.ID)
		})
	}
}

// TestIdleIsNoStall: a group that wrote nothing for long does not overflow with its
// first write, although another one has filled the WAL.
func TestIdleIsNoStall(t *testing.T) {
	j := newFakeJournal()
	j.delay = 20 * time.Millisecond
	a, err := Open(overflowing(t, j))
	if err != nil {
		t.Fatal(err)
	}
	defer leave(a)
	p, pdev := addGroup(t, a, "p", 1, OverflowThrottle)
	q, qdev := addGroup(t, a, "q", 3, OverflowBitmap)
	fillBlocks(t, qdev, 1)
	shipped(t, a, q.ID)
	p.Paused = true
	if err := a.AddStream(p); err != nil {
		t.Fatal(err)
	}
	fillBlocks(t, pdev, 50)
	for range 3 {
		time.Sleep(a.opts.SpillAfter + 100*time.Millisecond) // idle for longer than that
		fillBlocks(t, qdev, 1)
		eventually(t, "q is shipped", func() bool {
			s := streamStatus(a, q.ID)
			if s.Overflow != nil {
				t.Fatalf("overflow %+v", s.Overflow)
			}
			return s.Committed.LSN == s.LastLSN
		})
	}
}

// TestCopyFails: a backing that cannot be read is named, tried again in the same
// session, and copied when it can.
func TestCopyFails(t *testing.T) {
	r := newOverflowRig(t)
	r.fail.Store(true)
	r.j.setDown(false)
	eventually(t, "the status names it", func() bool {
		o := streamStatus(r.a, r.s.ID).Overflow
		return o != nil && o.Err != nil && o.Copying
	})
	if n := r.j.dials.Load(); n > 5 {
		t.Errorf("%d sessions", n)
	}
	r.fail.Store(false)
	shipped(t, r.a, r.s.ID)
}

// TestNoPromiseInAResync: a stronger promise that is set meanwhile is kept only when
// the log has a point again.
func TestNoPromiseInAResync(t *testing.T) {
	for _, ack := range []string{AckJournal, AckRemote} {
		t.Run(ack, func(t *testing.T) {
			r := newOverflowRig(t)
			g := r.stopCopy(t)
			r.j.setDown(false)
			<-g.entered
			s := r.s
			s.Ack = ack
			if err := r.a.AddStream(s); err != nil {
				t.Fatal(err)
			}
			dev, _ := r.a.Device("g")
			writeDevice(t, dev, []byte("important"), 4<<20)
			done := make(chan error, 1)
			go func() { done <- dev.Flush(context.Background()) }()
			select {
			case err := <-done:
				t.Fatalf("kept in the middle of a resync: %v", err)
			case <-time.After(100 * time.Millisecond):
			}
			close(g.release)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if _, resyncing := r.j.at(r.s.ID); resyncing {
				t.Error("kept before the end of the resync")
			}
		})
	}
}

// TestRemoveInAResync: a volume that is removed while it is copied ends the resync.
func TestRemoveInAResync(t *testing.T) {
	r := newOverflowRig(t)
	g := r.stopCopy(t)
	r.j.setDown(false)
	<-g.entered
	done := make(chan error, 1)
	go func() { done <- r.a.RemoveVolume(context.Background(), "g") }()
	close(g.release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	shipped(t, r.a, r.s.ID)
}

// TestOvertakenCopy: an overflow overtakes a copy that has read and not yet logged
// it. What a client writes there meanwhile stays.
func TestOvertakenCopy(t *testing.T) {
	r := newOverflowRig(t)
	g := r.stopCopy(t)
	r.j.setDown(false)
	<-g.entered
	r.j.setDown(true)
	r.fill(t, 100) // once more
	r.j.setDown(false)
	eventually(t, "the second gap is closed", func() bool { return r.j.resyncs.Load() == 2 })
	dev, _ := r.a.Device("g")
	writeDevice(t, dev, []byte("fresh"), g.off)
	if err := dev.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	close(g.release)
	shipped(t, r.a, r.s.ID)
	if got := readDevice(t, r.a, "g", g.off, 5); string(got) != "fresh" {
		t.Errorf("a flushed write was undone: %q", got)
	}
}

// TestEndDurableElsewhere: the targets got the end of a resync while there was no
// session.
func TestEndDurableElsewhere(t *testing.T) {
	r := newOverflowRig(t)
	r.j.mu.Lock()
	r.j.slowStore = true
	r.j.mu.Unlock()
	r.j.setDown(false)
	st := r.a.streams[r.s.ID]
	eventually(t, "the journal has the end", func() bool {
		st.mu.Lock()
		defer st.mu.Unlock()
		return st.overflow.resync.phase == resyncMarked && st.ship.committed.LSN >= st.order.nextLSN-1
	})
	r.j.setDown(true)
	r.j.mu.Lock()
	r.j.durable[r.s.ID] = r.j.points[r.s.ID].LSN
	r.j.mu.Unlock()
	r.j.setDown(false)
	shipped(t, r.a, r.s.ID)
}
