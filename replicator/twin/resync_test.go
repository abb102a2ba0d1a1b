package twin

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
)

// leap begins a resync: the stream goes on n LSNs further.
func (h *history) leap(id change.StreamID, n uint64) {
	from := h.points[id]
	to := change.Point{LSN: from.LSN + n, Hash: change.Hash{byte(n), 0xee}}
	h.command(state.KindResyncBegin, state.ResyncBegin{Stream: id, Gap: state.Gap{From: from, To: to}})
	h.points[id] = to
}

// TestResync: the log has no points from a gap to the end of its resync, is whole
// all the same, and restores what the copies made of the volume.
func TestResync(t *testing.T) {
	for _, folding := range []bool{false, true} {
		for _, fenced := range []bool{false, true} {
			t.Run(fmt.Sprintf("folding %v, fenced %v", folding, fenced), func(t *testing.T) {
				testResync(t, folding, fenced)
			})
		}
	}
}

func testResync(t *testing.T, folding, fenced bool) {
	h := begun(t)
	h.control(streamA)
	h.folding = folding
	h.frame(streamA, fill(2, 0, 4096, 1))
	h.frame(streamA, fill(2, 4096, 4096, 2), change.Change{Kind: change.Mark, Data: [][]byte{[]byte("b")}})
	h.segment() // LSN 3
	resolve := func(at string) (Point, error) {
		t.Helper()
		l := h.mustOpen()
		return l.Resolve(context.Background(), l.State.Volumes["vola"], at, epochStart)
	}
	newest := func(lsn, before uint64) {
		t.Helper()
		if p, err := resolve(""); err != nil || p.LSN != lsn || p.Before != before {
			t.Errorf("the newest point is %d, before %d, %v; want %d, %d", p.LSN, p.Before, err, lsn, before)
		}
	}
	newest(3, 0)
	h.leap(streamA, 10) // LSN 4 to 13 are lost
	h.frame(streamA, fill(2, 0, 4096, 3))
	h.segment()
	newest(3, 14)
	if fenced {
		h.token = token(1, 2, 9)
		h.fence(h.next)
	}
	h.leap(streamA, 5) // 15 to 19 too
	gapEnd := h.points[streamA]
	h.frame(streamA, fill(2, 8192, 4096, 4))
	h.command(state.KindResyncEnd, state.ResyncEnd{Stream: streamA, To: gapEnd, LSN: 20})
	h.segment()
	newest(20, 0)
	h.frame(streamA, fill(2, 0, 10, 5), change.Change{Kind: change.Mark, Data: [][]byte{[]byte("c")}})
	h.segment()
	newest(22, 0)
	for _, at := range []string{"4", "13", "14", "16", "19"} {
		if _, err := resolve(at); !fail.Is(err, fail.NotFound) || !strings.Contains(err.Error(), "resync") ||
			!strings.Contains(fail.HintOf(err), "LSN 3 ") {
			t.Errorf("--at %s: %v, %s", at, err, fail.HintOf(err))
		}
	}
	for _, at := range []string{"3", "20", "22"} {
		if p, err := resolve(at); err != nil || fmt.Sprint(p.LSN) != at {
			t.Errorf("--at %s: %+v, %v", at, p, err)
		}
	}
	l := h.mustOpen()
	p, err := l.Resolve(context.Background(), l.State.Volumes["vola"], "", epochStart)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte{3}, 4096)
	copy(want, bytes.Repeat([]byte{5}, 10))
	want = append(append(want, bytes.Repeat([]byte{2}, 4096)...), bytes.Repeat([]byte{4}, 4096)...)
	if got := image(t, l, p); !bytes.Equal(got[:len(want)], want) {
		t.Error("the newest image differs")
	}
	if p, _ = l.Resolve(context.Background(), l.State.Volumes["vola"], "3", epochStart); image(t, l, p)[0] != 1 {
		t.Error("the image before the gap differs")
	}
	if _, totals := examine(t, h); totals.Err() != nil {
		t.Error(totals.Err())
	}
	h.leap(streamA, 1)
	h.points[streamA] = change.Point{LSN: h.points[streamA].LSN, Hash: change.Hash{1}} // another history
	h.frame(streamA, fill(2, 0, 1, 1))
	h.segment()
	if _, totals := examine(t, h); !fail.Is(totals.Err(), fail.Damaged) {
		t.Errorf("a frame that does not follow the gap: %v", totals.Err())
	}
}
