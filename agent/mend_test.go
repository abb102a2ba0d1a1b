package agent

import (
	"bytes"
	"context"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/agent/backing"
	"github.com/pollux-dr/pollux/internal/fail"
)

const pageBytes = 4096

// badDisk is a backing with a page cache above a medium. A sync that fails loses what
// was to be written, and the next one says yes, as the kernel's does.
type badDisk struct {
	backing.Backing // marks and size: an absent one's
	mu              sync.Mutex
	cache, medium   []byte
	dirty           map[int64]bool
	evict           bool       // pages that could not be written are dropped; else they stay, and pass for clean
	fails           func() int // of a coming sync: 0 it works, 1 it fails, 2 it says yes and writes nothing
}

func newBadDisk(size int64) *badDisk {
	return &badDisk{Backing: backing.Absent(fail.New(fail.Unsupported, "use", "this disk", "in this test")),
		cache: make([]byte, size), medium: make([]byte, size), dirty: map[int64]bool{}, fails: func() int { return 0 }}
}

func (d *badDisk) SizeBytes() int64 { return int64(len(d.cache)) }

func (d *badDisk) ReadAt(p []byte, off int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(p, d.cache[off:])
	return nil
}

func (d *badDisk) WriteAt(p []byte, off int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(d.cache[off:], p)
	for b := off / pageBytes; b <= (off+int64(len(p))-1)/pageBytes; b++ {
		d.dirty[b] = true
	}
	return nil
}

func (d *badDisk) Zero(off, n int64, _ bool) error { return d.WriteAt(make([]byte, n), off) }

func (d *badDisk) page(from, to []byte, b int64) {
	copy(to[b*pageBytes:], from[b*pageBytes:][:pageBytes])
}

func (d *badDisk) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	how := d.fails()
	for b := range d.dirty {
		if how == 0 {
			d.page(d.cache, d.medium, b)
		} else if how == 1 && d.evict {
			d.page(d.medium, d.cache, b)
		}
	}
	clear(d.dirty)
	if how == 1 {
		return syscall.EIO
	}
	return nil
}

func (d *badDisk) Forget(off, n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for b := off / pageBytes; b < (off+n)/pageBytes; b++ {
		if !d.dirty[b] {
			d.page(d.medium, d.cache, b)
		}
	}
}

// powerCut is what is left of the disk after one.
func (d *badDisk) powerCut() *badDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	left := newBadDisk(d.SizeBytes())
	copy(left.cache, d.medium)
	copy(left.medium, d.medium)
	return left
}

// under makes d the backing of all volumes.
func (d *badDisk) under(o Options) Options {
	o.OpenBacking = func(string, int64) (backing.Backing, error) { return d, nil }
	return o
}

// onBadDisk opens an agent with a volume v on d.
func onBadDisk(t *testing.T, ctx context.Context, d *badDisk) (*Agent, *Volume, Options) {
	t.Helper()
	o := regressOpts(t)
	o.Linger, o.CheckpointInterval = time.Millisecond, time.Hour
	o.CreateBacking = func(string, int64) (bool, error) { return false, nil }
	a := mustOpen(t, d.under(o))
	sc := StreamConf{ID: uuid.New(), Number: 1, Group: "g"}
	if err := a.AddStream(sc); err != nil {
		t.Fatal(err)
	}
	vc := VolumeConf{Name: "v", Number: 2, Group: "g", Stream: sc.ID, SizeBytes: d.SizeBytes(),
		Backing: filepath.Join(t.TempDir(), "v")}
	if _, err := a.AddVolume(ctx, vc); err != nil {
		t.Fatal(err)
	}
	v, err := a.volume("find", "v")
	if err != nil {
		t.Fatal(err)
	}
	return a, v, o
}

// applyAll waits until everything is applied and no backing is to be mended.
func applyAll(t *testing.T, ctx context.Context, v *Volume) {
	t.Helper()
	if err := v.s.flush(ctx); err != nil {
		t.Fatal(err)
	}
	mended := func() bool { return v.s.apply.applied.LSN >= v.s.wal.durableLSN && v.s.backings.syncErr == nil }
	if err := v.s.await(ctx, mended); err != nil {
		t.Fatal(err)
	}
}

// TestFailedSyncIsNotBelieved lets one sync in three of a backing fail, and cuts the
// power now and then. What is read is what was written, always; and a checkpoint never
// says more than the medium has.
func TestFailedSyncIsNotBelieved(t *testing.T) {
	for name, evict := range map[string]bool{"lost pages are dropped": true, "they pass for clean": false} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			const size = 64 * pageBytes
			rnd := rand.New(rand.NewPCG(7, 7))
			disk := newBadDisk(size)
			var failed atomic.Int64
			var mu sync.Mutex // of fate: the agent syncs beside the test's own writes
			fate := rand.New(rand.NewPCG(7, 8))
			setUp := func(d *badDisk) {
				d.evict = evict
				d.fails = func() int {
					mu.Lock()
					defer mu.Unlock()
					if fate.IntN(3) > 0 {
						return 0
					}
					failed.Add(1)
					return 1
				}
			}
			setUp(disk)
			a, v, o := onBadDisk(t, ctx, disk)
			want := make([]byte, size)
			for round := range 12 {
				for range 20 {
					off, n := rnd.Int64N(size), 1+rnd.Int64N(3*pageBytes)
					if rnd.IntN(2) == 0 {
						off, n = off/pageBytes*pageBytes, pageBytes
					}
					n = min(n, size-off)
					if rnd.IntN(4) == 0 {
						if err := v.Trim(ctx, off, n, false); err != nil {
							t.Fatal(err)
						}
						clear(want[off : off+n])
						continue
					}
					p := bytes.Repeat([]byte{byte(1 + rnd.IntN(255))}, int(n))
					writeDevice(t, v, p, off)
					copy(want[off:], p)
				}
				if err := v.s.flush(ctx); err != nil {
					t.Fatal(err)
				}
				if rnd.IntN(2) == 0 {
					applyAll(t, ctx, v)
				}
				for range 2 { // the second time right after the first
					_ = v.s.checkpoint()
					if got := readDevice(t, a, "v", 0, size); !bytes.Equal(got, want) {
						t.Fatalf("round %d: what is read is not what was written", round)
					}
				}
				if rnd.IntN(3) > 0 {
					continue
				}
				leave(a)
				disk = disk.powerCut()
				setUp(disk)
				a = mustOpen(t, disk.under(o))
				v, _ = a.volume("find", "v")
				if got := readDevice(t, a, "v", 0, size); !bytes.Equal(got, want) {
					t.Fatalf("round %d: after a power cut: what is read is not what was written", round)
				}
			}
			leave(a)
			if failed.Load() == 0 {
				t.Error("no sync has failed")
			}
		})
	}
}

// TestFailedSyncSuspends: while a backing cannot be synced, the status says so, the
// WAL keeps what came after the last checkpoint, reads of the backing wait, and no verb
// takes the next sync's word. A medium that swallows what it is given is found out.
func TestFailedSyncSuspends(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	disk := newBadDisk(16 * pageBytes)
	var mu sync.Mutex
	how, tries := 0, 0
	disk.fails = func() int {
		mu.Lock()
		defer mu.Unlock()
		tries++
		return how
	}
	become := func(next int) (tried int) {
		mu.Lock()
		defer mu.Unlock()
		how = next
		return tries
	}
	triedAgain := func(since int) {
		t.Helper()
		for {
			mu.Lock()
			n := tries
			mu.Unlock()
			if n >= since+2 {
				return
			}
			if ctx.Err() != nil {
				t.Fatal("it is not tried again")
			}
			time.Sleep(time.Millisecond)
		}
	}
	a, v, _ := onBadDisk(t, ctx, disk)
	defer func() { leave(a) }()
	writeDevice(t, v, bytes.Repeat([]byte{'a'}, 2*pageBytes), pageBytes)
	applyAll(t, ctx, v)
	suspended := func() {
		t.Helper()
		if st := a.Status().Streams[0]; st.BackErr == nil || fail.HintOf(st.BackErr) == "" {
			t.Errorf("the status says %v, hint %q", st.BackErr, fail.HintOf(st.BackErr))
		}
		if err := v.s.checkpoint(); err == nil {
			t.Error("a checkpoint was made")
		}
		v.s.mu.Lock()
		if lsn := v.s.ckpt.saved.Applied.LSN; lsn != 0 {
			t.Errorf("the checkpoint says LSN %d", lsn)
		}
		v.s.mu.Unlock()
		if err := a.RemoveVolume(ctx, "v"); err == nil {
			t.Error("the volume was removed")
		}
		brief, stop := context.WithTimeout(ctx, 10*time.Millisecond)
		defer stop()
		if err := v.ReadAt(brief, make([]byte, pageBytes), 0); !fail.Is(err, fail.Retry) {
			t.Errorf("a read of what the backing may have lost: %v", err)
		}
	}
	since := become(1)
	if err := v.s.checkpoint(); err == nil {
		t.Fatal("the sync did not fail")
	}
	suspended()
	triedAgain(since)
	suspended()
	since = become(2) // it says yes
	triedAgain(since)
	suspended()
	writeDevice(t, v, []byte("meanwhile"), 0)
	become(0)
	applyAll(t, ctx, v)
	if err := v.s.checkpoint(); err != nil {
		t.Fatal(err)
	}
	if st := a.Status().Streams[0]; st.BackErr != nil || st.ApplyErr != nil {
		t.Errorf("the status says %v, %v", st.BackErr, st.ApplyErr)
	}
	want := make([]byte, 16*pageBytes)
	copy(want, "meanwhile")
	copy(want[pageBytes:], bytes.Repeat([]byte{'a'}, 2*pageBytes))
	if !bytes.Equal(disk.powerCut().medium, want) {
		t.Error("the medium lacks something below the checkpoint")
	}
	if err := a.RemoveVolume(ctx, "v"); err != nil {
		t.Error(err)
	}
}

// TestAcceptedBackingIsSynced: a backing that was accepted gets all of the WAL at a
// start, and has to be synced before that counts. Where the sync fails, the group is
// suspended, and the next start does it all again.
func TestAcceptedBackingIsSynced(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	disk := newBadDisk(16 * pageBytes)
	a, v, o := onBadDisk(t, ctx, disk)
	writeDevice(t, v, []byte("below the checkpoint"), 0)
	applyAll(t, ctx, v)
	if err := v.s.checkpoint(); err != nil {
		t.Fatal(err)
	}
	leave(a)
	lost := o
	lost.OpenBacking = func(string, int64) (backing.Backing, error) { return nil, syscall.ENOENT }
	a = mustOpen(t, lost)
	disk = newBadDisk(16 * pageBytes)
	a.opts.OpenBacking = disk.under(o).OpenBacking
	if err := a.AcceptBacking("v", false); err != nil {
		t.Fatal(err)
	}
	leave(a)
	disk.fails, disk.evict = func() int { return 1 }, true
	for range 2 {
		a = mustOpen(t, disk.under(o))
		if _, err := a.Device("v"); err == nil {
			t.Error("a volume is served whose backing could not be synced")
		}
		if st := a.Status().Streams[0]; st.Suspended == nil {
			t.Error("the status does not say it")
		}
		if err := a.snapshotStreams()[0].checkpoint(); err != nil {
			t.Error(err)
		}
		leave(a)
	}
	disk.fails = func() int { return 0 }
	a = mustOpen(t, disk.under(o))
	defer leave(a)
	got := readDevice(t, a, "v", 0, 20)
	if string(got) != "below the checkpoint" || !bytes.HasPrefix(disk.powerCut().medium, got) {
		t.Errorf("the backing has %q", got)
	}
}
