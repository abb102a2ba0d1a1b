package agent

import (
	"context"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// TestHold: from the mark to the release no write is acknowledged; what was before is
// below the mark, what waits is above. A hold that nobody releases ends by itself, and
// says so.
func TestHold(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	a, dev := openForTest(t, 16<<20, 1<<20)
	id := a.Status().Streams[0].Conf.ID
	writeDevice(t, dev, []byte("before"), 0)
	h, lsn, err := a.Hold(ctx, id, "m", time.Minute)
	if err != nil || lsn != 2 {
		t.Fatal(lsn, err)
	}
	if _, _, err := a.Hold(ctx, id, "n", time.Minute); !fail.Is(err, fail.Retry) {
		t.Errorf("a second hold: %v", err)
	}
	if err := dev.Flush(ctx); err != nil {
		t.Errorf("a flush while writers are held: %v", err)
	}
	short, done := context.WithTimeout(ctx, 20*time.Millisecond)
	if err := dev.Trim(short, 0, 4096, false); !fail.Is(err, fail.Retry) {
		t.Errorf("a write while writers are held: %v", err)
	}
	done()
	written := make(chan error, 1)
	go func() { written <- dev.Trim(ctx, 4096, 4096, false) }()
	select {
	case err := <-written:
		t.Fatalf("acknowledged while writers are held: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	if held, whole := h.Release(); !whole || held < 20*time.Millisecond {
		t.Errorf("held %v, whole %v", held, whole)
	}
	if err := <-written; err != nil || a.LastLSN(id) != 3 {
		t.Errorf("after the release: %v, LSN %d", err, a.LastLSN(id))
	}
	if _, whole := h.Release(); !whole {
		t.Error("released twice, it was not whole")
	}
	if h, _, err = a.Hold(ctx, id, "late", 10*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	<-h.Over()
	writeDevice(t, dev, []byte("after"), 0)
	if _, whole := h.Release(); whole {
		t.Error("a hold that ended by itself counts")
	}
}
