package backing

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/fail"
)

// Backing is where a volume's applied blocks lie. WriteAt and Zero come from one
// goroutine at a time, and so does Sync; ReadAt and Sync may run beside WriteAt.
type Backing interface {
	// ReadAt fills p; what was never written reads as zeros.
	ReadAt(p []byte, off int64) error
	WriteAt(p []byte, off int64) error
	// Zero makes the range zeros; keep leaves the space allocated.
	Zero(off, n int64, keep bool) error
	// StartSync begins to write out what is dirty in the range, so that a later
	// Sync has less to do. It promises nothing, and may run beside all others.
	StartSync(off, n int64)
	// Sync makes all of it durable. One that failed must not be asked again for the
	// same bytes: the kernel says once that it could not write them, and takes them
	// for clean from then on. They are to be written anew.
	Sync() error
	// Unsynced says after a Sync that failed that all which was written since the last
	// one that did not is written again now. Nobody reads meanwhile.
	Unsynced()
	// Forget drops what memory caches of a range that was synced, so that the next
	// read comes from the medium. It promises nothing.
	Forget(off, n int64)
	SizeBytes() int64
	// Whole is fail.Damaged for a file that was cut behind our back: what is missing
	// would read as zeros. It costs a stat.
	Whole() error
	// SetIdentity durably writes beside the blocks whose backing this is, in place of
	// an older mark. A device, and a file on a filesystem without extended
	// attributes, has no place for it: fail.Unsupported. It syncs the file, so it
	// comes before the first write: else it could hear of a failure that is Sync's.
	SetIdentity(id, text string) error
	// HasIdentity reports whether SetIdentity wrote id here last.
	HasIdentity(id string) bool
	// ClearIdentity takes the identity away, unless it is another's.
	ClearIdentity(id string) error
	// Data returns the first allocated range at or after off, or n == 0.
	Data(off int64) (start, n int64, err error)
	// Close may run beside calls under way, which end first; later ones fail with
	// fail.NotFound.
	Close() error
}

// Replace tells an operator how a volume goes on from another backing.
const Replace = "restore the volume's newest point to its place, say `pollux volume accept`, and restart the agent"

// Open opens path, a regular file of at least sizeBytes or a device.
func Open(path string, sizeBytes int64) (Backing, error) {
	flags := os.O_RDWR
	if st, err := os.Stat(path); err == nil && st.Mode()&os.ModeDevice != 0 {
		flags |= unix.O_EXCL // a mounted device is refused, and cannot be mounted meanwhile
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, openError(path, err)
	}
	b := &osBacking{f: f, path: path, size: sizeBytes}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		_ = f.Close()
		return nil, fail.Wrap(fail.Internal, "measure backing", path, err)
	}
	st, err := f.Stat()
	if err == nil && st.Mode()&os.ModeDevice != 0 {
		b.device = true
	} else if err := lock(f); errors.Is(err, unix.EWOULDBLOCK) {
		_ = f.Close()
		return nil, fail.New(fail.Refused, "open backing", path, "another process has it locked").
			WithHint("is it a volume of another agent, or of this one under another name?")
	}
	if end < sizeBytes {
		_ = f.Close()
		return nil, fail.New(fail.Refused, "open backing", path,
			fmt.Sprintf("it has %d bytes, the volume %d", end, sizeBytes)).
			WithHint("the backing was replaced or cut: " + Replace)
	}
	return b, nil
}

// lockPatience is how long a process that was killed may take to close its files.
const lockPatience = 3 * time.Second

func lock(f *os.File) error {
	for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Since(begin) > lockPatience {
			return err
		}
	}
}

func openError(path string, err error) error {
	kind := fail.Internal
	switch {
	case errors.Is(err, os.ErrNotExist):
		kind = fail.NotFound
	case errors.Is(err, os.ErrPermission):
		kind = fail.Denied
	}
	e := &fail.Error{Kind: kind, Op: "open backing", Object: path, Err: err}
	switch {
	case errors.Is(err, unix.EBUSY):
		e.Kind = fail.Refused
		return e.WithHint("the device is in use (mounted?): what is written past Pollux would not be in the twin")
	case kind == fail.NotFound:
		return e.WithHint("bring the backing back (attach the device, mount its filesystem) and restart the agent; " +
			"if it is lost, " + Replace)
	}
	return e
}

// Create makes a sparse file of sizeBytes unless path exists, and reports
// whether what is there holds data already (then the twin needs an initial
// sync).
func Create(path string, sizeBytes int64) (existed bool, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return true, nil
	}
	if err != nil {
		return false, openError(path, err)
	}
	defer f.Close()
	if err := f.Truncate(sizeBytes); err != nil {
		_ = os.Remove(path) // it was made just now
		return false, fail.Wrap(fail.Full, "create backing", path, err)
	}
	if err := f.Sync(); err != nil {
		return false, fail.Wrap(fail.Full, "create backing", path, err)
	}
	return false, nil
}

// Measure returns the size of an existing file or device.
func Measure(path string) (int64, error) {
	blockDevice := func(m os.FileMode) bool { return m&os.ModeDevice != 0 && m&os.ModeCharDevice == 0 }
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() && !blockDevice(st.Mode()) {
		return 0, fail.New(fail.Invalid, "use as backing", path, "neither a regular file nor a block device").
			WithHint("name a file or a block device with --backing")
	}
	f, err := os.Open(path) // a pipe would wait here, a socket fail
	if err != nil {
		return 0, openError(path, err)
	}
	defer f.Close()
	n, err := f.Seek(0, io.SeekEnd)
	return n, fail.Wrap(fail.Internal, "measure backing", path, err)
}

type osBacking struct {
	f      *os.File
	path   string
	size   int64
	device bool
}

func (b *osBacking) SizeBytes() int64 { return b.size }

// control runs fn on the descriptor, which is not closed, and so not another
// file's, until fn returns.
func (b *osBacking) control(fn func(fd int) error) error {
	c, err := b.f.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if c.Control(func(fd uintptr) { ferr = fn(int(fd)) }) != nil {
		return os.ErrClosed // its only error
	}
	return ferr
}

// ioError gives an error its kind.
func ioError(op, path string, err error) error {
	if errors.Is(err, os.ErrClosed) {
		return fail.New(fail.NotFound, op, path, "the volume was removed")
	}
	return fail.Wrap(fail.Internal, op, path, err)
}

func (b *osBacking) ReadAt(p []byte, off int64) error {
	_, err := b.f.ReadAt(p, off)
	return ioError("read backing", b.path, err)
}

func (b *osBacking) WriteAt(p []byte, off int64) error {
	_, err := b.f.WriteAt(p, off)
	return writeError(b.path, err)
}

func writeError(path string, err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		e := &fail.Error{Kind: fail.Full, Op: "write backing", Object: path, Err: err}
		return e.WithHint("free space on the filesystem of this backing; writes go on by themselves")
	}
	return ioError("write backing", path, err)
}

// Zero asks the kernel first; where it cannot, zeros are written. On a device,
// fallocate zeroes out and is never a mere discard.
func (b *osBacking) Zero(off, n int64, keep bool) error {
	mode := uint32(unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE)
	if keep {
		mode = unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE
	}
	err := b.control(func(fd int) error { return unix.Fallocate(fd, mode, off, n) })
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) {
		return writeZeros(b, off, n)
	}
	return writeError(b.path, err)
}

var zeros [256 << 10]byte

func writeZeros(b Backing, off, n int64) error {
	for n > 0 {
		k := min(n, int64(len(zeros)))
		if err := b.WriteAt(zeros[:k], off); err != nil {
			return err
		}
		off, n = off+k, n-k
	}
	return nil
}

func (b *osBacking) StartSync(off, n int64) {
	_ = b.control(func(fd int) error { // Sync reports what is wrong
		return unix.SyncFileRange(fd, off, n, unix.SYNC_FILE_RANGE_WRITE)
	})
}

func (b *osBacking) Forget(off, n int64) {
	_ = b.control(func(fd int) error { return unix.Fadvise(fd, off, n, unix.FADV_DONTNEED) })
}

func (b *osBacking) Sync() error {
	if err := b.Whole(); err != nil {
		return err
	}
	return ioError("sync backing", b.path, b.control(unix.Fdatasync))
}

func (b *osBacking) Unsynced() {}

func (b *osBacking) Whole() error {
	if b.device {
		return nil
	}
	st, err := b.f.Stat()
	if err == nil && st.Size() < b.size {
		why := fmt.Sprintf("it was cut to %d bytes; the volume has %d", st.Size(), b.size)
		return fail.New(fail.Damaged, "use backing", b.path, why).
			WithHint("restart the agent: the group is suspended then; to go on, " + Replace)
	}
	return nil // a closed file is another's finding
}

// Data implements Backing by SEEK_DATA and SEEK_HOLE.
func (b *osBacking) Data(off int64) (start, n int64, err error) {
	if off >= b.size {
		return 0, 0, nil
	}
	if b.device {
		return off, b.size - off, nil
	}
	if err := b.Whole(); err != nil {
		return 0, 0, err
	}
	end := b.size
	err = b.control(func(fd int) error {
		if start, end, err = seekData(fd, off, b.size); err != nil {
			return err
		}
		if looked, some := block.ForgetUnwritten(fd, start, end); some || looked < end {
			if start, end, err = seekData(fd, off, b.size); err != nil {
				return err
			}
			if looked > start { // behind it there may be more
				end = min(end, looked)
			}
		}
		return nil
	})
	if errors.Is(err, unix.ENXIO) {
		return 0, 0, nil
	}
	if err != nil {
		return off, b.size - off, nil // no hole information: all of it may be data
	}
	if start >= b.size {
		return 0, 0, nil
	}
	return start, end - start, nil
}

// seekData returns the first run of data from an offset on, up to a size.
func seekData(fd int, off, size int64) (start, end int64, err error) {
	if start, err = unix.Seek(fd, off, unix.SEEK_DATA); err != nil {
		return 0, 0, err
	}
	if end, err = unix.Seek(fd, start, unix.SEEK_HOLE); err != nil {
		return start, size, nil
	}
	return start, min(end, size), nil
}

func (b *osBacking) Close() error {
	return fail.Wrap(fail.Internal, "close backing", b.path, b.f.Close())
}

// OpenVFS opens a backing on any filesystem that package vfs knows, so that
// crash tests can lose its unsynced bytes.
func OpenVFS(fs vfs.FS, path string, sizeBytes int64) (Backing, error) {
	f, err := fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, openError(path, err)
	}
	return &vfsBacking{fs: fs, f: f, path: path, size: sizeBytes}, nil
}

type vfsBacking struct {
	fs   vfs.FS
	f    vfs.File
	path string
	size int64
}

func (b *vfsBacking) SizeBytes() int64 { return b.size }

func (b *vfsBacking) ReadAt(p []byte, off int64) error {
	n, err := b.f.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		clear(p[n:])
		err = nil
	}
	return fail.Wrap(fail.Internal, "read backing", b.path, err)
}

func (b *vfsBacking) WriteAt(p []byte, off int64) error {
	_, err := b.f.WriteAt(p, off)
	return writeError(b.path, err)
}

func (b *vfsBacking) Zero(off, n int64, _ bool) error { return writeZeros(b, off, n) }

func (b *vfsBacking) StartSync(int64, int64) {}

func (b *vfsBacking) Forget(int64, int64) {}

func (b *vfsBacking) Sync() error {
	return fail.Wrap(fail.Internal, "sync backing", b.path, b.f.SyncData())
}

func (b *vfsBacking) Unsynced() {}

func (b *vfsBacking) Data(off int64) (int64, int64, error) {
	return off, max(0, b.size-off), nil
}

func (b *vfsBacking) Whole() error { return nil }

func (b *vfsBacking) markPath() string { return b.path + ".mark" }

func (b *vfsBacking) SetIdentity(id, _ string) error {
	return fail.Wrap(fail.Unsupported, "mark backing", b.path, atomicfile.WriteFile(b.fs, b.markPath(), []byte(id)))
}

func (b *vfsBacking) HasIdentity(id string) bool {
	f, err := b.fs.Open(b.markPath())
	if err != nil {
		return false
	}
	defer f.Close()
	got, err := io.ReadAll(f)
	return err == nil && string(got) == id
}

func (b *vfsBacking) ClearIdentity(id string) error {
	if !b.HasIdentity(id) {
		return nil
	}
	return b.fs.Remove(b.markPath())
}

func (b *vfsBacking) Close() error { return b.f.Close() }
