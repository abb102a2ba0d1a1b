package agent

import (
	"testing"
	"time"

	"github.com/pollux-dr/pollux/agent/backing"
	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/change"
)

// halfwayRig is an agent whose group s is in the middle of a resync: its first copy has been
// read, and is not logged until gated is released. Group p fills the WAL beside it.
type halfwayRig struct {
	*overflowRig
	p          StreamConf
	pdev, qdev block.Device
	gated      *readGate
}

func newHalfwayRig(t *testing.T) *halfwayRig {
	r := &halfwayRig{overflowRig: &overflowRig{j: newFakeJournal()}}
	r.o = overflowing(t, r.j)
	r.o.OpenBacking = func(path string, size int64) (backing.Backing, error) {
		b, err := backing.Open(path, size)
		return faultyBacking{b, &r.fail, &r.gate}, err
	}
	var err error
	if r.a, err = Open(r.o); err != nil {
		t.Fatal(err)
	}
	a := r.a
	t.Cleanup(func() { leave(a) })
	r.p, r.pdev = addGroup(t, a, "p", 1, OverflowThrottle)
	r.s, r.qdev = addGroup(t, a, "q", 3, OverflowBitmap)
	fillBlocks(t, r.pdev, 2)
	fillBlocks(t, r.qdev, 2)
	shipped(t, a, r.p.ID)
	shipped(t, a, r.s.ID)

	r.j.setDown(true)
	fillBlocks(t, r.pdev, 8)
	for range 20 {
		fillBlocks(t, r.qdev, 1)
	}
	fillBlocks(t, r.pdev, 28)
	eventually(t, "q overflows", func() bool { return streamStatus(a, r.s.ID).Overflow != nil })
	r.gated = r.stopCopy(t)
	r.j.setDown(false)
	<-r.gated.entered // the resync has begun and is in the middle of its first copy
	eventually(t, "the journal has p", allOf(a, r.p))
	eventually(t, "the journal has what is left of q", allOf(a, r.s))
	return r
}

// allOf reports whether the journal has all of a stream.
func allOf(a *Agent, s StreamConf) func() bool {
	return func() bool { st := streamStatus(a, s.ID); return st.Committed.LSN == st.LastLSN }
}

// overflowAgain has the journal take frames of q without a word, and then has the WAL drop them;
// down cuts the session before that.
func (r *halfwayRig) overflowAgain(t *testing.T, down bool) {
	t.Helper()
	a, j, q := r.a, r.j, r.s
	j.setMute(true)
	before := streamStatus(a, q.ID).LastLSN
	fillBlocks(t, r.qdev, 2)
	eventually(t, "the journal has more of q than the agent knows", func() bool {
		at, _ := j.at(q.ID)
		return at.LSN == streamStatus(a, q.ID).LastLSN
	})
	if down {
		j.setDown(true)
	}
	time.Sleep(2 * a.opts.SpillAfter) // the journal must have been silent for that long
	fillBlocks(t, r.pdev, 50)
	st := a.streams[q.ID]
	eventually(t, "q overflows again", func() bool {
		st.mu.Lock()
		defer st.mu.Unlock()
		return st.overflow.dropped.upto.LSN > before
	})
}

// TestResyncEndsNewestGap: while a resync runs, the journal takes frames and its word
// on them is lost; then the WAL overflows once more, and drops just those frames. So no
// new gap is closed, and the resync must end the gap that the journal knows as its
// newest, not the one up to what was dropped last.
func TestResyncEndsNewestGap(t *testing.T) {
	r := newHalfwayRig(t)
	a, j, p, q := r.a, r.j, r.p, r.s

	r.overflowAgain(t, true)
	j.setMute(false)
	j.setDown(false)
	eventually(t, "the journal has p again", allOf(a, p))
	close(r.gated.release)
	shipped(t, a, q.ID)
	if _, resyncing := j.at(q.ID); resyncing {
		t.Error("the journal still waits for the end of the resync")
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.refused > 0 {
		t.Errorf("the journal refused %d ends of the resync", j.refused)
	}
}

// TestResyncGoesOnInASession: while a resync runs, the journal takes frames, its acks come so
// late that the WAL drops those frames, and the session stands all the time. So no session
// finds a new gap, and the resync goes on all the same.
func TestResyncGoesOnInASession(t *testing.T) {
	r := newHalfwayRig(t)
	a, j, p, q := r.a, r.j, r.p, r.s

	r.overflowAgain(t, false)
	j.setMute(false)
	j.mu.Lock()
	conn := j.conns[len(j.conns)-1]
	j.mu.Unlock()
	for _, s := range []StreamConf{p, q} { // the acks that were under way all the time
		_ = conn.Send(uint16(change.MsgAck), change.Encode(j.ack(s.ID)))
	}
	close(r.gated.release)
	eventually(t, "the journal has p again", allOf(a, p))
	fillBlocks(t, r.qdev, 1)
	eventually(t, "the journal has q again", allOf(a, q))
	shipped(t, a, q.ID)
	if _, resyncing := j.at(q.ID); resyncing {
		t.Error("the journal still waits for the end of the resync")
	}
}
