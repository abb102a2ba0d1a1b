package liartest

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/liar"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/hydrate"
)

// disk is an image in memory.
type disk struct {
	mu    sync.RWMutex
	bytes []byte
}

func (d *disk) ReadAt(p []byte, off int64) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	copy(p, d.bytes[off:])
	return nil
}

func (d *disk) WriteAt(p []byte, off int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(d.bytes[off:], p)
	return nil
}

func (d *disk) Zero(off, n int64, _ bool) error            { return d.WriteAt(make([]byte, n), off) }
func (d *disk) Sync() error                                { return nil }
func (d *disk) StartSync(int64, int64)                     {}
func (d *disk) Unsynced()                                  {}
func (d *disk) Forget(int64, int64)                        {}
func (d *disk) SizeBytes() int64                           { return int64(len(d.bytes)) }
func (d *disk) Whole() error                               { return nil }
func (d *disk) SetIdentity(string, string) error           { return nil }
func (d *disk) HasIdentity(string) bool                    { return false }
func (d *disk) ClearIdentity(string) error                 { return nil }
func (d *disk) Data(off int64) (start, n int64, err error) { return off, d.SizeBytes() - off, nil }
func (d *disk) Close() error                               { return nil }

// TestHydrate: an image is filled and read while the store lies. What is read is right, or waits,
// or is called damaged; when the lies end, all of it comes.
func TestHydrate(t *testing.T) {
	srv, log, prefix := shared(t)
	eachLie(t, readers, func(t *testing.T, ctx context.Context, lie *liar.Lie, n int, mustPass bool) {
		l := lyingAt(t, srv, prefix)
		in, p, err := newest(ctx, l.honest)
		if err != nil {
			t.Fatal(err)
		}
		want := log.History[p.LSN]["v"]
		place := hydrate.Place{Path: "/v.img", FS: vfs.NewMem()}
		at, err := hydrate.PointOf(ctx, in, p)
		if err == nil {
			err = hydrate.Create(place, at)
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := hydrate.Open(&disk{bytes: bytes.Repeat([]byte{0xee}, volumeSize)}, place, hydrate.Options{
			MinWait: time.Millisecond, MaxWait: 10 * time.Millisecond, DamageWait: 10 * time.Millisecond,
			ScratchDir: t.TempDir(),
			Image: func(ctx context.Context, p hydrate.Point) (*twin.Image, error) {
				in, err := twin.Open(ctx, l.verb(), nil)
				if err != nil {
					return nil, err
				}
				return p.Image(ctx, in, t.TempDir())
			}})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = b.Close() }()
		l.Tell(lie, n, "")
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			got := make([]byte, volumeSize)
			switch err := b.ReadAt(got, 0); {
			case err == nil && !bytes.Equal(got, want):
				t.Error("a read is wrong")
			case err != nil && mustPass:
				t.Errorf("after %d lies: %v", l.Told(), err)
			case err != nil && !fail.Is(err, fail.Damaged) && !fail.Is(err, fail.Unsupported):
				t.Errorf("a read does not wait: %v", err)
			}
		})
		wg.Go(func() {
			if n < 0 {
				time.Sleep(200 * time.Millisecond) // for ever is long enough; nothing is waited for
				l.Tell(nil, 0, "")
			}
		})
		if err := b.Hydrate(ctx, hydrate.Run{}); err != nil {
			t.Fatal(err, b.Stats().Error)
		}
		got := make([]byte, volumeSize)
		if err := b.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Error("the image is wrong: ", err)
		}
	})
}
