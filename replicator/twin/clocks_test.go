package twin

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/logtest"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// timed is a log of one volume with a frame every ten seconds; write adds so many, each
// in a segment of its own or with others.
func timed(t *testing.T) (h *logtest.Log, write func(n int)) {
	s, err := objstore.Open(t.Context(), "file://"+t.TempDir(), objstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	h = logtest.New(t, s)
	h.Step = 10 * time.Second
	h.Volume("v", 1<<20)
	r := rand.New(rand.NewPCG(1, 2))
	write = func(n int) {
		for range n {
			h.Random(r, 1)
		}
	}
	return h, write
}

// TestAmbiguousTimes: a time for which the agent's clock and the journal's name
// different points is refused with both, or noted.
func TestAmbiguousTimes(t *testing.T) {
	h, write := timed(t)
	start := h.Clock
	write(60) // ten minutes in which both are right
	right, lsn := h.Clock, h.Point.LSN
	h.Skew = 3 * time.Hour
	write(60) // and ten in which the agent's is ahead
	jumped, later := h.Clock, h.Point.LSN
	l, err := Open(context.Background(), h.Store, nil)
	if err != nil {
		t.Fatal(err)
	}
	v := l.State.Volumes["v"]
	at := func(when time.Time) (Point, error) {
		return l.Resolve(t.Context(), v, when.Format(time.RFC3339Nano), jumped)
	}
	if p, err := at(right); err != nil || p.LSN != lsn || p.Note != "" {
		t.Errorf("before the jump: %+v, %v", p, err)
	}
	if p, err := at(start.Add(5 * time.Minute)); err != nil || p.Note != "" {
		t.Errorf("long before the jump: %+v, %v", p, err)
	}
	if _, err := at(jumped.Add(-time.Second)); !fail.Is(err, fail.Refused) ||
		!strings.Contains(fail.HintOf(err), "LSN ") || !strings.Contains(err.Error(), "ambiguous") {
		t.Errorf("after the jump: %v, %s", err, fail.HintOf(err))
	}
	if p, err := at(jumped.Add(h.Skew)); err != nil || p.LSN != later {
		t.Errorf("when both have passed: %+v, %v", p, err)
	}
}

// TestJournalClockDips: a journal's clock that was behind for one object makes no other
// time ambiguous.
func TestJournalClockDips(t *testing.T) {
	h, write := timed(t)
	write(60)
	good, lsn := h.Clock, h.Point.LSN
	write(60)
	h.Clock, h.Skew = h.Clock.Add(-48*time.Hour), 48*time.Hour
	write(1)
	h.Clock, h.Skew = h.Clock.Add(48*time.Hour), 0
	write(20)
	l, err := Open(context.Background(), h.Store, nil)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := l.Resolve(t.Context(), l.State.Volumes["v"], good.Format(time.RFC3339Nano), h.Clock); err != nil ||
		p.LSN != lsn {
		t.Errorf("%+v, %v, want LSN %d", p, err, lsn)
	}
}

// TestLateTimes: what was written down long after the time that it has is noted.
func TestLateTimes(t *testing.T) {
	s, err := objstore.Open(t.Context(), "file://"+t.TempDir(), objstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	h := logtest.New(t, s)
	h.Step, h.Skew = 10*time.Second, -2*time.Hour
	h.Volume("v", 1<<20)
	r := rand.New(rand.NewPCG(1, 2))
	for range 30 {
		h.Random(r, 1)
	}
	l, err := Open(context.Background(), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := l.Resolve(t.Context(), l.State.Volumes["v"], h.Clock.Add(-2*time.Minute).Format(time.RFC3339), h.Clock)
	if err != nil || !strings.Contains(p.Note, "by the journal's clock the point of that time is LSN") {
		t.Errorf("%+v, %v", p, err)
	}
}
