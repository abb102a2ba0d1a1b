package node

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/agent/backing"
	"github.com/pollux-dr/pollux/internal/seed"
)

// losing is a backing of which a sync that fails loses all that was written since the last one,
// as a kernel may that takes for clean what it could not write: at the latest moment, when it is
// to be written again.
type losing struct {
	backing.Backing
	fail *atomic.Int32 // so many syncs do

	mu   sync.Mutex
	undo []func() error // of what was written since the last Sync, the newest last
	lost []func() error // of what a Sync that failed should have made durable
}

func (l *losing) change(off, n int64, do func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := make([]byte, n)
	if err := l.Backing.ReadAt(old, off); err != nil {
		return err
	}
	l.undo = append(l.undo, func() error { return l.Backing.WriteAt(old, off) })
	return do()
}

func (l *losing) WriteAt(p []byte, off int64) error {
	return l.change(off, int64(len(p)), func() error { return l.Backing.WriteAt(p, off) })
}

func (l *losing) Zero(off, n int64, keep bool) error {
	return l.change(off, n, func() error { return l.Backing.Zero(off, n, keep) })
}

func (l *losing) Sync() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	undo := l.undo
	l.undo = nil
	if l.fail.Add(-1) < 0 {
		return l.Backing.Sync()
	}
	l.lost = append(l.lost, undo...)
	return errors.New("the disk is bad")
}

func (l *losing) Unsynced() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := len(l.lost) - 1; i >= 0; i-- {
		if err := l.lost[i](); err != nil {
			panic(err)
		}
	}
	l.lost = nil
}

// TestSyncFailsHydrating: syncs of an image that is being filled fail, and lose what clients
// wrote and what was fetched. The agent writes the one again, and the other is fetched again:
// no read differs, and in the end the image does not.
func TestSyncFailsHydrating(t *testing.T) {
	seed := seed.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), scriptTimeout)
	defer cancel()
	mem, m := vfs.NewCrashableMem(), &crashModel{bookmark: map[string]uint64{}}
	rnd := rand.New(rand.NewPCG(seed, 9))
	hydratingCrash(t, ctx, mem, m, rnd, seed)
	var fails atomic.Int32
	d, err := crashDaemonOver(ctx, mem, t.TempDir(), seed, func(b backing.Backing) backing.Backing {
		return &losing{Backing: b, fail: &fails}
	}, slowly)
	if err != nil {
		t.Fatal(err)
	}
	for range 8 {
		for fails.Store(1 + int32(rnd.IntN(2))); fails.Load() > 0; {
			if err := readAndWrite(ctx, d, m, rnd); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := verify(mem.CrashClone(vfs.CrashCloneCfg{}), m.promised(), t.TempDir(), seed); err != nil {
		t.Error(err)
	}
}
