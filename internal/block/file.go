package block

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/fail"
)

// maxFileExtents bounds the system calls of one File.Extents.
const maxFileExtents = 1024

// File is a Device over a regular file or a block device, through the page
// cache and without any protection: what a volume would be without Pollux. Its
// memory is bounded by the requests that its front end has in flight.
type File struct {
	f         *os.File
	path      string
	sizeBytes int64
	readOnly  bool
	isDevice  bool

	// What fallocate has turned out not to do here.
	noPunch, noZeroRange atomic.Bool

	// After a failed sync the kernel may have dropped the dirty pages, and the
	// next sync would succeed without them. So the first failure is kept.
	syncErr atomic.Pointer[error]
}

var _ Device = (*File)(nil)

// OpenFile opens an existing regular file or block device. Its size is read
// once, here. Errors: NotFound, Denied, Invalid (neither file nor device).
func OpenFile(path string, readOnly bool) (*File, error) {
	flags := os.O_RDWR
	if readOnly {
		flags = os.O_RDONLY
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		kind := fail.Internal
		switch {
		case errors.Is(err, os.ErrNotExist):
			kind = fail.NotFound
		case errors.Is(err, os.ErrPermission), errors.Is(err, unix.EROFS):
			kind = fail.Denied
		case errors.Is(err, unix.EISDIR):
			kind = fail.Invalid
		}
		return nil, fail.Wrap(kind, "open block file", path, err)
	}
	d := &File{f: f, path: path, readOnly: readOnly}
	if err := d.probe(); err != nil {
		_ = f.Close()
		return nil, err
	}
	return d, nil
}

func (d *File) probe() error {
	st, err := d.f.Stat()
	if err != nil {
		return d.wrap("stat", err)
	}
	switch mode := st.Mode(); {
	case mode.IsRegular():
		d.sizeBytes = st.Size()
	case mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0:
		d.isDevice = true
		n, err := deviceSizeBytes(d.f)
		if err != nil {
			return d.wrap("get size of", err)
		}
		d.sizeBytes = n
	default:
		return fail.New(fail.Invalid, "open block file", d.path, "neither a regular file nor a block device")
	}
	return nil
}

// Close closes the file without syncing it: durability is Flush's promise. Calls
// that are running end first; later ones fail with os.ErrClosed.
func (d *File) Close() error { return d.f.Close() }

// Info implements Device.
func (d *File) Info() Info {
	return Info{
		SizeBytes:      d.sizeBytes,
		MinBlockBytes:  1,
		PrefBlockBytes: 4096,
		ReadOnly:       d.readOnly,
		Description:    "unprotected " + d.path,
	}
}

// ReadAt implements Device.
func (d *File) ReadAt(_ context.Context, p []byte, off int64) error {
	if err := d.check("read", off, int64(len(p))); err != nil {
		return err
	}
	_, err := d.f.ReadAt(p, off)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF // somebody truncated the file under us
	}
	return d.wrap("read", err)
}

// Prepare implements Device. It never blocks.
func (d *File) Prepare(_ context.Context, n int) (Buffer, error) {
	if n < 1 || n > MaxWriteBytes {
		return nil, fail.New(fail.Invalid, "prepare write to", d.path, fmt.Sprintf("%d bytes in one write", n))
	}
	return NewHeapBuffer(n), nil
}

// Write implements Device.
func (d *File) Write(_ context.Context, b Buffer, off int64, fua bool) error {
	defer b.Release()
	for _, p := range b.Pieces() {
		if err := d.checkWrite("write", off, int64(len(p))); err != nil {
			return err
		}
		if _, err := d.f.WriteAt(p, off); err != nil {
			return d.wrap("write", err)
		}
		off += int64(len(p))
	}
	return d.syncIf(fua)
}

// Flush implements Device by fdatasync.
func (d *File) Flush(context.Context) error {
	if p := d.syncErr.Load(); p != nil {
		return *p
	}
	if d.readOnly {
		return nil
	}
	err := d.control(func(fd int) error { return unix.Fdatasync(fd) })
	if err != nil {
		err = d.wrap("sync", err)
		d.syncErr.CompareAndSwap(nil, &err)
	}
	return err
}

func (d *File) syncIf(fua bool) error {
	if !fua {
		return nil
	}
	return d.Flush(context.Background())
}

// Extents implements Device by SEEK_DATA and SEEK_HOLE. Where these are not
// supported, all is data.
func (d *File) Extents(ctx context.Context, off, n int64) ([]Extent, error) {
	if err := d.check("map", off, n); err != nil {
		return nil, err
	}
	var out []Extent
	err := d.control(func(fd int) error {
		for end := off + n; off < end && len(out) < maxFileExtents && ctx.Err() == nil; {
			next, hole, err := nextExtent(fd, off, end)
			if err == nil && !hole {
				if looked, some := ForgetUnwritten(fd, off, next); some {
					next, hole, err = nextExtent(fd, off, min(end, looked))
				} else {
					next = min(next, looked)
				}
			}
			if err != nil {
				return err
			}
			out = append(out, Extent{Bytes: next - off, Hole: hole, Zero: hole})
			off = next
		}
		return nil
	})
	if err == nil && len(out) == 0 {
		err = ctx.Err()
	}
	return out, d.wrap("map", err)
}

// nextExtent says where, at most at end, the run of data or hole at off ends.
func nextExtent(fd int, off, end int64) (next int64, hole bool, err error) {
	data, err := unix.Seek(fd, off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return end, true, nil // nothing but hole up to the end
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return end, false, nil
	case err != nil:
		return 0, false, err
	case data > off:
		return min(data, end), true, nil
	}
	next, err = unix.Seek(fd, off, unix.SEEK_HOLE)
	if err != nil || next <= off {
		return end, false, nil // punched meanwhile: "data" is never wrong
	}
	return min(next, end), false, nil
}

func (d *File) check(op string, off, n int64) error {
	if off < 0 || n < 0 || off > d.sizeBytes || n > d.sizeBytes-off {
		return fail.New(fail.Invalid, op, d.path,
			fmt.Sprintf("%d bytes at %d lie outside of its %d bytes", n, off, d.sizeBytes))
	}
	return nil
}

func (d *File) checkWrite(op string, off, n int64) error {
	if d.readOnly {
		return fail.New(fail.Refused, op, d.path, "read-only")
	}
	return d.check(op, off, n)
}

func (d *File) wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	kind := fail.Internal
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		kind = fail.Full
	case errors.Is(err, os.ErrClosed):
		kind = fail.NotFound
	}
	return fail.Wrap(kind, op, d.path, err)
}

// control runs fn with the descriptor, which stays open meanwhile.
func (d *File) control(fn func(fd int) error) error {
	rc, err := d.f.SyscallConn()
	if err != nil {
		return err
	}
	var opErr error
	if err := rc.Control(func(fd uintptr) { opErr = retryEINTR(int(fd), fn) }); err != nil {
		return os.ErrClosed // the only reason, but not the error, that it has
	}
	return opErr
}

func retryEINTR(fd int, fn func(fd int) error) error {
	for {
		if err := fn(fd); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
