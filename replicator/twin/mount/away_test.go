package mount

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/replicator/logtest"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
)

type hanging struct {
	objstore.Store
	on atomic.Bool
}

func (h *hanging) Read(ctx context.Context, name string, off, n int64, buf []byte) ([]byte, error) {
	if h.on.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return h.Store.Read(ctx, name, off, n, buf)
}

// Close waits for a read-ahead that nobody can end.
func TestClose(t *testing.T) {
	s, err := objstore.Open(t.Context(), "file://"+t.TempDir(), objstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	h := &hanging{Store: s}
	l := logtest.New(t, s)
	l.Volume("v", 8<<20)
	for off := int64(0); off < 8<<20; off += 256 << 10 {
		l.Frame(l.Write("v", off, bytes.Repeat([]byte{7}, 256<<10)))
	}
	l.Segment()
	in, _ := twin.Open(t.Context(), h, nil)
	v, _ := in.Volume("v")
	p, _ := in.Resolve(t.Context(), v, "", time.Now())
	im, err := in.Image(t.Context(), p, "")
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(im, Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 64<<10)
	d.ReadAt(t.Context(), b, 0)
	h.on.Store(true) // the store is away
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	d.ReadAt(ctx, b, 64<<10)
	done := make(chan error, 1)
	go func() { done <- d.Close() }()
	select {
	case err := <-done:
		t.Log(err)
	case <-time.After(10 * time.Second):
		t.Error("Close hangs while the store is away")
	}
}

// bent damages the first answer about each object.
type bent struct {
	objstore.Store
	mu   sync.Mutex
	seen map[string]bool
}

func (b *bent) Read(ctx context.Context, name string, off, n int64, buf []byte) ([]byte, error) {
	out, err := b.Store.Read(ctx, name, off, n, buf)
	b.mu.Lock()
	defer b.mu.Unlock()
	if key := fmt.Sprint(name, off, n); err == nil && !b.seen[key] && len(out) > 0 {
		b.seen[key] = true
		out[len(out)/2] ^= 1
	}
	return out, err
}

// TestDamageOnTheWay: what comes damaged once is read again, by all who open and read.
func TestDamageOnTheWay(t *testing.T) {
	m := newMounted(t, Options{}, false)
	s, err := objstore.Open(t.Context(), "file://"+m.dir, objstore.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	b := &bent{Store: s, seen: map[string]bool{}}
	in, err := twin.Open(t.Context(), b, nil)
	if err != nil {
		t.Fatal(err)
	}
	v, err := in.Volume("v")
	if err != nil {
		t.Fatal(err)
	}
	p, err := in.Resolve(t.Context(), v, "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	im, err := in.Image(t.Context(), p, "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = im.Close() }()
	d, err := New(im, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	(&mounted{Device: d, want: m.want}).compare(t, 0, testBytes)
	if p.LSN != m.log.Point.LSN {
		t.Errorf("LSN %d, the newest is %d", p.LSN, m.log.Point.LSN)
	}
}
