package hydrate

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/logtest"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// disk is an image on any filesystem, as the agent's backing has it.
type disk struct {
	f    vfs.File
	size int64
	full atomic.Bool
	bad  atomic.Bool // the next Sync fails

	synced func() // is called at the end of Sync
}

var errBad = errors.New("the disk is bad")

func (d *disk) ReadAt(p []byte, off int64) error {
	n, err := d.f.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		clear(p[n:])
		err = nil
	}
	return err
}

func (d *disk) WriteAt(p []byte, off int64) error {
	if d.full.Load() {
		return fail.New(fail.Full, "write", "image", "no space left")
	}
	_, err := d.f.WriteAt(bytes.Clone(p), off)
	return err
}

func (d *disk) Zero(off, n int64, _ bool) error { return d.WriteAt(make([]byte, n), off) }
func (d *disk) Sync() error {
	if d.bad.Swap(false) {
		return errBad
	}
	err := d.f.SyncData()
	if d.synced != nil {
		d.synced()
	}
	return err
}
func (d *disk) StartSync(int64, int64)                     {}
func (d *disk) Unsynced()                                  {}
func (d *disk) Forget(int64, int64)                        {}
func (d *disk) SizeBytes() int64                           { return d.size }
func (d *disk) Whole() error                               { return nil }
func (d *disk) SetIdentity(string, string) error           { return nil }
func (d *disk) HasIdentity(string) bool                    { return false }
func (d *disk) ClearIdentity(string) error                 { return nil }
func (d *disk) Data(off int64) (start, n int64, err error) { return off, d.size - off, nil }
func (d *disk) Close() error                               { return d.f.Close() }

// counted is a store that counts, and can be away or bent.
type counted struct {
	objstore.Store
	reads atomic.Int64
	away  atomic.Bool
	gone  atomic.Bool            // has nothing at all
	bend  atomic.Pointer[string] // damages what is read of objects with this name

	mu    sync.Mutex
	bytes map[string]int64 // read, by object
}

func (c *counted) Read(ctx context.Context, name string, off, n int64, buf []byte) ([]byte, error) {
	if c.away.Load() {
		return nil, fail.New(fail.Retry, "read", name, "the store is away")
	}
	if c.gone.Load() {
		return nil, fail.New(fail.NotFound, "read", name, "no such object")
	}
	c.reads.Add(1)
	out, err := c.Store.Read(ctx, name, off, n, buf)
	c.mu.Lock()
	c.bytes[name] += int64(len(out))
	c.mu.Unlock()
	if s := c.bend.Load(); s != nil && strings.Contains(name, *s) && len(out) > 0 {
		out[len(out)/2] ^= 1
	}
	return out, err
}

// rig is a volume of a log, and an image of it at the newest point.
type rig struct {
	t     *testing.T
	r     *rand.Rand
	fs    vfs.FS
	store *counted
	log   *logtest.Log
	point Point
	o     Options
	disk  *disk
	*Backing
	want []byte
}

const imagePath = "/v.img"

func newRig(t *testing.T, seed uint64, size int64, write func(l *logtest.Log, r *rand.Rand)) *rig {
	t.Helper()
	g := &rig{t: t, r: rand.New(rand.NewPCG(seed, 0)), fs: vfs.NewMem()}
	s, err := objstore.Open(t.Context(), "file://"+t.TempDir(), objstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	g.store = &counted{Store: s, bytes: map[string]int64{}}
	g.log = logtest.New(t, s)
	g.log.Volume("v", size)
	write(g.log, g.r)
	g.log.Segment()
	l := g.open()
	p, err := l.PointOf(t.Context(), "v", "")
	if err != nil {
		t.Fatal(err)
	}
	if g.point, err = PointOf(t.Context(), l, p); err != nil {
		t.Fatal(err)
	}
	g.want = bytes.Clone(g.log.Images["v"])
	g.o = Options{MinWait: time.Millisecond, MaxWait: 5 * time.Millisecond, DamageWait: time.Millisecond,
		Image: func(ctx context.Context, p Point) (*twin.Image, error) {
			l, err := twin.Open(ctx, g.store, nil)
			if err != nil {
				return nil, err
			}
			return p.Image(ctx, l, "")
		}}
	return g
}

func (g *rig) open() *twin.Log {
	l, err := twin.Open(g.t.Context(), g.store, nil)
	if err != nil || l.Damage != nil {
		g.t.Fatal(err, l.Damage)
	}
	return l
}

func (g *rig) place() Place { return Place{Path: imagePath, FS: g.fs} }

// create makes the image, and start opens it.
func (g *rig) create() *rig {
	g.t.Helper()
	if err := Create(g.place(), g.point); err != nil {
		g.t.Fatal(err)
	}
	return g.start()
}

func (g *rig) start() *rig {
	g.t.Helper()
	f, err := g.fs.OpenReadWrite(imagePath, vfs.WriteCategoryUnspecified)
	if err != nil {
		g.t.Fatal(err)
	}
	g.disk = &disk{f: f, size: g.point.SizeBytes}
	p := g.place()
	if pending, err := p.Pending(); err != nil || !pending {
		g.t.Fatal("pending: ", pending, err)
	}
	if g.Backing, err = Open(g.disk, p, g.o); err != nil {
		g.t.Fatal(err)
	}
	return g
}

func (g *rig) stop() {
	g.t.Helper()
	if err := g.Close(); err != nil {
		g.t.Fatal(err)
	}
}

func differ(t *testing.T, what string, got, want []byte, off int64) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%s differs at byte %d: %x, want %x", what, off+int64(i), got[i], want[i])
		}
	}
}

func (g *rig) compare(off, n int64) {
	g.t.Helper()
	got := bytes.Repeat([]byte{0xee}, int(n))
	if err := g.ReadAt(got, off); err != nil {
		g.t.Fatal(err)
	}
	differ(g.t, "what was read", got, g.want[off:off+n], off)
}

func (g *rig) somewhere() (off, n int64) {
	size := g.point.SizeBytes
	off = g.r.Int64N(size)
	n = 1 + g.r.Int64N(min(size-off, []int64{100, 9000, 1 << 20}[g.r.IntN(3)]))
	if g.r.IntN(2) == 0 {
		off = off / pageBytes * pageBytes
		n = min((n+pageBytes-1)/pageBytes*pageBytes, size-off)
	}
	return off, n
}

// change writes somewhere, to the model too.
func (g *rig) change() {
	g.t.Helper()
	off, n := g.somewhere()
	p := g.want[off : off+n]
	var err error
	if g.r.IntN(4) == 0 {
		clear(p)
		err = g.Zero(off, n, g.r.IntN(2) == 0)
	} else {
		for i := range p {
			p[i] = byte(g.r.Uint32())
		}
		err = g.WriteAt(p, off)
	}
	if err != nil {
		g.t.Fatal(err)
	}
}

// hydrate fills all, and checks that the image is a plain one.
func (g *rig) hydrate() {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), time.Minute)
	defer cancel()
	if err := g.Hydrate(ctx, Run{}); err != nil {
		g.t.Fatal(err)
	}
	g.plain()
}

func (g *rig) plain() {
	g.t.Helper()
	s := g.Stats()
	if !s.Done || s.HereBytes != s.SizeBytes || s.Error != nil {
		g.t.Fatalf("%+v", s)
	}
	p := g.place()
	if pending, err := p.Pending(); err != nil || pending {
		g.t.Fatal("pending: ", pending, err)
	}
	got := make([]byte, len(g.want))
	if err := g.disk.ReadAt(got, 0); err != nil {
		g.t.Fatal(err)
	}
	differ(g.t, "the image", got, g.want, 0)
}

// mixed writes a random log.
func mixed(n int) func(l *logtest.Log, r *rand.Rand) {
	return func(l *logtest.Log, r *rand.Rand) {
		size := l.Sizes["v"]
		if size > extent.LeafBytes {
			l.Frame(l.Write("v", extent.LeafBytes-5000, bytes.Repeat([]byte{9}, 10000)))
		}
		l.Random(r, n)
		l.Frame(l.Write("v", size-100, bytes.Repeat([]byte{8}, 100)))
	}
}
