package objstore

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
)

const (
	// tempDir holds objects on their way. Names never begin with a dot, so
	// nothing collides with it.
	tempDir = ".tmp"
	// tempMaxAge is when a temporary file counts as left over from a crash.
	// Taking a live one away is harmless: its link(2) fails, and the Create with
	// fail.Retry.
	tempMaxAge = time.Hour
	// writeChunk is also how often a long write looks at its context.
	writeChunk = 256 << 10
)

// fileStore keeps each object as one file below a directory. An object appears
// by link(2), which refuses a name that exists, after its content was synced;
// so the final name never shows a part of it.
type fileStore struct {
	fs    vfs.FS
	root  string
	dirs  sync.Map // directories known to be durable: path -> struct{}
	dates *Dates
	bufs  sync.Pool

	mu     sync.Mutex
	newest string // the name created last, or read first: while it is there, so is the store
}

func openFile(u *url.URL, opts Options) (Store, error) {
	const op = "open object store"
	s := &fileStore{fs: opts.FS, root: u.Path, dates: opts.Dates}
	if s.fs == nil {
		s.fs = vfs.Default
	}
	s.bufs.New = func() any { b := make([]byte, writeChunk); return &b }
	if u.Host != "" && u.Host != "localhost" || !strings.HasPrefix(u.Path, "/") {
		return nil, fail.New(fail.Invalid, op, u.String(), "not an absolute directory").
			WithHint("write file:///directory")
	}
	if s.root = strings.TrimRight(s.root, "/"); s.root == "" {
		return nil, fail.New(fail.Invalid, op, u.String(), "the root directory cannot be a store")
	}
	if opts.ReadOnly || opts.Existing {
		st, err := s.fs.Stat(s.root)
		if err == nil && !st.IsDir() {
			err = syscall.ENOTDIR
		}
		if err != nil {
			return nil, &fail.Error{Kind: fail.NotFound, Op: op, Object: u.String(), Err: err,
				Hint: "check the URL, and that its filesystem is mounted"}
		}
	}
	if opts.ReadOnly {
		return s, nil
	}
	parent := s.fs.PathDir(s.root)
	// Only the last level is made: a missing parent is likelier a file system
	// that is not mounted than a wish to fill the disk below it.
	if _, err := s.fs.Stat(parent); err != nil {
		return nil, &fail.Error{Kind: fail.NotFound, Op: op, Object: u.String(), Err: err,
			Hint: "mount the file system, or create " + parent}
	}
	if err := s.fs.MkdirAll(s.root, 0o750); err != nil {
		return nil, fileError(op, u.String(), err)
	}
	if err := atomicfile.SyncDir(s.fs, parent); err != nil && !errors.Is(err, fs.ErrPermission) {
		return nil, fileError(op, u.String(), err)
	}
	s.removeLeftovers()
	return s, nil
}

// removeLeftovers is best effort: what stays costs only space.
func (s *fileStore) removeLeftovers() {
	dir := s.fs.PathJoin(s.root, tempDir)
	if st, err := s.fs.Stat(dir); err != nil || !st.IsDir() {
		return
	}
	names, err := s.fs.List(dir)
	if err != nil {
		return
	}
	for _, name := range names {
		path := s.fs.PathJoin(dir, name)
		if st, err := s.fs.Stat(path); err == nil && !st.IsDir() && time.Since(st.ModTime()) > tempMaxAge {
			_ = s.fs.Remove(path)
		}
	}
}

func (s *fileStore) URL() string { return (&url.URL{Scheme: "file", Path: s.root}).String() }

func (s *fileStore) Close() error { return nil }

func (s *fileStore) path(name string) string { return s.fs.PathJoin(s.root, name) }

func (s *fileStore) object(name string) string { return s.URL() + "/" + name }

func (s *fileStore) Create(ctx context.Context, name string, body []byte) error {
	const op = "create object"
	if err := s.check(ctx, op, name); err != nil {
		return err
	}
	path := s.path(name)
	dir := s.fs.PathDir(path)
	if _, err := s.fs.Stat(s.root); err != nil { // never make it anew: an unmounted disk would fill what is below
		return &fail.Error{Kind: fail.Retry, Op: op, Object: s.object(name), Err: err,
			Hint: "is the store's filesystem mounted?"}
	}
	if err := s.present(op, name); err != nil {
		return err
	}
	for _, d := range []string{dir, s.fs.PathJoin(s.root, tempDir)} {
		if err := s.ensureDir(d); err != nil {
			return s.createError(op, name, err)
		}
	}
	// Most conflicts are known before the body is written; link decides the rest.
	if _, err := s.fs.Stat(path); err == nil {
		return s.exists(op, name, dir)
	}
	temp := s.fs.PathJoin(s.root, tempDir, rand.Text())
	if err := s.writeTemp(ctx, temp, body); err != nil {
		_ = s.fs.Remove(temp)
		return s.createError(op, name, err)
	}
	err := s.fs.Link(temp, path)
	if err == nil {
		err = atomicfile.SyncDir(s.fs, dir)
	}
	// Only now: while the temporary name is there, readers know from the link
	// count that the final one may not be durable.
	_ = s.fs.Remove(temp)
	if errors.Is(err, fs.ErrExist) {
		return s.exists(op, name, dir)
	}
	if err == nil {
		s.mu.Lock()
		s.newest = name
		s.mu.Unlock()
		s.dates.Note(clock.Now()) // the host's clock is the store's
	}
	return s.createError(op, name, err)
}

// present checks that what was created last is there. Where it is not, another
// filesystem has come to the store's place, or the store was moved away: objects
// would be written where nobody looks for them.
func (s *fileStore) present(op, name string) error {
	s.mu.Lock()
	newest := s.newest
	s.mu.Unlock()
	if newest == "" {
		return nil
	}
	if _, err := s.fs.Stat(s.path(newest)); err != nil {
		return fail.New(fail.Retry, op, s.object(name), newest+", which was created before, is missing").
			WithHint("is the store's filesystem mounted at " + s.root + "? Nothing is written until it is back")
	}
	return nil
}

// exists reports a taken name once it is durable: the caller may build on an
// object that another writer has linked and not yet synced.
func (s *fileStore) exists(op, name, dir string) error {
	if err := atomicfile.SyncDir(s.fs, dir); err != nil {
		return s.createError(op, name, err)
	}
	return fail.New(fail.Exists, op, s.object(name), "exists")
}

func (s *fileStore) writeTemp(ctx context.Context, temp string, body []byte) error {
	f, err := s.fs.Create(temp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	// vfs lets Write modify what it is given, and body is not ours.
	bp := s.bufs.Get().(*[]byte)
	defer s.bufs.Put(bp)
	for len(body) > 0 && err == nil {
		n := copy(*bp, body)
		body = body[n:]
		if _, err = f.Write((*bp)[:n]); err == nil {
			err = ctx.Err()
		}
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// ensureDir makes dir and all above it durable, once per directory.
func (s *fileStore) ensureDir(dir string) error {
	if dir == s.root {
		return nil
	}
	if _, ok := s.dirs.Load(dir); ok {
		return nil
	}
	parent := s.fs.PathDir(dir)
	if err := s.ensureDir(parent); err != nil {
		return err
	}
	if err := s.fs.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	// Even if it was there: who made it may have died before the sync.
	if err := atomicfile.SyncDir(s.fs, parent); err != nil {
		return err
	}
	s.dirs.Store(dir, struct{}{})
	return nil
}

func (s *fileStore) Read(ctx context.Context, name string, off, n int64, buf []byte) ([]byte, error) {
	const op = "read object"
	if err := s.check(ctx, op, name); err != nil {
		return nil, err
	}
	f, size, err := s.open(op, name)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	if s.newest == "" { // the first Create after a start has this to go by
		s.newest = name
	}
	s.mu.Unlock()
	defer func() { _ = f.Close() }() // only read
	start, end := resolve(off, n, size)
	buf = grow(buf, end-start)
	switch got, err := f.ReadAt(buf, start); {
	case got == len(buf):
		return buf, nil
	case err == nil || errors.Is(err, io.EOF):
		return nil, fail.New(fail.Damaged, op, s.object(name), "the file shrank while it was read")
	default:
		return nil, fileError(op, s.object(name), err)
	}
}

func (s *fileStore) Size(ctx context.Context, name string) (int64, error) {
	const op = "size of object"
	if err := s.check(ctx, op, name); err != nil {
		return 0, err
	}
	f, size, err := s.open(op, name)
	if err != nil {
		return 0, err
	}
	return size, fileError(op, s.object(name), f.Close())
}

// open opens an object that is durable: one still being created is made so
// first, since it must not be gone again after a power cut once it was seen.
func (s *fileStore) open(op, name string) (vfs.File, int64, error) {
	path := s.path(name)
	// A pipe or a device may hold up whoever opens it, for ever.
	if st, err := s.fs.Stat(path); err == nil && !st.IsDir() && !st.Mode().IsRegular() {
		return nil, 0, fail.New(fail.Damaged, op, s.object(name), "it is no regular file: "+st.Mode().String())
	}
	f, err := s.fs.Open(path)
	if err != nil {
		return nil, 0, fileError(op, s.object(name), err)
	}
	st, err := f.Stat()
	switch {
	case err == nil && st.IsDir():
		err = os.ErrNotExist
	case err == nil && linked(st):
		err = atomicfile.SyncDir(s.fs, s.fs.PathDir(path))
	}
	if err != nil {
		return nil, 0, fileError(op, s.object(name), errors.Join(err, f.Close()))
	}
	return f, st.Size(), nil
}

// linked says that the file still has its temporary name as well.
func linked(st os.FileInfo) bool {
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && sys.Nlink > 1
}

func (s *fileStore) Delete(ctx context.Context, name string) error {
	const op = "delete object"
	if err := s.check(ctx, op, name); err != nil {
		return err
	}
	path := s.path(name)
	s.mu.Lock()
	if s.newest == name {
		s.newest = ""
	}
	s.mu.Unlock()
	st, err := s.fs.Stat(path)
	if err == nil && st.IsDir() {
		return nil
	}
	if err == nil {
		err = s.fs.Remove(path)
	}
	if err == nil {
		err = atomicfile.SyncDir(s.fs, s.fs.PathDir(path))
	}
	if err = fileError(op, s.object(name), err); fail.Is(err, fail.NotFound) {
		return nil
	}
	return err
}

func (s *fileStore) check(ctx context.Context, op, name string) error {
	if err := checkName(op, name); err != nil {
		return err
	}
	return fail.Wrap(fail.Retry, op, s.object(name), ctx.Err())
}

// createError is fileError for a Create, where "no such file" means that the
// temporary file or the directory was taken away meanwhile.
func (s *fileStore) createError(op, name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		s.dirs.Clear()
		return fail.Wrap(fail.Retry, op, s.object(name), err)
	case notDirectory(err):
		return fail.Wrap(fail.Invalid, op, s.object(name), err)
	}
	return fileError(op, s.object(name), err)
}

// fileError gives err its kind. What is left is the file system's passing
// trouble as far as anyone can tell: a lost mount, a stale handle, an I/O error.
func fileError(op, object string, err error) error {
	if err == nil {
		return nil
	}
	e := &fail.Error{Kind: fail.Retry, Op: op, Object: object, Err: err}
	switch {
	case errors.Is(err, fs.ErrNotExist), notDirectory(err):
		e.Kind = fail.NotFound
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e.Kind, e.Hint = fail.Full, "make room in the store's file system"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		e.Kind, e.Hint = fail.Denied, "give this process read and write access to the store's directory"
	case errors.Is(err, syscall.ENAMETOOLONG):
		e.Kind = fail.Invalid
	}
	return e
}

// notDirectory knows a name below a file's, by its text for vfs.MemFS.
func notDirectory(err error) bool {
	return errors.Is(err, syscall.ENOTDIR) || strings.HasSuffix(err.Error(), syscall.ENOTDIR.Error())
}

func (s *fileStore) LockRule(context.Context) (LockRule, error) { return LockRule{}, nil }

// Lock is none: a directory has nothing that outlasts its owner's will.
func (s *fileStore) Lock(ctx context.Context, name string) (Lock, error) {
	if _, err := s.Size(ctx, name); err != nil {
		return Lock{}, err
	}
	return Lock{}, nil
}

func (s *fileStore) Extend(_ context.Context, name string, _ Lock) error {
	return fail.New(fail.Unsupported, "extend retention of object", s.object(name), "a directory has no Object Lock")
}
