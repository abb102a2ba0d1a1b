package objstore_test

import (
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// opFS calls hooks round every operation that changes a file system.
type opFS struct {
	vfs.FS
	before func(op string) error // an error replaces the operation
	after  func(op string)
	skip   func(op string) bool // the operation is said to have worked
}

func (f *opFS) do(op string, do func() error) error {
	if f.before != nil {
		if err := f.before(op); err != nil {
			return err
		}
	}
	if f.skip == nil || !f.skip(op) {
		if err := do(); err != nil {
			return err
		}
	}
	if f.after != nil {
		f.after(op)
	}
	return nil
}

func (f *opFS) Create(name string, c vfs.DiskWriteCategory) (file vfs.File, err error) {
	err = f.do("create", func() error {
		file, err = f.FS.Create(name, c)
		return err
	})
	return &opFile{File: file, fs: f, sync: "sync"}, err
}

func (f *opFS) OpenDir(name string) (vfs.File, error) {
	dir, err := f.FS.OpenDir(name)
	return &opFile{File: dir, fs: f, sync: "syncdir"}, err
}

func (f *opFS) Link(from, to string) error {
	return f.do("link", func() error { return f.FS.Link(from, to) })
}

func (f *opFS) Remove(name string) error {
	return f.do("remove", func() error { return f.FS.Remove(name) })
}

func (f *opFS) MkdirAll(name string, perm os.FileMode) error {
	return f.do("mkdir", func() error { return f.FS.MkdirAll(name, perm) })
}

type opFile struct {
	vfs.File
	fs   *opFS
	sync string
}

func (f *opFile) Write(b []byte) (n int, err error) {
	err = f.fs.do("write", func() error {
		n, err = f.File.Write(b)
		return err
	})
	return n, err
}

func (f *opFile) Sync() error { return f.fs.do(f.sync, f.File.Sync) }
