package mount

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/replicator/logtest"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
)

func dense(t *testing.T, cache int64, size int64) (*Device, []byte) {
	s, err := objstore.Open(t.Context(), "file://"+t.TempDir(), objstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	l := logtest.New(t, s)
	l.Volume("v", size)
	for off := int64(0); off < size; off += 256 << 10 {
		l.Frame(l.Write("v", off, bytes.Repeat([]byte{byte(1 + off>>18)}, int(min(256<<10, size-off)))))
	}
	l.Segment()
	in, err := twin.Open(t.Context(), s, nil)
	if err != nil || in.Damage != nil {
		t.Fatal(err, in.Damage)
	}
	v, _ := in.Volume("v")
	p, err := in.Resolve(t.Context(), v, "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	im, err := in.Image(t.Context(), p, "")
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(im, Options{CacheBytes: cache, Writable: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close(); im.Close() })
	return d, l.Images["v"]
}

// one read larger than the cache never ends.
func TestLivelock(t *testing.T) {
	d, _ := dense(t, 2<<20, 8<<20)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	start := time.Now()
	err := d.ReadAt(ctx, make([]byte, 4<<20), 0)
	t.Logf("4 MiB read with a cache of 2 MiB: %v after %v, %d MiB read from the store", err, time.Since(start),
		d.Stats().StoreBytes>>20)
	if err != nil {
		t.Error("livelock")
	}
}

func TestLivelockSmallWrite(t *testing.T) {
	d, _ := dense(t, 4095, 1<<20)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	err := d.ReadAt(ctx, make([]byte, 10), 0)
	if err != nil {
		t.Error("livelock: 10 bytes with a cache smaller than a page:", err)
	}
}

// dropTo has chosen a leaf when hydration begins.
func TestDropHydrate(t *testing.T) {
	d, want := dense(t, 1<<30, 2<<20)
	if err := d.ReadAt(t.Context(), make([]byte, 4096), 0); err != nil {
		t.Fatal(err)
	}
	victim, err := d.leaf(0) // dropTo: over the limit, pinned not set yet: this is the victim
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Hydrate(t.Context(), twin.Run{}); err != nil {
		t.Fatal(err)
	}
	victim.mu.Lock()
	d.dropPages(victim) // dropTo goes on
	victim.mu.Unlock()
	d.release(victim)
	got := make([]byte, 4096)
	if err := d.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, want[:4096]) {
		t.Errorf("wrong bytes after hydration: %d, want %d, %v", got[0], want[0], err)
	}
}
