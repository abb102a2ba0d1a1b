package crashfs

import (
	"io"
	"os"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Op is an operation that changes the filesystem.
type Op struct {
	Kind string // create, write, sync, syncdir, rename, remove, link, mkdir
	Path string
}

// FS is the wrapper.
type FS struct {
	vfs.FS
	// Before is called before each operation. It may block.
	Before func(Op)
	// Lose makes a sync do nothing and report success.
	Lose func(Op) bool

	names sync.RWMutex
}

// Quiet runs fn while no operation on names is under way. A test clones an
// in-memory filesystem in it: that takes some of its locks twice in one call,
// and deadlocks with a clone that comes in between.
func (f *FS) Quiet(fn func()) {
	f.names.Lock()
	defer f.names.Unlock()
	fn()
}

var _ vfs.FS = (*FS)(nil)

func (f *FS) before(kind, path string) Op {
	op := Op{kind, path}
	if f.Before != nil {
		f.Before(op)
	}
	return op
}

func (f *FS) lost(op Op) bool { return f.Lose != nil && f.Lose(op) }

func (f *FS) wrap(path string, file vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &wrapped{File: file, fs: f, path: path}, nil
}

func (f *FS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f.before("create", name)
	f.names.RLock()
	defer f.names.RUnlock()
	file, err := f.FS.Create(name, c)
	return f.wrap(name, file, err)
}

func (f *FS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f.before("create", name)
	f.names.RLock()
	defer f.names.RUnlock()
	file, err := f.FS.OpenReadWrite(name, c, opts...)
	return f.wrap(name, file, err)
}

func (f *FS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f.before("rename", newname)
	f.names.RLock()
	defer f.names.RUnlock()
	file, err := f.FS.ReuseForWrite(oldname, newname, c)
	return f.wrap(newname, file, err)
}

func (f *FS) OpenDir(name string) (vfs.File, error) {
	f.names.RLock()
	defer f.names.RUnlock()
	file, err := f.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &wrapped{File: file, fs: f, path: name, dir: true}, nil
}

func (f *FS) Link(oldname, newname string) error {
	f.before("link", newname)
	f.names.RLock()
	defer f.names.RUnlock()
	return f.FS.Link(oldname, newname)
}

func (f *FS) Remove(name string) error {
	f.before("remove", name)
	f.names.RLock()
	defer f.names.RUnlock()
	return f.FS.Remove(name)
}

func (f *FS) RemoveAll(name string) error {
	f.before("remove", name)
	f.names.RLock()
	defer f.names.RUnlock()
	return f.FS.RemoveAll(name)
}

func (f *FS) Rename(oldname, newname string) error {
	f.before("rename", newname)
	f.names.RLock()
	defer f.names.RUnlock()
	return f.FS.Rename(oldname, newname)
}

func (f *FS) MkdirAll(dir string, perm os.FileMode) error {
	f.names.RLock()
	defer f.names.RUnlock()
	return f.FS.MkdirAll(dir, perm)
}

func (f *FS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f.names.RLock()
	defer f.names.RUnlock()
	return f.FS.Open(name, opts...)
}

func (f *FS) Lock(name string) (io.Closer, error) {
	f.names.RLock()
	defer f.names.RUnlock()
	return f.FS.Lock(name)
}

func (f *FS) List(dir string) ([]string, error) {
	f.names.RLock()
	defer f.names.RUnlock()
	return f.FS.List(dir)
}

func (f *FS) Stat(name string) (vfs.FileInfo, error) {
	f.names.RLock()
	defer f.names.RUnlock()
	return f.FS.Stat(name)
}

func (f *FS) Unwrap() vfs.FS { return f.FS }

type wrapped struct {
	vfs.File
	fs   *FS
	path string
	dir  bool
}

func (w *wrapped) Write(p []byte) (int, error) {
	w.fs.before("write", w.path)
	return w.File.Write(p)
}

func (w *wrapped) WriteAt(p []byte, off int64) (int, error) {
	w.fs.before("write", w.path)
	return w.File.WriteAt(p, off)
}

func (w *wrapped) sync(do func() error) error {
	kind := "sync"
	if w.dir {
		kind = "syncdir"
	}
	if op := w.fs.before(kind, w.path); w.fs.lost(op) {
		return nil
	}
	return do()
}

func (w *wrapped) Sync() error     { return w.sync(w.File.Sync) }
func (w *wrapped) SyncData() error { return w.sync(w.File.SyncData) }

func (w *wrapped) SyncTo(length int64) (full bool, err error) {
	err = w.sync(func() error { full, err = w.File.SyncTo(length); return err })
	return full, err
}
