package catalogs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/logtest"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/gc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	enough     = 30 * time.Second
	volumeSize = 200 << 10
)

// rig is a host that leads all the time, with one target.
type rig struct {
	*logtest.Log
	t     *testing.T
	fs    vfs.FS
	o     Options
	r     *rand.Rand
	logs  lines
	wraps func(objstore.Store) objstore.Store // what is between the maker and the store

	mu      sync.Mutex
	target  change.TargetInfo
	noted   []change.CatalogInfo
	changed chan struct{} // gets one when something was noted
}

func newRig(t *testing.T) *rig {
	h := &rig{t: t, fs: vfs.NewMem(), r: rand.New(rand.NewPCG(1, 7)), changed: make(chan struct{}, 1)}
	s, err := objstore.Open(t.Context(), "file:///log", objstore.Options{FS: h.fs})
	if err != nil {
		t.Fatal(err)
	}
	h.Log = logtest.New(t, s)
	h.Keeping = true
	h.Volume("v", volumeSize)
	h.o = Options{Host: h, Targets: []config.Target{{Name: "x"}}, Every: 5, StateDir: t.TempDir(),
		Logger: slog.New(slog.NewTextHandler(&h.logs, nil)),
		Poll:   time.Millisecond, First: time.Millisecond, Longest: 4 * time.Millisecond, Lasting: time.Millisecond,
		Yield: time.Nanosecond}
	h.o.complete()
	return h
}

func (h *rig) Lead(ctx context.Context, work func(context.Context, uint64)) { work(ctx, 1) }

func (h *rig) Targets() []change.TargetInfo {
	h.mu.Lock()
	defer h.mu.Unlock()
	return []change.TargetInfo{h.target}
}

func (h *rig) NoteCatalog(_ string, c change.CatalogInfo) {
	h.mu.Lock()
	h.noted = append(h.noted, c)
	h.mu.Unlock()
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

func (h *rig) OpenStore(ctx context.Context, _ config.Target, _ int) (objstore.Store, error) {
	s, err := objstore.Open(ctx, "file:///log", objstore.Options{FS: h.fs})
	if err == nil && h.wraps != nil {
		s = h.wraps(s)
	}
	return s, err
}

// grow writes to the log until it has n objects more, and says so.
func (h *rig) grow(n int) {
	h.t.Helper()
	for range n {
		data := make([]byte, 1+h.r.IntN(9000))
		for i := range data {
			data[i] = byte(h.r.Uint32())
		}
		h.Frame(h.Write("v", h.r.Int64N(volumeSize-int64(len(data))), data))
		h.Keep()
		h.Segment()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.target = change.TargetInfo{Name: "x", Position: h.Position}
}

// run is Run, until stop is called.
func (h *rig) run() (stop func()) {
	ctx, cancel := context.WithCancel(h.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); Run(ctx, h.o) }()
	return func() { cancel(); <-done }
}

// await waits until what was noted last is as said.
func (h *rig) await(what string, is func(change.CatalogInfo) bool) {
	h.t.Helper()
	limit := time.After(enough)
	for {
		h.mu.Lock()
		n := len(h.noted)
		ok := n > 0 && is(h.noted[n-1])
		h.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-h.changed:
		case <-limit:
			h.t.Fatalf("%s does not come: %+v; the log ends at %d\n%s", what, h.noted, h.Position, h.logs.String())
		}
	}
}

func (h *rig) covered(position uint64) {
	h.t.Helper()
	h.await("the catalog", func(c change.CatalogInfo) bool { return c.Position == position && c.Error == "" })
}

// check restores the newest point and one before the catalog, by it.
func (h *rig) check(number uint64, lsns ...uint64) {
	h.t.Helper()
	l, err := twin.Open(h.t.Context(), h.Store, nil)
	if err != nil || l.Damage != nil || l.Catalog == nil || l.Catalog.Number != number {
		h.t.Fatalf("%v, %+v; want catalog %d", err, l, number)
	}
	v, err := l.Volume("v")
	if err != nil {
		h.t.Fatal(err)
	}
	if p := l.PointsOf(h.t.Context(), v); !p.Ready || p.Newest.LSN != h.Point.LSN || p.First.LSN != 1 {
		h.t.Errorf("points: %+v", p)
	}
	for _, lsn := range append(lsns, h.Point.LSN) {
		p, err := l.Resolve(h.t.Context(), v, fmt.Sprint(lsn), time.Now())
		if err != nil {
			h.t.Fatal(err)
		}
		got := make(memory, volumeSize)
		if _, err := l.Restore(h.t.Context(), p, got); err != nil {
			h.t.Fatal(err)
		}
		if want := h.History[lsn]["v"]; want == nil || !bytes.Equal(got, want) {
			h.t.Errorf("LSN %d is not what the volume held", lsn)
		}
	}
	totals, err := twin.Examine(h.t.Context(), h.Store, func(*twin.Object) error { return nil })
	if err != nil || totals.Err() != nil {
		h.t.Error(err, totals.Err())
	}
}

type memory []byte

func (m memory) WriteAt(b []byte, off int64) (int, error) { return copy(m[off:], b), nil }

// lines is a log's text.
type lines struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(p)
}

func (h *rig) warned() int {
	h.logs.mu.Lock()
	defer h.logs.mu.Unlock()
	return strings.Count(h.logs.Buffer.String(), "level=WARN")
}

// TestGrows: a log that grows gets catalogs without any gc, one for so many objects, and
// verbs work from them.
func TestGrows(t *testing.T) {
	h := newRig(t)
	left := ScratchDir(h.o.StateDir) + "/pollux-map-1"
	if err := os.MkdirAll(left, 0o700); err != nil {
		t.Fatal(err)
	}
	h.grow(1)
	stop := h.run()
	h.await("the first look", func(c change.CatalogInfo) bool { return c.Position == 0 })
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a killed process left is there: %v", err)
	}
	h.grow(4)
	h.covered(h.Position)
	first := h.Point.LSN
	h.grow(4) // not enough
	h.grow(1)
	h.covered(h.Position)
	stop()
	h.check(1, first)
	if h.warned() > 0 {
		t.Error(h.logs.String())
	}
}

// TestLooksOnce: what is counted is not asked of the store.
func TestLooksOnce(t *testing.T) {
	h := newRig(t)
	counted := &countingStore{}
	h.wraps = func(s objstore.Store) objstore.Store { counted.Store = s; return counted }
	h.grow(1)
	m := &maker{o: &h.o, target: h.o.Targets[0], log: h.o.Logger}
	defer m.close()
	m.attempt(t.Context())
	if end, _ := m.end(); !m.looked || m.due(end) {
		t.Errorf("after the look: %+v", m)
	}
	h.grow(4)
	asked := counted.n
	if end, ok := m.end(); !ok || !m.due(end) {
		t.Error("not due")
	}
	if counted.n != asked || asked == 0 {
		t.Errorf("%d requests, then %d", asked, counted.n)
	}
	m.marks = 1000 // the more marks, the farther apart
	if end, _ := m.end(); m.due(end) {
		t.Error("due, with 1000 marks")
	}
}

type countingStore struct {
	objstore.Store
	n int
}

func (c *countingStore) List(ctx context.Context, prefix, after string, fn func(objstore.Info) error) error {
	c.n++
	return c.Store.List(ctx, prefix, after, fn)
}

// TestStopped: a catalog that is cut off leaves nothing here, and the next lead goes on.
func TestStopped(t *testing.T) {
	h := newRig(t)
	reached := make(chan struct{})
	h.wraps = func(s objstore.Store) objstore.Store { return &stuckStore{s, "catalog/", reached} }
	h.grow(20)
	stop := h.run()
	select {
	case <-reached:
	case <-time.After(enough):
		t.Fatal("no catalog is made")
	}
	if _, err := os.Stat(ScratchDir(h.o.StateDir)); err != nil {
		t.Error(err)
	}
	stop()
	if _, err := os.Stat(ScratchDir(h.o.StateDir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the scratch directory: %v", err)
	}
	h.wraps = nil
	stop = h.run()
	h.covered(h.Position)
	stop()
	h.check(0)
	if h.warned() > 0 {
		t.Error(h.logs.String())
	}
}

// stuckStore does not get done with the creation of some objects.
type stuckStore struct {
	objstore.Store
	prefix  string
	reached chan struct{}
}

func (s *stuckStore) Create(ctx context.Context, name string, body []byte) error {
	if !strings.HasPrefix(name, s.prefix) {
		return s.Store.Create(ctx, name, body)
	}
	close(s.reached)
	<-ctx.Done()
	return fail.Wrap(fail.Retry, "create", name, ctx.Err())
}

// TestBeside: what another maker made counts, and a log is left to it for a time.
func TestBeside(t *testing.T) {
	h := newRig(t)
	h.grow(6)
	m := &maker{o: &h.o, target: h.o.Targets[0], log: h.o.Logger}
	defer m.close()
	other := func(now time.Time) {
		t.Helper()
		c, err := gc.Catalog(t.Context(), h.Store, gc.Options{Now: func() time.Time { return now }})
		if err != nil || !c.New {
			t.Fatal(c, err)
		}
	}
	other(time.Now())
	h.grow(3)
	h.o.Yield = time.Hour
	if m.attempt(t.Context()); m.next != 1 || m.covered != h.Position-3 {
		t.Errorf("the other's catalog: %+v", m)
	}
	h.grow(3)
	if wait := m.attempt(t.Context()); wait < 59*time.Minute || m.own != 0 {
		t.Errorf("a log that is being collected: waits %v, made %d", wait, m.own)
	}
	h.grow(6)
	other(time.Now().Add(24 * 365 * time.Hour)) // a clock that is wrong holds up nothing
	h.grow(6)
	if m.attempt(t.Context()); m.own != 3 {
		t.Errorf("behind the catalog of a clock that is wrong: %+v", m)
	}
	h.grow(6)
	if m.attempt(t.Context()); m.own != 4 { // behind its own it need not wait
		t.Errorf("behind its own catalog: %+v", m)
	}
	h.grow(6)
	old := h.Position
	m.own = 0
	h.o.Yield = time.Nanosecond
	h.wraps, m.store = func(s objstore.Store) objstore.Store {
		return &fasterStore{Store: s, other: func() { other(time.Now()) }}
	}, nil
	if m.attempt(t.Context()); m.own != 0 || m.looked || m.failed != nil {
		t.Errorf("another was faster: %+v", m)
	}
	if m.attempt(t.Context()); !m.looked || m.covered != old {
		t.Errorf("after another look: %+v", m)
	}
	h.check(4)
}

// fasterStore has another maker create the catalog first.
type fasterStore struct {
	objstore.Store
	other func()
}

func (s *fasterStore) Create(ctx context.Context, name string, body []byte) error {
	if strings.HasPrefix(name, "catalog/") {
		s.other()
	}
	return s.Store.Create(ctx, name, body)
}

// TestCollecting: packs for the next catalog say that a collection is at work.
func TestCollecting(t *testing.T) {
	h := newRig(t)
	h.o.Yield = time.Hour
	h.grow(6)
	m := &maker{o: &h.o, target: h.o.Targets[0], log: h.o.Logger}
	defer m.close()
	if _, err := gc.Catalog(t.Context(), h.Store,
		gc.Options{Now: func() time.Time { return time.Now().Add(-2 * time.Hour) }}); err != nil {
		t.Fatal(err)
	}
	h.grow(6)
	for _, p := range []struct {
		number uint64
		waits  bool
	}{{0<<31 + 5, false}, {1<<31 + 5, true}} {
		if err := h.Store.Create(t.Context(), fmt.Sprintf("pack/%020d", p.number), []byte("p")); err != nil {
			t.Fatal(err)
		}
		if err := m.prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		if wait, err := m.yield(t.Context()); err != nil || wait > 0 != p.waits {
			t.Errorf("with pack %d: waits %v, %v", p.number, wait, err)
		}
	}
}

// TestBroken: a log that gc refuses is told of once, by log and status, and gets catalogs
// again once it is whole.
func TestBroken(t *testing.T) {
	h := newRig(t)
	h.grow(12)
	name := h.fs.PathJoin("/log", objlog.ObjectName(7))
	if err := h.fs.Rename(name, "/log/aside"); err != nil {
		t.Fatal(err)
	}
	stop := h.run()
	for range 3 {
		h.mu.Lock()
		h.noted = nil
		h.mu.Unlock()
		h.await("the error", func(c change.CatalogInfo) bool { return strings.Contains(c.Error, objlog.ObjectName(7)) })
	}
	if n := h.warned(); n != 1 {
		t.Errorf("%d warnings\n%s", n, h.logs.String())
	}
	if err := h.fs.Rename("/log/aside", name); err != nil {
		t.Fatal(err)
	}
	h.covered(h.Position)
	stop()
	h.check(0)
}

// TestWaits: between attempts, more and more after failures, and for long where the log is
// damaged or more than fits.
func TestWaits(t *testing.T) {
	h := newRig(t)
	h.o.First, h.o.Longest, h.o.Lasting = time.Second, 5*time.Second, time.Hour
	h.grow(6)
	away := &failingStore{err: fail.New(fail.Denied, "list", "x", "no")}
	h.wraps = func(s objstore.Store) objstore.Store { away.Store = s; return away }
	m := &maker{o: &h.o, target: h.o.Targets[0], log: h.o.Logger}
	defer m.close()
	for i, seconds := range []time.Duration{1, 2, 4, 5, 5} {
		want := seconds * time.Second
		if wait := m.attempt(t.Context()); wait != want {
			t.Errorf("after failure %d: %v, want %v", i+1, wait, want)
		}
	}
	if n := h.warned(); n != 1 {
		t.Errorf("%d warnings", n)
	}
	away.err = nil
	if wait := m.attempt(t.Context()); wait != h.o.Poll || m.own != 1 || !m.looked || m.next != 1 ||
		m.covered != h.Position {
		t.Errorf("after success: %v, %+v", wait, m)
	}
	h.mu.Lock()
	h.target.Position += most + 10
	h.mu.Unlock()
	if wait := m.attempt(t.Context()); wait != h.o.Lasting ||
		!strings.Contains(h.noted[len(h.noted)-1].Error, "pollux gc") {
		t.Errorf("of too long a log: %v, %+v", wait, h.noted)
	}
	h.target.Fenced = true
	if _, ok := m.end(); ok {
		t.Error("the log is another writer's")
	}
}

type failingStore struct {
	objstore.Store
	err error
}

func (s *failingStore) List(ctx context.Context, prefix, after string, fn func(objstore.Info) error) error {
	if s.err != nil {
		return s.err
	}
	return s.Store.List(ctx, prefix, after, fn)
}

// TestNever: with 0 the store is not asked at all.
func TestNever(t *testing.T) {
	h := newRig(t)
	h.o.Every = 0
	h.grow(12)
	h.run()() // it does not even wait
	if numbers, err := catalog.List(t.Context(), h.Store); err != nil || len(numbers) > 0 || len(h.noted) > 0 {
		t.Errorf("%v, %v, %+v", numbers, err, h.noted)
	}
}
