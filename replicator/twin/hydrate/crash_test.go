package hydrate

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/crashfs"
	"github.com/pollux-dr/pollux/internal/seed"
)

// op is a change that the agent's WAL has: it is written again after a crash, if no Sync that
// succeeded came after it.
type op struct {
	off, n int64
	data   []byte // nil: zeros
}

// crashing is a rig whose power is cut at some operation of its disk.
type crashing struct {
	*rig
	mem *vfs.MemFS
	cfs *crashfs.FS

	mu     sync.Mutex
	ops    []op
	synced int // so many of ops lie before the last Sync that succeeded
	left   int // operations until the cut
	clone  *vfs.MemFS
	// of the cut:
	opsThen, syncedThen int
}

func (c *crashing) before(crashfs.Op) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left--; c.left != 0 {
		return
	}
	c.opsThen, c.syncedThen = len(c.ops), c.synced
	percent := []int{0, 50, 100}[len(c.ops)%3]
	c.clone = c.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent,
		RNG: rand.New(rand.NewPCG(uint64(c.opsThen), uint64(percent)))})
}

func (c *crashing) cut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.clone != nil
}

func (c *crashing) on(mem *vfs.MemFS, left int) {
	c.mem, c.clone, c.left = mem, nil, left
	c.cfs = &crashfs.FS{FS: mem, Before: c.before}
	c.fs = c.cfs
}

func (c *crashing) do(o op) {
	c.t.Helper()
	var err error
	if o.data == nil {
		err = c.Zero(o.off, o.n, false)
	} else {
		err = c.WriteAt(o.data, o.off)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *crashing) change() {
	off, n := c.somewhere()
	o := op{off: off, n: n}
	if c.r.IntN(4) > 0 {
		o.data = make([]byte, n)
		for i := range o.data {
			o.data[i] = byte(c.r.Uint32())
		}
	}
	c.mu.Lock()
	c.ops = append(c.ops, o)
	c.mu.Unlock()
	c.do(o)
	apply(c.want, o)
}

func apply(img []byte, o op) {
	if clear(img[o.off : o.off+o.n]); o.data != nil {
		copy(img[o.off:], o.data)
	}
}

func (c *crashing) sync() error {
	c.mu.Lock()
	n := len(c.ops)
	c.mu.Unlock()
	if err := c.Sync(); err != nil {
		return err
	}
	c.mu.Lock()
	c.synced = max(c.synced, n)
	c.mu.Unlock()
	return nil
}

// work is what happens until the power is cut: changes, reads, syncs, and the background.
func (c *crashing) work(steps int) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	var wg sync.WaitGroup
	if c.r.IntN(3) > 0 {
		wg.Go(func() { _ = c.Hydrate(ctx, Run{Sync: c.Sync}) })
	}
	for i := 0; i < steps && !c.cut(); i++ {
		switch c.r.IntN(6) {
		case 0, 1, 2:
			c.change()
		case 3, 4:
			c.compare(c.somewhere())
		case 5:
			if err := c.sync(); err != nil {
				c.t.Fatal(err)
			}
		}
	}
	cancel()
	wg.Wait()
}

// TestCrash cuts the power at random operations of the disk, in the middle of the background's
// work and of syncs, writes again what the agent would, and compares every byte.
func TestCrash(t *testing.T) {
	s := seed.New(t)
	for i := range uint64(6) {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			const size = 1<<20 + 512
			c := &crashing{rig: newRig(t, s+i, size, mixed(30))}
			c.o.SyncBytes = 64 << 10
			first := bytes.Clone(c.want)
			c.on(vfs.NewCrashableMem(), 0)
			c.create()
			for range 12 {
				c.mu.Lock()
				c.left = 1 + c.r.IntN(60)
				c.mu.Unlock()
				c.work(100)
				c.mu.Lock()
				if c.clone == nil { // it ended before: after the last one
					c.left = 1
					c.mu.Unlock()
					c.before(crashfs.Op{})
					c.mu.Lock()
				}
				clone, ops, synced := c.clone, c.opsThen, c.syncedThen
				c.mu.Unlock()
				done := c.Done()
				c.stop()
				c.on(clone, 0)
				if pending, err := new(c.place()).Pending(); err != nil {
					t.Fatal(err)
				} else if !pending { // it was complete then, or is removed durably: a plain image
					if !done {
						t.Fatal("the side file is gone, and the image is not complete")
					}
					c.finishPlain(first, ops, synced)
					return
				}
				c.start()
				c.ops, c.synced = c.ops[:ops], synced // a Sync that ended after the cut is of no world
				copy(c.want, first)
				for k, o := range c.ops {
					if apply(c.want, o); k >= synced {
						c.do(o)
					}
				}
				c.compare(0, size)
			}
			c.hydrate()
			c.stop()
		})
	}
}

// finishPlain checks a complete image after a crash, to which the agent writes again.
func (c *crashing) finishPlain(first []byte, ops, synced int) {
	c.t.Helper()
	f, err := c.fs.OpenReadWrite(imagePath, vfs.WriteCategoryUnspecified)
	if err != nil {
		c.t.Fatal(err)
	}
	d := &disk{f: f, size: c.point.SizeBytes}
	defer d.Close()
	want := bytes.Clone(first)
	for k, o := range c.ops[:ops] {
		if apply(want, o); k >= synced && o.data != nil {
			_ = d.WriteAt(o.data, o.off)
		} else if k >= synced {
			_ = d.Zero(o.off, o.n, false)
		}
	}
	got := make([]byte, len(want))
	if err := d.ReadAt(got, 0); err != nil {
		c.t.Fatal(err)
	}
	differ(c.t, "the complete image after a crash", got, want, 0)
}

// TestCreateCrash cuts the power at each operation of Create: there is no image then, or one
// that says that it is not complete.
func TestCreateCrash(t *testing.T) {
	g := newRig(t, seed.New(t), 1<<20, mixed(5))
	for n := 1; ; n++ {
		mem := vfs.NewCrashableMem()
		var clones []*vfs.MemFS
		left := n
		g.fs = &crashfs.FS{FS: mem, Before: func(crashfs.Op) {
			if left--; left == 0 {
				for _, percent := range []int{0, 100} {
					clones = append(clones, mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent,
						RNG: rand.New(rand.NewPCG(1, 2))}))
				}
			}
		}}
		if err := Create(g.place(), g.point); err != nil {
			t.Fatal(err)
		}
		for _, c := range clones {
			_, err := c.Stat(imagePath)
			if pending, perr := (&Place{Path: imagePath, FS: c}).Pending(); err == nil && (!pending || perr != nil) {
				t.Errorf("operation %d: an image without a side file: %v", n, perr)
			}
			g.fs = c
			if err != nil {
				if err := Create(g.place(), g.point); err != nil {
					t.Error(err)
				}
			}
			g.start()
			g.compare(0, 1<<20)
			g.stop()
		}
		if clones == nil {
			t.Log(n, " operations")
			return
		}
	}
}

// TestWrittenMeanwhile: what is written while a sync runs does not count as synced by it.
func TestWrittenMeanwhile(t *testing.T) {
	g := newRig(t, seed.New(t), 1<<20, large)
	mem := vfs.NewCrashableMem()
	g.fs = mem
	g.create()
	g.disk.synced = func() {
		if err := g.WriteAt(bytes.Repeat([]byte{1}, 4*pageBytes), 0); err != nil {
			t.Error(err)
		}
	}
	if err := g.Sync(); err != nil {
		t.Fatal(err)
	}
	g.stop()
	g.fs = mem.CrashClone(vfs.CrashCloneCfg{})
	g.start()
	g.compare(0, 1<<20)
	g.stop()
}

// TestSyncMatters shows that the test above would find a side file that is not synced, and
// bits that come before their data.
func TestSyncMatters(t *testing.T) {
	for _, lose := range []string{imagePath, imagePath + SideSuffix} {
		g := newRig(t, seed.New(t), 1<<20, mixed(20))
		mem := vfs.NewCrashableMem()
		g.fs = &crashfs.FS{FS: mem, Lose: func(o crashfs.Op) bool { return o.Kind == "sync" && o.Path == lose }}
		g.create()
		page := bytes.Repeat([]byte{0x77}, pageBytes)
		if err := g.WriteAt(page, 0); err != nil {
			t.Fatal(err)
		}
		if err := g.Sync(); err != nil {
			t.Fatal(err)
		}
		g.stop()
		g.fs = mem.CrashClone(vfs.CrashCloneCfg{})
		g.start()
		got := make([]byte, pageBytes)
		if err := g.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(got, page) {
			t.Errorf("without the sync of %s nothing is lost", lose)
		}
		g.stop()
	}
}
