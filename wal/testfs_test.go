package wal

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/pollux-dr/pollux/internal/fail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testDir = "/wal"

// fileOp is one operation that changes something, or makes it durable.
type fileOp struct {
	kind string // create, rename, remove, write, allocate, sync, syncdir
	path string // the file's present name
	off  int64
	n    int
	// body tells, for a sync of a spare, that more than its header was written
	// since the last one: the tail that recovery writes anew.
	body bool
}

// testFS counts, refuses, skips and reports operations on another FS.
type testFS struct {
	vfs.FS
	before func(fileOp) error // an error is returned instead of the operation
	skip   func(fileOp) bool  // pretend success
	after  func(fileOp)

	mu    sync.Mutex
	nodes map[string]*testNode
}

type testNode struct {
	path string
	body bool
}

func newTestFS(fs vfs.FS) *testFS { return &testFS{FS: fs, nodes: map[string]*testNode{}} }

func (t *testFS) do(op fileOp, f func() error) error {
	if t.before != nil {
		if err := t.before(op); err != nil {
			return err
		}
	}
	if t.skip == nil || !t.skip(op) {
		if err := f(); err != nil {
			return err
		}
	}
	if t.after != nil {
		t.after(op)
	}
	return nil
}

func (t *testFS) node(path string) *testNode {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[path]
	if n == nil {
		n = &testNode{path: path}
		t.nodes[path] = n
	}
	return n
}

func (t *testFS) Create(name string, c vfs.DiskWriteCategory) (f vfs.File, err error) {
	err = t.do(fileOp{kind: "create", path: name}, func() error { f, err = t.FS.Create(name, c); return err })
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	delete(t.nodes, name)
	t.mu.Unlock()
	return &testFile{File: f, fs: t, node: t.node(name)}, nil
}

func (t *testFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	f, err := t.FS.OpenReadWrite(name, c, o...)
	if err != nil {
		return nil, err
	}
	return &testFile{File: f, fs: t, node: t.node(name)}, nil
}

func (t *testFS) Open(name string, o ...vfs.OpenOption) (vfs.File, error) {
	f, err := t.FS.Open(name, o...)
	if err != nil {
		return nil, err
	}
	return &testFile{File: f, fs: t, node: t.node(name)}, nil
}

func (t *testFS) OpenDir(name string) (vfs.File, error) {
	f, err := t.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &testFile{File: f, fs: t, node: t.node(name), dir: true}, nil
}

func (t *testFS) Rename(from, to string) error {
	return t.do(fileOp{kind: "rename", path: from}, func() error {
		if err := t.FS.Rename(from, to); err != nil {
			return err
		}
		n := t.node(from)
		t.mu.Lock()
		delete(t.nodes, from)
		n.path = to
		t.nodes[to] = n
		t.mu.Unlock()
		return nil
	})
}

func (t *testFS) Remove(name string) error {
	return t.do(fileOp{kind: "remove", path: name}, func() error { return t.FS.Remove(name) })
}

type testFile struct {
	vfs.File
	fs   *testFS
	node *testNode
	dir  bool
}

func (f *testFile) path() string {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return f.node.path
}

func (f *testFile) WriteAt(b []byte, off int64) (n int, err error) {
	err = f.fs.do(fileOp{kind: "write", path: f.path(), off: off, n: len(b)}, func() error {
		n, err = f.File.WriteAt(b, off)
		return err
	})
	if off > 0 {
		f.fs.mu.Lock()
		f.node.body = true
		f.fs.mu.Unlock()
	}
	return n, err
}

func (f *testFile) Preallocate(off, n int64) error {
	return f.fs.do(fileOp{kind: "allocate", path: f.path(), off: off, n: int(n)}, func() error {
		return f.File.Preallocate(off, n)
	})
}

func (f *testFile) Sync() error { return f.sync(f.File.Sync) }

func (f *testFile) SyncData() error { return f.sync(f.File.SyncData) }

func (f *testFile) sync(sync func() error) error {
	op := fileOp{kind: "sync", path: f.path()}
	if f.dir {
		op.kind = "syncdir"
	}
	f.fs.mu.Lock()
	op.body = f.node.body
	f.node.body = false
	f.fs.mu.Unlock()
	return f.fs.do(op, sync)
}

// isSpareOp reports whether op is on a file that is not a segment yet.
func isSpareOp(op fileOp) bool {
	_, _, spare := parseName(vfs.Default.PathBase(op.path))
	return spare
}

// copyFS returns what a new process sees after the old one was killed: all that
// was written, synced or not.
func copyFS(t testing.TB, fs vfs.FS, dir string) *vfs.MemFS {
	t.Helper()
	out := vfs.NewCrashableMem()
	must(t, out.MkdirAll(dir, 0o700))
	names, err := fs.List(dir)
	must(t, err)
	for _, name := range names {
		f, err := fs.Open(fs.PathJoin(dir, name))
		if isNotExist(err) {
			continue // a dead segment, recycled since List
		}
		must(t, err)
		b, err := io.ReadAll(f)
		must(t, err)
		must(t, f.Close())
		writeFile(t, out, fs.PathJoin(dir, name), b)
	}
	for _, d := range []string{dir, "/"} {
		f, err := out.OpenDir(d)
		must(t, err)
		must(t, f.Sync())
		must(t, f.Close())
	}
	return out
}

func writeFile(t testing.TB, fs vfs.FS, path string, b []byte) {
	t.Helper()
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	must(t, err)
	_, err = f.Write(b)
	must(t, err)
	must(t, f.Sync())
	must(t, f.Close())
}

func readFile(t testing.TB, fs vfs.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(path)
	must(t, err)
	b, err := io.ReadAll(f)
	must(t, err)
	must(t, f.Close())
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantKind(t testing.TB, err error, kind fail.Kind, sentinel error) {
	t.Helper()
	if !fail.Is(err, kind) || sentinel != nil && !errors.Is(err, sentinel) {
		t.Fatalf("got error %v (%v), want kind %v, %v", err, fail.KindOf(err), kind, sentinel)
	}
}

// seededSalt makes runs repeatable.
func seededSalt(seed uint64) func(uint64) uint64 {
	r := rand.New(rand.NewPCG(seed, 99))
	var mu sync.Mutex
	return func(uint64) uint64 {
		mu.Lock()
		defer mu.Unlock()
		return r.Uint64()
	}
}

func openTest(t testing.TB, o Options) *Log {
	t.Helper()
	l, err := Open(withDefaults(o))
	must(t, err)
	return l
}

func withDefaults(o Options) Options {
	if o.FS == nil {
		o.FS = vfs.NewCrashableMem()
	}
	if o.Dir == "" {
		o.Dir = testDir
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 32 << 10
	}
	if o.Salt == nil {
		o.Salt = seededSalt(1)
	}
	return o
}

// payload returns n bytes that no other serial has; n is at least 8.
func payload(serial uint64, n int) []byte {
	b := make([]byte, n)
	x := serial
	for i := range b {
		if i%8 == 0 {
			x = mix64(x ^ uint64(i)<<32)
		}
		b[i] = byte(x >> (i % 8 * 8))
	}
	copy(b, fmt.Sprintf("%08d", serial))
	return b
}
