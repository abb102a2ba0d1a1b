package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/agent/backing"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/crashfs"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/seed"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// The crash test runs the whole daemon (agent, journal, uploader, file:// store)
// on a filesystem that forgets what was not synced, cuts the power at every
// operation of a scripted run, starts the daemon again from what is left, and
// checks every promise that had been made by then.

const (
	crashVolumeBytes = 256 << 10
	crashGroup       = "g"
	crashVolume      = "v"
	crashTimeout     = 20 * time.Second
	scriptTimeout    = 2 * time.Minute
)

// model is what the script did and what it was promised. LSNs are consecutive:
// one client, one record per request.
type crashModel struct {
	mu       sync.Mutex
	ops      []crashOp
	created  bool              // volume create returned
	flushed  uint64            // LSN that a FLUSH covered
	durable  uint64            // LSN reported durable in the store
	bookmark map[string]uint64 // acknowledged ones
}

type crashOp struct {
	off  int64
	data []byte // nil: zeros
	n    int64
	mark bool
}

func (m *crashModel) promised() *crashModel {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := &crashModel{ops: m.ops[:len(m.ops):len(m.ops)], created: m.created, flushed: m.flushed, durable: m.durable,
		bookmark: map[string]uint64{}}
	for k, v := range m.bookmark {
		p.bookmark[k] = v
	}
	return p
}

func (m *crashModel) image(lsn uint64) []byte {
	img := make([]byte, crashVolumeBytes)
	for _, o := range m.ops[:min(lsn, uint64(len(m.ops)))] {
		if o.data != nil {
			copy(img[o.off:], o.data)
		} else if !o.mark {
			clear(img[o.off : o.off+o.n])
		}
	}
	return img
}

// crashDaemon starts a daemon whose disk is fs, and whose clock jumps back and forth
// by up to an hour, every time that it is looked at. With odd seeds its uploader folds
// all that it may.
func crashDaemon(ctx context.Context, fs vfs.FS, dir string, seed uint64, set ...func(*config.Agent)) (*Daemon, error) {
	return crashDaemonOver(ctx, fs, dir, seed, func(b backing.Backing) backing.Backing { return b }, set...)
}

// crashDaemonOver is crashDaemon with something over its backings.
func crashDaemonOver(ctx context.Context, fs vfs.FS, dir string, seed uint64,
	over func(backing.Backing) backing.Backing, set ...func(*config.Agent)) (*Daemon, error) {
	conf, err := config.ParseAgent("crash.yaml", []byte(fmt.Sprintf(`
name: crash
state: /state
runtime: %q
socket: %q
memory: 4MiB
wal: {budget: 64MiB, segment: 4MiB, linger: 1ms}
nbd: {unix: %q}
journal:
  log_budget: 64MiB
  catalog: {every_objects: 0}
  targets: [{name: remote, url: "file:///remote", requests: {rate: 0}}]
`, dir, filepath.Join(dir, "c.sock"), filepath.Join(dir, "n.sock"))))
	if err != nil {
		return nil, err
	}
	s := testHooks{fs: fs, election: 5 * time.Millisecond, checkpoint: 3 * time.Millisecond, logSegment: 16 << 10,
		trailingLogs: 1, walSegment: 64 << 10,
		createBacking: func(path string, size int64) (bool, error) {
			if _, err := fs.Stat(path); err == nil {
				return true, nil
			}
			f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
			if err != nil {
				return false, err
			}
			if err := errors.Join(f.Sync(), f.Close()); err != nil {
				return false, err
			}
			d, err := fs.OpenDir(filepath.Dir(path))
			if err != nil {
				return false, err
			}
			return false, errors.Join(d.Sync(), d.Close())
		},
		openBacking: func(path string, size int64) (backing.Backing, error) {
			b, err := backing.OpenVFS(fs, path, size)
			if err != nil {
				return nil, err
			}
			return over(b), nil
		},
	}
	if seed%2 == 1 {
		s.foldFrom = -1
	}
	for _, f := range set {
		f(conf)
	}
	s.now = func() time.Time { return time.Now().Add(rand.N(2*time.Hour) - time.Hour) }
	return start(ctx, conf, "test", slog.New(slog.DiscardHandler), s)
}

// script is the run whose every operation is a place for a power cut.
func script(ctx context.Context, d *Daemon, m *crashModel, rnd *rand.Rand) error {
	svc := d.service()
	if _, err := svc.GroupPut(ctx, api.GroupPut{Name: crashGroup, Create: true}); err != nil {
		return err
	}
	if _, err := svc.VolumeCreate(ctx, api.VolumeCreate{Name: crashVolume, Group: crashGroup,
		SizeBytes: crashVolumeBytes, Backing: "/state/v.img"}); err != nil {
		return err
	}
	m.mu.Lock()
	m.created = true
	m.mu.Unlock()
	dev, err := d.agent.Device(crashVolume)
	if err != nil {
		return err
	}
	for i := range 24 {
		if err := randomOp(ctx, dev, m, rnd); err != nil {
			return err
		}
		switch {
		case i%4 == 3:
			if err := flushAll(ctx, dev, m); err != nil {
				return err
			}
		case i == 9 || i == 17:
			if err := addBookmark(ctx, svc, m, fmt.Sprintf("b%d", i)); err != nil {
				return err
			}
		case i == 13:
			if err := d.host.Snapshot(); err != nil {
				return err
			}
		case i == 15 || i == 21:
			if err := waitDurable(ctx, svc, m); err != nil {
				return err
			}
		}
	}
	return nil
}

func randomOp(ctx context.Context, dev block.Device, m *crashModel, rnd *rand.Rand) error {
	n := int64(1+rnd.IntN(24)) * 512
	off := rnd.Int64N(crashVolumeBytes - n)
	if rnd.IntN(3) > 0 {
		off &^= 511
	}
	o := crashOp{off: off, n: n}
	if rnd.IntN(6) > 0 {
		o.data = make([]byte, n)
		for i := range o.data {
			o.data[i] = byte(rnd.Uint32()) | 1
		}
	}
	m.mu.Lock() // before: once it is submitted, a cut may already hold it
	m.ops = append(m.ops, o)
	m.mu.Unlock()
	if o.data == nil {
		return dev.Trim(ctx, off, n, false)
	}
	b, err := dev.Prepare(ctx, int(n))
	if err != nil {
		return err
	}
	at := 0
	for _, p := range b.Pieces() {
		at += copy(p, o.data[at:])
	}
	return dev.Write(ctx, b, off, false)
}

func flushAll(ctx context.Context, dev block.Device, m *crashModel) error {
	m.mu.Lock()
	lsn := uint64(len(m.ops))
	m.mu.Unlock()
	if err := dev.Flush(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	m.flushed = lsn
	m.mu.Unlock()
	return nil
}

func addBookmark(ctx context.Context, svc service, m *crashModel, name string) error {
	m.mu.Lock()
	m.ops = append(m.ops, crashOp{mark: true})
	lsn := uint64(len(m.ops))
	m.mu.Unlock()
	b, err := svc.BookmarkAdd(ctx, api.BookmarkAdd{Name: name, Group: crashGroup})
	if err != nil {
		return err
	}
	if b.LSN != lsn {
		return fmt.Errorf("bookmark at LSN %d, the model has %d", b.LSN, lsn)
	}
	m.mu.Lock()
	m.flushed, m.bookmark[name] = lsn, lsn
	m.mu.Unlock()
	return nil
}

// waitDurable waits until the store has everything, and holds Pollux to it.
func waitDurable(ctx context.Context, svc service, m *crashModel) error {
	for {
		st, err := svc.Status(ctx, struct{}{})
		if err != nil {
			return err
		}
		if g := st.Groups[0]; g.DurableLSN > 0 {
			m.mu.Lock()
			m.durable = max(m.durable, g.DurableLSN)
			m.mu.Unlock()
			if g.DurableLSN == g.LastLSN {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not durable in time: %+v %+v %+v %v", st.Groups[0], st.Targets[0], st.Journal,
				svc.agent.Status().ShipErr)
		case <-time.After(time.Millisecond):
		}
	}
}

// waitReady waits until the store knows that the volume's initial sync is complete: a
// creation that was cut is completed behind the start.
func waitReady(ctx context.Context, d *Daemon) error {
	for {
		ready := false
		d.journal.View(func(s *state.State) { ready = s.Volumes[crashVolume] != nil && s.Volumes[crashVolume].Ready })
		last := d.host.LastIndex() // behind the command that made it ready, if it is
		if ready && d.host.Target("remote").Index >= last {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the volume does not become ready")
		case <-time.After(time.Millisecond):
		}
	}
}

// verify starts from what a power cut left and checks the promises.
func verify(fs *vfs.MemFS, p *crashModel, dir string, seed uint64) error {
	ctx, cancel := context.WithTimeout(context.Background(), crashTimeout)
	defer cancel()
	if p.durable > 0 { // the store alone, before anything is repaired
		if err := verifyStore(ctx, fs, p, p.durable, false); err != nil {
			return fmt.Errorf("object store after the cut: %w", err)
		}
	}
	d, err := crashDaemon(ctx, fs, dir, seed)
	if err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	defer d.Close()
	dev, err := d.agent.Device(crashVolume)
	if err != nil {
		if p.created || !fail.Is(err, fail.NotFound) {
			return fmt.Errorf("volume: %w", err)
		}
		return nil
	}
	last := d.agent.Status().Streams[0].LastLSN
	most := uint64(len(p.ops))
	if !p.created {
		most = 1 // a creation that was cut is completed by a sync, which logs the zeros
	}
	if last < p.flushed || last > most {
		return fmt.Errorf("the volume is at LSN %d; %d was flushed, %d were sent", last, p.flushed, len(p.ops))
	}
	got := make([]byte, crashVolumeBytes)
	if err := dev.ReadAt(ctx, got, 0); err != nil {
		return err
	}
	if !bytes.Equal(got, p.image(last)) {
		return fmt.Errorf("the volume differs from the model at LSN %d", last)
	}
	if last == 0 {
		return nil // nothing was written yet
	}
	if err := waitDurable(ctx, d.service(), p.promised()); err != nil {
		return err
	}
	if err := waitReady(ctx, d); err != nil {
		return err
	}
	return verifyStore(ctx, fs, p, last, true)
}

// verifyStore restores the newest point, and each bookmark, from the store.
func verifyStore(ctx context.Context, fs vfs.FS, p *crashModel, atLeast uint64, all bool) error {
	s, err := objstore.Open(ctx, "file:///remote", objstore.Options{FS: fs})
	if err != nil {
		return err
	}
	defer s.Close()
	l, err := twin.Open(ctx, s, nil)
	if err == nil {
		err = l.Damage
	}
	if err != nil {
		return err
	}
	v, err := l.Volume(crashVolume)
	if err != nil {
		return err
	}
	for _, frames := range l.Frames {
		var last int64
		for _, f := range frames {
			if e := &f.Object.Entries[f.Entry]; e.FirstTime < last || e.LastTime < e.FirstTime {
				return fmt.Errorf("times go back at LSN %d: %d and %d after %d", e.FirstLSN, e.FirstTime, e.LastTime,
					last)
			} else {
				last = e.LastTime
			}
		}
	}
	points := []string{""}
	for name, lsn := range p.bookmark {
		if all || lsn <= p.durable {
			points = append(points, name)
		}
	}
	for i, at := range points {
		pt, err := l.Resolve(ctx, v, at, time.Now())
		if err != nil {
			if !all && at != "" {
				continue // its command may be on the way still
			}
			return err
		}
		if i == 0 && pt.LSN < atLeast {
			return fmt.Errorf("the store ends at LSN %d, %d was promised", pt.LSN, atLeast)
		}
		if at != "" && pt.LSN != p.bookmark[at] {
			return fmt.Errorf("bookmark %s at LSN %d, it was set at %d", at, pt.LSN, p.bookmark[at])
		}
		img := memImage(make([]byte, crashVolumeBytes))
		if _, err := l.Restore(ctx, pt, img); err != nil {
			return err
		}
		if !bytes.Equal(img, p.image(pt.LSN)) {
			return fmt.Errorf("the image restored at %q, LSN %d, differs from the model", at, pt.LSN)
		}
	}
	return nil
}

type memImage []byte

func (m memImage) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

// crashRun plays the script once. Before every stride-th operation it takes what
// a power cut at that instant would leave, and verifies it.
func crashRun(t *testing.T, seed uint64, stride, phase int, lose func(crashfs.Op) bool,
	keep bool) (cuts int, violations []error) {
	ctx, cancel := context.WithTimeout(context.Background(), scriptTimeout)
	defer cancel()
	mem := vfs.NewCrashableMem()
	m := &crashModel{bookmark: map[string]uint64{}}
	rnd := rand.New(rand.NewPCG(seed, 7))
	var count atomic.Int64
	type cut struct {
		fs *vfs.MemFS
		p  *crashModel
		op crashfs.Op
		n  int64
	}
	queue := make(chan cut, 8)
	var stop atomic.Bool
	var cutMu sync.Mutex
	fs := &crashfs.FS{FS: mem, Lose: lose}
	fs.Before = func(op crashfs.Op) {
		n := count.Add(1)
		if int(n)%stride != phase || stop.Load() {
			return
		}
		cutMu.Lock()
		p := m.promised() // before the cut: a promise made later is not held against it
		cfg := vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 50, 100}[int(n/int64(stride))%3],
			RNG: rand.New(rand.NewPCG(seed, uint64(n)))}
		var c *vfs.MemFS
		fs.Quiet(func() { c = mem.CrashClone(cfg) })
		cutMu.Unlock()
		queue <- cut{c, p, op, n}
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	for w := range 2 {
		wg.Go(func() {
			for c := range queue {
				dir := filepath.Join(t.TempDir(), fmt.Sprint(w))
				if stop.Load() {
					continue
				}
				err := verify(c.fs, c.p, dir, seed)
				mu.Lock()
				cuts++
				if err != nil {
					violations = append(violations,
						fmt.Errorf("cut before operation %d (%s %s): %w", c.n, c.op.Kind, c.op.Path, err))
					if !keep {
						stop.Store(true) // one is proof enough
					}
				}
				mu.Unlock()
			}
		})
	}
	dir := t.TempDir()
	d, err := crashDaemon(ctx, fs, dir, seed)
	if err == nil {
		err = script(ctx, d, m, rnd)
		err = errors.Join(err, d.Close())
	}
	stop.Store(stop.Load() || err != nil)
	close(queue)
	wg.Wait()
	if err != nil && lose == nil {
		t.Fatalf("seed %d: the script failed: %v", seed, err)
	}
	if n := folds(t, mem); lose == nil && (n > 0) != (seed%2 == 1) {
		t.Errorf("seed %d: %d folds in the log", seed, n)
	}
	return cuts, violations
}

// folds counts those of the object log.
func folds(t *testing.T, fs vfs.FS) (n int) {
	s, err := objstore.Open(t.Context(), "file:///remote", objstore.Options{FS: fs})
	if err != nil {
		return 0
	}
	defer s.Close()
	l, err := twin.Open(t.Context(), s, nil)
	if err != nil {
		return 0
	}
	for _, x := range l.Objects {
		for i := range x.Entries {
			if x.Entries[i].Kind == segment.FoldEntry {
				n++
			}
		}
	}
	return n
}

// TestPowerCutEverywhere cuts the power before operations all over the run: each
// run takes every stride-th one, and the runs together take them all.
func TestPowerCutEverywhere(t *testing.T) {
	seed := seed.New(t)
	const stride = 4
	total := 0
	for phase := range stride {
		cuts, bad := crashRun(t, seed+uint64(phase), stride, phase, nil, true)
		for _, err := range bad {
			t.Errorf("seed %d: %v", seed+uint64(phase), err)
		}
		total += cuts
	}
	t.Logf("%d power cuts", total)
	if total < 200 {
		t.Fatalf("only %d power cuts: the script is too short to prove anything", total)
	}
}

// TestEveryFsyncMatters turns one class of fsync after another into a no-op and
// shows that a power cut then breaks a promise.
func TestEveryFsyncMatters(t *testing.T) {
	seed := seed.New(t)
	under := func(kind string, parts ...string) func(crashfs.Op) bool {
		return func(op crashfs.Op) bool {
			for _, p := range parts {
				if op.Kind == kind && strings.Contains(op.Path, p) {
					return true
				}
			}
			return false
		}
	}
	for _, c := range []struct {
		name string
		lose func(crashfs.Op) bool
	}{
		{"agent WAL", under("sync", "/state/agent/wal/")},
		{"agent WAL directory", under("syncdir", "/state/agent/wal")},
		{"agent checkpoint and manifest", under("sync", "/state/agent/stream-", "/state/agent/agent.json")},
		{"agent directory", func(op crashfs.Op) bool { return op.Kind == "syncdir" && op.Path == "/state/agent" }},
		{"backing", under("sync", "/state/v.img")},
		{"Raft log", under("sync", "/state/journal/raft/")},
		{"Raft vote and journal state (Pebble)", under("sync", "/state/journal/state/")},
		{"Pebble directory", under("syncdir", "/state/journal/state")},
		{"journal snapshot", under("sync", "/state/journal/snapshots/")},
		{"journal snapshot directory", under("syncdir", "/state/journal/snapshots")},
		{"file store", under("sync", "/remote/")},
		{"file store directory", under("syncdir", "/remote")},
	} {
		t.Run(c.name, func(t *testing.T) {
			for round := range 6 {
				cuts, bad := crashRun(t, seed+uint64(round), 2, round%2, c.lose, false)
				if len(bad) > 0 {
					t.Logf("after %d cuts: %v", cuts, bad[0])
					return
				}
			}
			t.Errorf("seed %d: nothing breaks without this fsync: it is useless, or the test is blind", seed)
		})
	}
}
