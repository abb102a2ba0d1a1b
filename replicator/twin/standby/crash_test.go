package standby

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/crashfs"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/seed"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

var errCut = errors.New("the power is gone")

// power is cut before the n-th change to a disk: from then on nothing changes any more.
type power struct {
	left atomic.Int64
}

// use reports whether there is power for one more change.
func (p *power) use() bool { return p.left.Add(-1) >= 0 }

func (p *power) gone() bool { return p.left.Load() < 0 }

// unreachable is a store that does not answer while it is away.
type unreachable struct {
	objstore.Store
	away bool
}

func (u *unreachable) err() error { return fail.New(fail.Retry, "reach", u.URL(), "it is away") }

func (u *unreachable) Read(ctx context.Context, name string, off, n int64, buf []byte) ([]byte, error) {
	if u.away {
		return nil, u.err()
	}
	return u.Store.Read(ctx, name, off, n, buf)
}

func (u *unreachable) Size(ctx context.Context, name string) (int64, error) {
	if u.away {
		return 0, u.err()
	}
	return u.Store.Size(ctx, name)
}

func (u *unreachable) List(ctx context.Context, prefix, after string, fn func(objstore.Info) error) error {
	if u.away {
		return u.err()
	}
	return u.Store.List(ctx, prefix, after, fn)
}

// crashing is a world whose power is cut again and again.
type crashing struct {
	*world
	mem   *vfs.MemFS
	power *power
	link  *unreachable
	cuts  int
}

// connect gives the standby its disks, with power for some more changes; below 0 for ever.
func (c *crashing) connect(changes int) {
	p := &power{}
	p.left.Store(int64(changes))
	if changes < 0 {
		p.left.Store(1 << 30)
	}
	c.power = p
	c.fs = &crashfs.FS{FS: c.mem, Before: func(crashfs.Op) {
		if !p.use() {
			panic(errCut)
		}
	}}
	c.disk.before = func() error {
		if !p.use() {
			return errCut
		}
		return nil
	}
}

// try runs fn until it ends or the power is cut; then the disks are what a power cut leaves.
func (c *crashing) try(fn func() error) (cut bool, err error) {
	defer func() {
		if !c.power.gone() {
			return
		}
		if e := recover(); e != nil && e != errCut { //nolint:errorlint // the very value
			panic(e)
		}
		cut, err = true, nil
		c.cuts++
		copies := c.disk.copies
		c.mem = c.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: c.r})
		c.disk = c.disk.cut(c.r)
		c.disk.copies = copies
	}()
	return false, fn()
}

// TestCrash: a power cut before any change to a disk costs nothing: what was noted is finished
// without the store, and is a point; then it goes on as ever.
func TestCrash(t *testing.T) {
	base := seed.New(t)
	for i := range uint64(*randomRounds) {
		t.Run(fmt.Sprint(i), func(t *testing.T) { testCrash(t, base+1000+i) })
	}
}

func testCrash(t *testing.T, n uint64) {
	w := newWorld(t, n)
	c := &crashing{world: w, mem: vfs.NewCrashableMem(), link: &unreachable{Store: w.store}}
	c.o.Store = c.link
	r := rand.New(rand.NewPCG(n, 3))
	c.connect(-1)
	c.open()
	for range 40 {
		c.step()
		c.connect(r.IntN([]int{12, 60, 300}[r.IntN(3)]))
		cut, err := c.try(func() error {
			c.open()
			return c.settle()
		})
		if err != nil {
			t.Fatal(err)
		}
		if !cut {
			c.check()
			continue
		}
		c.connect(-1)
		c.open()
		c.link.away = true
		if c.s.cur != nil {
			noted := c.s.cur.torn()
			_, err := c.s.step(t.Context())
			if noted && c.s.cur.torn() {
				t.Fatalf("what was noted could not be finished: %v", err)
			}
		}
		c.link.away = false
		if c.s.cur != nil {
			c.compare(false)
		}
	}
	c.connect(-1)
	c.open()
	if c.resyncing {
		c.log.Random(c.r, 1)
		c.log.EndLeap()
	}
	c.log.Random(c.r, 1)
	c.tick()
	c.must(c.settle())
	c.newest(len(c.log.Volumes))
	t.Logf("%d power cuts, %d whole copies of %d volumes", c.cuts, c.disk.copies, c.volumes)
}
