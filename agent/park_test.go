package agent

import (
	"context"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// TestPark: while its volumes are parked an agent acknowledges nothing and answers no read. Parking
// that is kept lasts until the release; else it ends by itself, and says so.
func TestPark(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	a, dev := openForTest(t, 16<<20, 1<<20)
	id := a.Status().Streams[0].Conf.ID
	writeDevice(t, dev, []byte("before"), 0)
	p, err := a.Park(ctx, "m", 20*time.Millisecond)
	if err != nil || p.Points[id] != 2 || !p.Keep() {
		t.Fatal(p, err)
	}
	if _, err := a.Park(ctx, "n", time.Minute); !fail.Is(err, fail.Retry) {
		t.Errorf("parked twice: %v", err)
	}
	short, done := context.WithTimeout(ctx, 50*time.Millisecond) // longer than the limit
	if err := dev.Trim(short, 0, 4096, false); !fail.Is(err, fail.Retry) {
		t.Errorf("a write while parked: %v", err)
	}
	done()
	short, done = context.WithTimeout(ctx, 10*time.Millisecond)
	if err := dev.ReadAt(short, make([]byte, 4096), 0); !fail.Is(err, fail.Retry) {
		t.Errorf("a read while parked: %v", err)
	}
	done()
	read := make(chan error, 1)
	go func() { read <- dev.ReadAt(ctx, make([]byte, 4096), 0) }()
	if held := p.Release(); held < 50*time.Millisecond {
		t.Errorf("held for %v", held)
	}
	if err := <-read; err != nil {
		t.Error(err)
	}
	writeDevice(t, dev, []byte("after"), 0)
	p.Release()
	if p, err = a.Park(ctx, "m", 10*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	<-p.over
	writeDevice(t, dev, []byte("late"), 0)
	if p.Keep() {
		t.Error("parking that ended by itself was kept")
	}
}
