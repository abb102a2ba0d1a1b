package agent

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/agent/backing"
)

// slowZero is a backing whose Zero waits until it is let go.
type slowZero struct {
	backing.Backing
	begun, release chan struct{}
}

func (b *slowZero) Zero(off, n int64, keep bool) error {
	close(b.begun)
	<-b.release
	return b.Backing.Zero(off, n, keep)
}

// TestLargeZeroAfterKill kills an agent that has given a large trim its place in the
// order, and has not got it into the WAL. What a client reads from the next start on
// is zeros, before the backing has them and afterwards: it must not change although
// nobody writes.
func TestLargeZeroAfterKill(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const size, zeroOff, zeroLen = 8 << 20, 1<<20 + 100, 4 << 20
	o := regressOpts(t)
	img := filepath.Join(t.TempDir(), "v")
	old := bytes.Repeat([]byte{'o'}, size)
	if err := os.WriteFile(img, old, 0o600); err != nil {
		t.Fatal(err)
	}
	a := mustOpen(t, o)
	sc := StreamConf{ID: uuid.New(), Number: 1, Group: "g"}
	if err := a.AddStream(sc); err != nil {
		t.Fatal(err)
	}
	vc := VolumeConf{Name: "v", Number: 2, Group: "g", Stream: sc.ID, SizeBytes: size, Backing: img}
	if _, err := a.AddVolume(ctx, vc); err != nil {
		t.Fatal(err)
	}
	v, err := a.volume("find", "v")
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(old)
	clear(want[zeroOff : zeroOff+zeroLen])
	v.s.enc.mu.Lock() // the WAL takes nothing
	before := v.s.lastLSN()
	trimmed := make(chan error, 1)
	go func() { trimmed <- v.Trim(ctx, zeroOff, zeroLen, false) }()
	for v.s.lastLSN() == before {
		time.Sleep(time.Millisecond)
	}
	writeDevice(t, v, []byte("newer"), 2<<20) // acknowledged, and behind it in the order
	copy(want[2<<20:], "newer")
	if !bytes.Equal(readDevice(t, a, "v", 0, size), want) {
		t.Error("a large trim with a place in the order is not what is read")
	}
	v.s.close(errors.New("killed"))
	v.s.enc.mu.Unlock()
	if err := <-trimmed; err == nil {
		t.Fatal("the trim was answered")
	}
	leave(a)

	slow := &slowZero{begun: make(chan struct{}), release: make(chan struct{})}
	o.OpenBacking = func(path string, size int64) (backing.Backing, error) {
		b, err := backing.Open(path, size)
		slow.Backing = b
		return slow, err
	}
	a = mustOpen(t, o)
	if !bytes.Equal(readDevice(t, a, "v", 0, size), want) {
		t.Error("after the restart: not what was read before")
	}
	<-slow.begun
	if !bytes.Equal(readDevice(t, a, "v", 0, size), want) {
		t.Error("while the trim is applied: not what was read before")
	}
	close(slow.release)
	if err := a.Close(ctx); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(img)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the backing in the end: not what was read before; %v", err)
	}
}
