package gc

import (
	"bytes"
	"fmt"
	"testing"
	"time"
)

// aged is a log with some history, a horizon now and then, and catalogs.
func aged(t *testing.T) *testLog {
	l := retained(t, false)
	for range 40 {
		l.Random(l.r, 10)
		l.horizon()
		l.catalog()
	}
	return l
}

// TestClockBehindGrace: a run with a clock that is behind takes nothing of the grace.
// A reader that began before it finds all that it needs after a run with the right one.
func TestClockBehindGrace(t *testing.T) {
	for _, behind := range []time.Duration{2 * time.Hour, 48 * time.Hour} {
		l := aged(t)
		in := l.open()
		v, _ := in.Volume("v")
		oldest := uint64(0)
		for lsn := range l.Exact {
			if in.Consistent(t.Context(), l.Stream, lsn) && lsn > 0 && (oldest == 0 || lsn < oldest) &&
				l.History[lsn] != nil {
				oldest = lsn
			}
		}
		p, err := in.Resolve(t.Context(), v, fmt.Sprint(oldest), l.Clock)
		if err != nil {
			t.Fatal(err)
		}
		o := l.options()
		o.Now = func() time.Time { return l.Clock.Add(-behind) }
		if _, err := Collect(t.Context(), l.Store, o); err != nil {
			t.Fatal(err)
		}
		l.Clock = l.Clock.Add(time.Minute)
		l.horizon()
		if rep := l.collect(); rep.Deleted.Objects > 0 {
			t.Errorf("a minute after a run %v behind, %d objects are deleted; the grace is %v", behind,
				rep.Deleted.Objects, grace)
		}
		img := make(memory, v.SizeBytes)
		if _, err := in.Restore(t.Context(), p, img); err != nil || !bytes.Equal(img, l.History[p.LSN]["v"]) {
			t.Errorf("a reader that began a minute ago: %v", err)
		}
	}
}

// TestAgentClock: retention keeps what was written within the window, and drops what is
// older, whatever the agent's clock says of it.
func TestAgentClock(t *testing.T) {
	for _, skew := range []time.Duration{-3 * time.Hour, -200 * time.Hour, 5 * time.Hour} {
		l := retained(t, false)
		l.Keeping, l.Skew = true, skew
		dropped := 0
		for range 30 {
			l.Random(l.r, 10)
			l.horizon()
			dropped += len(l.collect().Dropped)
			l.spot(l.open(), l.promised(nil))
		}
		if dropped == 0 {
			t.Errorf("agent's clock off by %v: nothing is dropped in %v", skew, 35*time.Hour)
		}
	}
}

// TestClockJumps: the journal's clock is three days ahead for a moment. No point of the
// window is lost, bookmarks can be set, and retention goes on.
func TestClockJumps(t *testing.T) {
	l := retained(t, false)
	l.Keeping = true
	const jump = 72 * time.Hour
	bookmarks, dropped := map[string]uint64{}, 0
	for i := range 40 {
		if i == 20 {
			l.Clock = l.Clock.Add(jump)
			before := l.Point.LSN
			l.Random(l.r, 3)
			l.collect()
			l.Clock = l.Clock.Add(-jump)
			for lsn := range l.Times {
				if lsn > before {
					l.Times[lsn] = l.Times[lsn].Add(-jump)
				}
			}
			l.Skew = jump // an agent's times never go back
		}
		l.Random(l.r, 10)
		l.horizon()
		if i > 20 {
			name := fmt.Sprint("b", i)
			l.Bookmark(name)
			bookmarks[name] = l.Point.LSN
			l.Segment()
		}
		n := len(l.collect().Dropped)
		if i > 30 {
			dropped += n
		}
		l.spot(l.open(), l.promised(bookmarks))
	}
	if dropped == 0 {
		t.Error("nothing is dropped after the jump")
	}
}

// TestClockDips: the journal's clock is a year behind for a moment. No hour's or day's
// point goes because of it.
func TestClockDips(t *testing.T) {
	drops := func(dip time.Duration) int {
		l := retained(t, false)
		for range 20 {
			l.Random(l.r, 10)
			l.horizon()
			l.collect()
		}
		if dip > 0 {
			l.Clock, l.Skew = l.Clock.Add(-dip), dip
			l.Random(l.r, 1)
			l.catalog()
			l.Clock, l.Skew = l.Clock.Add(dip), 0
		}
		l.Random(l.r, 10)
		l.horizon()
		return len(l.collect().Dropped)
	}
	if n := drops(365 * 24 * time.Hour); n > 2 {
		t.Errorf("%d points are dropped, %d without the dip", n, drops(0))
	}
}

// TestNoHorizonNoLoss: without a horizon by LSN in the log, nothing is dropped.
func TestNoHorizonNoLoss(t *testing.T) {
	l := retained(t, false)
	for range 20 {
		l.Random(l.r, 10)
		l.Segment()
		if rep := l.collect(); len(rep.Dropped) > 0 {
			t.Fatalf("%d points are dropped", len(rep.Dropped))
		}
	}
}
