package twin

import (
	"context"
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/internal/fail"
)

// TestBrokenStream: a stream whose frames do not go on in the log loses its later
// points, and no other stream does.
func TestBrokenStream(t *testing.T) {
	h := begun(t)
	h.control(streamA, streamB)
	h.frame(streamA, fill(2, 0, 512, 1))
	h.frame(streamB, fill(4, 0, 512, 1))
	h.segment()
	at := h.points[streamA]
	at.LSN += 4
	h.points[streamA] = at
	h.frame(streamA, fill(2, 0, 512, 2))
	h.frame(streamB, fill(4, 0, 512, 2))
	h.segment()
	h.frame(streamA, fill(2, 0, 512, 3))
	h.frame(streamB, fill(4, 0, 512, 3))
	h.segment()
	l := h.mustOpen()
	a, b := l.State.Volumes["vola"], l.State.Volumes["volb"]
	p, err := l.Resolve(context.Background(), b, "", epochStart)
	if err != nil || p.LSN != 3 || image(t, l, p)[0] != 3 || l.DamageOf(b) != nil {
		t.Errorf("the other stream: %+v, %v", p, err)
	}
	for _, late := range []string{"", "6", h.clock.Format("2006-01-02T15:04:05Z07:00")} {
		if _, err = l.Resolve(context.Background(), a, late, epochStart); !fail.Is(err, fail.Damaged) || !strings.Contains(err.Error(), "goes from LSN 1 to 6") {
			t.Errorf("the stream at %q: %v", late, err)
		}
	}
	if p, err = l.Resolve(context.Background(), a, "1", epochStart); err != nil || image(t, l, p)[0] != 1 {
		t.Errorf("the stream's older point: %+v, %v", p, err)
	}
	if err := l.DamageOf(b, a); !fail.Is(err, fail.Damaged) {
		t.Errorf("damage of both: %v", err)
	}
	_, totals := examine(t, h)
	if err := totals.Err(); !fail.Is(err, fail.Damaged) || !strings.Contains(err.Error(), "LSN 6") {
		t.Errorf("examine: %v", err)
	}
}
