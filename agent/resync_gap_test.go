package agent

import (
	"testing"
	"time"

	"github.com/pollux-dr/pollux/agent/backing"
)

// TestResyncEndsNewestGap: while a resync runs, the journal takes frames and its word
// on them is lost; then the WAL overflows once more, and drops just those frames. So no
// new gap is closed, and the resync must end the gap that the journal knows as its
// newest, not the one up to what was dropped last.
func TestResyncEndsNewestGap(t *testing.T) {
	r := &overflowRig{j: newFakeJournal()}
	j := r.j
	r.o = overflowing(t, j)
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
	p, pdev := addGroup(t, a, "p", 1, OverflowThrottle) // fills the WAL beside it
	q, qdev := addGroup(t, a, "q", 3, OverflowBitmap)
	r.s = q
	fillBlocks(t, pdev, 2)
	fillBlocks(t, qdev, 2)
	shipped(t, a, p.ID)
	shipped(t, a, q.ID)

	allOf := func(s StreamConf) func() bool {
		return func() bool { st := streamStatus(a, s.ID); return st.Committed.LSN == st.LastLSN }
	}
	j.setDown(true)
	fillBlocks(t, pdev, 8)
	for range 20 {
		fillBlocks(t, qdev, 1)
	}
	fillBlocks(t, pdev, 28)
	eventually(t, "q overflows", func() bool { return streamStatus(a, q.ID).Overflow != nil })
	g := r.stopCopy(t)
	j.setDown(false)
	<-g.entered // the resync has begun and is in the middle of its first copy
	eventually(t, "the journal has p", allOf(p))
	eventually(t, "the journal has what is left of q", allOf(q))

	j.setMute(true)
	before := streamStatus(a, q.ID).LastLSN
	fillBlocks(t, qdev, 2)
	eventually(t, "the journal has more of q than the agent knows", func() bool {
		at, _ := j.at(q.ID)
		return at.LSN == streamStatus(a, q.ID).LastLSN
	})
	j.setDown(true)
	time.Sleep(2 * a.opts.SpillAfter) // the journal must have been silent for that long
	fillBlocks(t, pdev, 50)
	st := a.streams[q.ID]
	eventually(t, "q overflows again", func() bool {
		st.mu.Lock()
		defer st.mu.Unlock()
		return st.overflow.dropped.upto.LSN > before
	})
	j.setMute(false)
	j.setDown(false)
	eventually(t, "the journal has p again", allOf(p))
	close(g.release)
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
