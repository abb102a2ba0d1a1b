package standby

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/logtest"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// memDisk keeps images in memory. What was written and not synced may be lost by a power cut,
// each write on its own; a copy that was cut short leaves nothing.
type memDisk struct {
	mu     sync.Mutex
	images map[string]*memImage
	copies int          // how many whole ones were made
	before func() error // each change
	fail   error        // of each write
}

type memImage struct {
	durable []byte
	pending []write
}

type write struct {
	off  int64
	data []byte
}

func newMemDisk() *memDisk { return &memDisk{images: map[string]*memImage{}} }

func (m *memImage) content() []byte {
	out := bytes.Clone(m.durable)
	for _, w := range m.pending {
		copy(out[w.off:], w.data)
	}
	return out
}

// cut is a power cut: some of what was not synced is lost.
func (d *memDisk) cut(r *rand.Rand) *memDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := newMemDisk()
	for path, m := range d.images {
		n := &memImage{durable: bytes.Clone(m.durable)}
		for _, w := range m.pending {
			if r.IntN(2) == 0 {
				copy(n.durable[w.off:], w.data)
			}
		}
		out.images[path] = n
	}
	return out
}

func (d *memDisk) change() error {
	if d.before != nil {
		return d.before()
	}
	return nil
}

func (d *memDisk) Check(path string, _ int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.images[path] != nil {
		return fail.New(fail.Refused, "restore to", path, "it is not empty")
	}
	return nil
}

func (d *memDisk) Open(path string, size int64) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := d.images[path]
	if m == nil {
		return nil, fail.New(fail.NotFound, "open image", path, "it is not there")
	}
	return &memFile{d, m}, nil
}

func (d *memDisk) Copy(ctx context.Context, l *twin.Log, p twin.Point, path string, _ bool, _ copyRun) (
	int64, error) {
	if err := d.change(); err != nil {
		return 0, err
	}
	b := make([]byte, p.Volume.SizeBytes)
	if _, err := l.Restore(ctx, p, &buffer{b: b}); err != nil {
		return 0, err
	}
	if err := d.change(); err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.images[path] = &memImage{durable: b}
	d.copies++
	return int64(len(b)), nil
}

type buffer struct {
	mu sync.Mutex
	b  []byte
}

func (b *buffer) WriteAt(p []byte, off int64) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return copy(b.b[off:], p), nil
}

type memFile struct {
	d *memDisk
	m *memImage
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.d.change(); err != nil {
		return 0, err
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.fail != nil {
		return 0, f.d.fail
	}
	if off < 0 || off+int64(len(p)) > int64(len(f.m.durable)) {
		return 0, io.ErrShortWrite
	}
	f.m.pending = append(f.m.pending, write{off, bytes.Clone(p)})
	return len(p), nil
}

func (f *memFile) WriteVector(parts [][]byte, off int64) error {
	for _, p := range parts {
		n, err := f.WriteAt(p, off)
		if err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}

func (f *memFile) Zero(off, n int64) error {
	_, err := f.WriteAt(make([]byte, n), off)
	return err
}

func (f *memFile) Sync() error {
	if err := f.d.change(); err != nil {
		return err
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	f.m.durable, f.m.pending = f.m.content(), nil
	return nil
}

func (f *memFile) Close() error { return nil }

// rig is a standby over a log in memory, driven step by step.
type rig struct {
	t     *testing.T
	store objstore.Store
	log   *logtest.Log
	fs    vfs.FS
	disk  *memDisk
	now   time.Time
	s     *Standby
	o     Options
	limit int64 // of what is gathered, if not 0
}

const rigVolume = 1 << 20

func newRig(t *testing.T) *rig {
	t.Helper()
	store, err := objstore.Open(t.Context(), "file:///log", objstore.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, store: store, log: logtest.New(t, store), fs: vfs.NewCrashableMem(), disk: newMemDisk()}
	r.log.Keeping = true
	r.now = r.log.Clock.Add(time.Hour)
	return r
}

// wantAll wants every volume.
func wantAll(s *state.State) (out []Volume) {
	for name := range s.Volumes {
		out = append(out, Volume{Name: name, Path: "/images/" + name})
	}
	return out
}

func (r *rig) open() *Standby {
	r.t.Helper()
	o := r.o
	if o.Store == nil {
		o.Store = r.store
	}
	o.Dir, o.FS, o.disk = "/standby", r.fs, r.disk
	o.Now = func() time.Time { return r.now }
	if o.Want == nil {
		o.Want = wantAll
	}
	s, err := Open(o)
	if err != nil {
		r.t.Fatal(err)
	}
	if r.s = s; r.limit > 0 {
		s.gathered.limit = r.limit
	}
	return s
}

// settle does all there is to do, copies included, and returns what went wrong.
func (r *rig) settle() error {
	r.t.Helper()
	var last error
	for range 200 {
		busy, err := r.s.step(r.t.Context())
		if err != nil {
			return err
		}
		last = nil
		brought := false
		for _, name := range r.s.notFollowing() {
			err := r.s.bring(r.t.Context(), name)
			r.s.noteBrought(name, err)
			if err == nil {
				brought = true
			} else if !isNotYet(err) {
				last = err
			}
		}
		if !busy && !brought {
			return last
		}
	}
	r.t.Fatal("there is no end to it")
	return nil
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(fail.Explain(err))
	}
}

// check holds each image that follows against what the twin restores at its point, and returns
// at which LSN each is.
func (r *rig) check() map[string]uint64 { return r.compare(true) }

// compare is check; if not strict, of what a dead branch has nothing is said.
func (r *rig) compare(strict bool) map[string]uint64 {
	r.t.Helper()
	out := map[string]uint64{}
	l, err := twin.Open(r.t.Context(), r.store, nil)
	r.must(err)
	for name, h := range r.s.holding() {
		v := l.State.Volumes[name]
		hash, known, err := l.HashAt(r.t.Context(), h.Stream, h.LSN)
		if err != nil || !known || hash != h.Hash {
			if !strict {
				continue
			}
			r.t.Fatalf("volume %s holds hash %s at LSN %d, the log says %s, %v, %v", name, h.Hash, h.LSN,
				hash, known, err)
		}
		p, err := l.Resolve(r.t.Context(), v, fmt.Sprint(h.LSN), r.now)
		if err != nil {
			r.t.Fatalf("volume %s at LSN %d: %v", name, h.LSN, err)
		}
		want := make([]byte, v.SizeBytes)
		if _, err := l.Restore(r.t.Context(), p, &buffer{b: want}); err != nil {
			r.t.Fatal(err)
		}
		if got := r.disk.images[h.Path].content(); !bytes.Equal(got, want) {
			r.t.Fatalf("volume %s at LSN %d: the image differs from the twin at byte %d", name, h.LSN,
				differ(got, want))
		}
		out[name] = h.LSN
	}
	return out
}

func differ(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// newest checks that all volumes follow, and have all of the log.
func (r *rig) newest(volumes int) {
	r.t.Helper()
	at := r.check()
	if len(at) != volumes {
		r.t.Fatalf("%d volumes follow, want %d: %+v", len(at), volumes, r.s.Status())
	}
	for name, lsn := range at {
		if lsn != r.log.Point.LSN {
			r.t.Fatalf("volume %s is at LSN %d, the log at %d", name, lsn, r.log.Point.LSN)
		}
	}
}
