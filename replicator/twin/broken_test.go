package twin

import (
	"context"
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
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
		if _, err = l.Resolve(context.Background(), a, late, epochStart); !fail.Is(err, fail.Damaged) ||
			!strings.Contains(err.Error(), "goes from LSN 1 to 6") {
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

// TestBrokenStreamExamined: examining goes on behind a stream that does not, finds what
// else is wrong, and nothing that is not.
func TestBrokenStreamExamined(t *testing.T) {
	h := begun(t)
	h.control(streamA, streamB)
	h.frame(streamA, fill(2, 0, 512, 1))
	h.frame(streamB, fill(4, 0, 512, 1))
	h.segment()
	h.points[streamA] = change.Point{LSN: 5, Hash: change.Hash{7}}
	h.frame(streamA, fill(2, 0, 512, 2))
	h.segment()
	h.frame(streamB, fill(4, 0, 512, 2))
	h.command(state.KindBookmarkAdd, state.Bookmark{Name: "b", Group: "g", Stream: streamB, LSN: 2})
	h.segment()
	h.token = token(1, 2, 2)
	h.fence(h.next)
	h.frame(streamA, fill(2, 0, 512, 3))
	h.segment()
	found, _ := examine(t, h)
	for pos, o := range found {
		if (o.Err != nil) != (pos == 3) {
			t.Errorf("position %d: %v", pos, o.Err)
		}
	}
	h.points[streamB] = change.Point{LSN: 9}
	h.frame(streamB, fill(4, 0, 512, 3))
	h.segment()
	if found, _ = examine(t, h); found[7].Err == nil {
		t.Error("the other stream's break behind it is not found")
	}
}

// TestForgottenGaps: where gaps are not listed any more, frames are read across them,
// and only what is kept is a point.
func TestForgottenGaps(t *testing.T) {
	h := begun(t)
	h.control(streamA)
	h.frame(streamA, fill(2, 0, 512, 1))
	h.leap(streamA, 10)
	h.frame(streamA, fill(2, 512, 512, 2))
	h.command(state.KindResyncEnd,
		state.ResyncEnd{Stream: streamA, To: change.Point{LSN: 11, Hash: change.Hash{10, 0xee}}, LSN: 12})
	h.frame(streamA, fill(2, 1024, 512, 3))
	h.segment()
	l := h.mustOpen()
	st := l.State.Streams[streamA]
	st.Gaps, st.Resyncs, st.Forgotten = nil, nil, 11
	l.Frames = map[change.StreamID][]FrameRef{}
	l.index()
	v := l.State.Volumes["vola"]
	p, err := l.Resolve(t.Context(), v, "", epochStart)
	if err != nil || p.LSN != 13 {
		t.Fatalf("the newest point: %+v, %v", p, err)
	}
	if img := image(t, l, p); img[0] != 1 || img[512] != 2 || img[1024] != 3 {
		t.Errorf("the image holds %d, %d, %d", img[0], img[512], img[1024])
	}
	if _, err := l.Resolve(t.Context(), v, "1", epochStart); !fail.Is(err, fail.NotFound) {
		t.Errorf("a point before: %v", err)
	}
}
