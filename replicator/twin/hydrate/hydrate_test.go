package hydrate

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/seed"
	"github.com/pollux-dr/pollux/replicator/logtest"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
)

const testBytes = extent.LeafBytes + 3<<20 + 512

// TestModel reads and writes at random, while others read and the background fills, with
// restarts, and compares every byte.
func TestModel(t *testing.T) {
	g := newRig(t, seed.New(t), testBytes, mixed(40)).create()
	for round := range 4 {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(i), uint64(round)))
				for ctx.Err() == nil {
					if err := g.ReadAt(make([]byte, 1+r.IntN(9000)), r.Int64N(testBytes-9000)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		if round > 0 {
			wg.Go(func() { _ = g.Hydrate(ctx, Run{}) })
		}
		for range 60 {
			g.change()
			g.compare(g.somewhere())
			if g.r.IntN(10) == 0 {
				if err := g.Sync(); err != nil {
					t.Error(err)
				}
			}
		}
		cancel()
		wg.Wait()
		if g.Done() {
			break
		}
		if err := g.Sync(); err != nil {
			t.Error(err)
		}
		g.stop()
		g.start()
	}
	g.hydrate()
	g.change()
	g.compare(0, testBytes)
	g.stop()
}

// large writes random blocks of 64 KiB in the order of the volume, each twice over.
func large(l *logtest.Log, r *rand.Rand) {
	for range 2 {
		for off := int64(0); off < l.Sizes["v"]; off += 64 << 10 {
			b := make([]byte, 0, 64<<10)
			for len(b) < cap(b) {
				b = binary.LittleEndian.AppendUint64(b, r.Uint64())
			}
			l.Frame(l.Write("v", off, b))
			if off%(1<<20) == 0 {
				l.Segment()
			}
		}
	}
}

// TestReads counts: a cold read of a page is one request, many readers of it make one, and the
// background reads each byte of what counts about once, also when it was begun before.
func TestReads(t *testing.T) {
	const size = 24 << 20
	g := newRig(t, seed.New(t), size, large).create()
	g.compare(0, pageBytes) // opens the log
	cold := func(off int64, readers int) {
		t.Helper()
		before := g.store.reads.Load()
		var wg sync.WaitGroup
		for range readers {
			wg.Go(func() {
				got := make([]byte, pageBytes)
				if err := g.ReadAt(got, off); err != nil || !bytes.Equal(got, g.want[off:off+pageBytes]) {
					t.Error("read at ", off, err)
				}
			})
		}
		wg.Wait()
		if n := g.store.reads.Load() - before; n != 1 {
			t.Errorf("%d requests for a page that %d read", n, readers)
		}
	}
	cold(1<<20, 1)
	cold(2<<20, 8)
	before := g.store.reads.Load()
	g.compare(2<<20, 64<<10) // came along
	if n := g.store.reads.Load() - before; n != 0 {
		t.Errorf("%d requests for the rest of a block", n)
	}
	if err := g.WriteAt(g.want[3<<20:4<<20], 3<<20); err != nil || g.store.reads.Load() != before {
		t.Error("whole pages were fetched to be overwritten: ", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	sync := func() error {
		err := g.Sync()
		if g.Stats().HereBytes > size/4 && err == nil {
			cancel()
			err = ctx.Err()
		}
		return err
	}
	g.Backing.o.SyncBytes = 1 << 20
	_ = g.Hydrate(ctx, Run{Sync: sync})
	t.Logf("cut with %d of %d bytes here", g.Stats().HereBytes, int64(size))
	g.stop()
	g.start()
	g.hydrate()
	read := int64(0)
	for _, n := range g.store.bytes {
		read += n
	}
	stored, err := g.o.Image(t.Context(), g.point)
	if err != nil {
		t.Fatal(err)
	}
	defer stored.Close()
	plan, err := stored.Plan(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer plan.Close()
	t.Logf("%d bytes read for %d of blocks, in %d requests", read, plan.Bytes, g.store.reads.Load())
	// What eight fetchers had under way when it was cut, of an object of 1 MiB each, is read again;
	// the footers, of which there are several readings, come on top.
	if read > plan.Bytes+10<<20 {
		t.Errorf("%d bytes were read for %d", read, plan.Bytes)
	}
	g.stop()
}

// TestAway: while the store is away, what is here is read and written, and what is not waits,
// until the store is back, or somebody closes the image.
func TestAway(t *testing.T) {
	for _, back := range []bool{true, false} {
		g := newRig(t, seed.New(t), 1<<20, large)
		noted := make(chan error, 100)
		g.o.Notify = func(err error) {
			select {
			case noted <- err:
			default:
			}
		}
		g.create()
		g.store.away.Store(true)
		page := bytes.Repeat([]byte{5}, 2*pageBytes)
		copy(g.want[8192:], page)
		if err := g.WriteAt(page, 8192); err != nil {
			t.Fatal(err)
		}
		g.compare(8192, 8192)
		if err := g.Sync(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 2)
		go func() { ended <- g.ReadAt(make([]byte, 100), 0) }()
		go func() { ended <- g.WriteAt(g.want[99:100], 99) }()
		if err := <-noted; !fail.Is(err, fail.Retry) {
			t.Error(err)
		}
		if s := g.Stats(); s.Error == nil {
			t.Error("the status says nothing")
		}
		if back {
			g.store.away.Store(false)
		} else {
			g.stop()
		}
		for range 2 {
			if err := <-ended; (err == nil) != back {
				t.Error(err)
			}
		}
		if back {
			g.hydrate()
			g.stop()
		}
	}
}

// TestNoLog: where even the log is not to be found, as in a directory that is not mounted, reads
// wait: that is no damage.
func TestNoLog(t *testing.T) {
	g := newRig(t, seed.New(t), 1<<20, large)
	noted := make(chan error, 100)
	g.o.Notify = func(err error) {
		select {
		case noted <- err:
		default:
		}
	}
	g.create()
	g.compare(0, 100) // the log is open
	g.store.gone.Store(true)
	ended := make(chan error, 1)
	go func() { ended <- g.ReadAt(make([]byte, 100), 512<<10) }()
	select {
	case err := <-ended:
		t.Fatal("it did not wait: ", err)
	case err := <-noted:
		if !fail.Is(err, fail.Retry) {
			t.Error(err)
		}
	}
	g.store.gone.Store(false)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	g.hydrate()
	g.stop()
}

// TestGarbage: an image holds anything where no page is here, as a device does, or a file after a
// crash: clients' writes that were not synced, in holes too. None of it stays.
func TestGarbage(t *testing.T) {
	for _, background := range []bool{false, true} {
		g := newRig(t, seed.New(t), extent.LeafBytes+1<<20, mixed(10)).create()
		if err := g.disk.WriteAt(bytes.Repeat([]byte{0xee}, len(g.want)), 0); err != nil {
			t.Fatal(err)
		}
		if !background {
			g.compare(0, int64(len(g.want)))
		}
		g.hydrate()
		g.stop()
	}
}

// TestDamage: what lies in a damaged object cannot be read, and says why; all else is read and
// brought here, and when the object is mended, so is the rest.
func TestDamage(t *testing.T) {
	g := newRig(t, seed.New(t), 2<<20, func(l *logtest.Log, r *rand.Rand) {
		l.Frame(l.Write("v", 0, bytes.Repeat([]byte{1, 2, 3, 4}, 1<<18)))
		l.Segment()
		l.Frame(l.Write("v", 1<<20, bytes.Repeat([]byte{4, 2, 3, 4}, 1<<17)))
	}).create()
	g.compare(0, 100)
	name := g.lastObject()
	g.store.bend.Store(&name)
	for range 2 {
		if err := g.ReadAt(make([]byte, 100), 1<<20); !fail.Is(err, fail.Damaged) {
			t.Fatal(err)
		}
	}
	g.compare(500<<10, 4096)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Hydrate(ctx, Run{}) }()
	for g.Stats().HereBytes < 2<<20-512<<10 {
		time.Sleep(time.Millisecond)
	}
	g.compare(0, 1<<20)
	if err := g.Stats().Error; !fail.Is(err, fail.Damaged) {
		t.Error(err)
	}
	whole := bytes.Repeat([]byte{7}, pageBytes)
	copy(g.want[1<<20:], whole)
	if err := g.WriteAt(whole, 1<<20); err != nil {
		t.Error(err)
	}
	g.compare(1<<20, pageBytes)
	g.store.bend.Store(nil)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	cancel()
	g.plain()
	g.stop()
}

func (g *rig) lastObject() (name string) {
	names := map[string]bool{}
	for n := range g.store.bytes {
		names[n] = true
		if n > name {
			name = n
		}
	}
	return name
}

// TestFull: with no room on the disk, reads come from the store all the same, and the error is
// told; with room it goes on.
func TestFull(t *testing.T) {
	g := newRig(t, seed.New(t), 1<<20, mixed(20)).create()
	g.disk.full.Store(true)
	g.compare(0, 1<<20)
	g.compare(4000, 200000)
	if err := g.Stats().Error; !fail.Is(err, fail.Full) {
		t.Error(err)
	}
	if err := g.WriteAt(make([]byte, pageBytes), 0); !fail.Is(err, fail.Full) {
		t.Error(err)
	}
	g.compare(0, pageBytes)
	g.disk.full.Store(false)
	g.hydrate()
	g.stop()
}

// TestSyncFails: what a sync that failed should have made durable counts for nothing, until it
// is written again.
func TestSyncFails(t *testing.T) {
	g := newRig(t, seed.New(t), 1<<20, mixed(20)).create()
	g.change()
	if err := g.Sync(); err != nil {
		t.Fatal(err)
	}
	synced := bytes.Clone(g.want)
	page := bytes.Repeat([]byte{3}, 2*pageBytes)
	if err := g.WriteAt(page, 100); err != nil {
		t.Fatal(err)
	}
	g.disk.bad.Store(true)
	for range 2 {
		if err := g.Sync(); err == nil {
			t.Fatal("a failed sync is forgotten")
		}
	}
	_ = g.disk.WriteAt(bytes.Repeat([]byte{0xbb}, 4*pageBytes), 0) // the kernel dropped it
	here := g.pages.here.Load()
	g.Unsynced()
	if g.pages.here.Load() >= here {
		t.Error("what was not synced is still here")
	}
	copy(g.want, synced)
	copy(g.want[100:], page)
	for i := range g.pages.total { // what was durable is the disk's to keep
		if g.pages.has(i) && i < 4 {
			_ = g.disk.WriteAt(g.want[i*pageBytes:(i+1)*pageBytes], i*pageBytes)
		}
	}
	if err := g.WriteAt(page, 100); err != nil {
		t.Fatal(err)
	}
	g.compare(0, 1<<20)
	g.hydrate()
	g.stop()
}

// TestAnotherHistory: a log that has the point's LSN on a branch of its own does not fill the image, as a
// target that is not in line yet may have it; nor is the image taken for one of that branch's.
func TestAnotherHistory(t *testing.T) {
	var here *logtest.Place
	g := newRig(t, 1, 1<<20, func(l *logtest.Log, _ *rand.Rand) {
		l.Frame(l.Write("v", 0, []byte("both")))
		l.Segment()
		here = l.Here()
		l.Frame(l.Write("v", 4096, []byte("dead")))
	})
	dead := g.point
	g.log.GoBack(here)
	g.log.Frame(g.log.Write("v", 8192, []byte("live")))
	g.log.Segment()
	if m, err := dead.Image(t.Context(), g.open(), ""); !fail.Is(err, fail.NotFound) {
		t.Errorf("%v, %v", m, err)
	}
	if err := Create(g.place(), dead); err != nil {
		t.Fatal(err)
	}
	p, err := g.open().PointOf(t.Context(), "v", "")
	if err != nil {
		t.Fatal(err)
	}
	live, err := PointOf(t.Context(), g.open(), p)
	if err != nil || live.LSN != dead.LSN {
		t.Fatal(live, err)
	}
	live.Epoch = dead.Epoch
	for at, want := range map[Point]bool{dead: true, live: false} {
		if made, err := Made(g.place(), at); made != want || err != nil {
			t.Errorf("%+v: %v, %v", at, made, err)
		}
	}
	old := dead // as an earlier release named it
	old.Hash = change.Hash{}
	if made, err := Made(g.place(), old); !made || err != nil {
		t.Errorf("without a hash: %v, %v", made, err)
	}
}
