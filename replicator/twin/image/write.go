package image

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"unsafe"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/hostdev"
	"github.com/pollux-dr/pollux/internal/provenance"
)

// open makes the target ready. Without a base it reads as zeros when it returns. A
// file is written under another name, and gets its own when it is complete; save says
// first what will be there.
func (t *Target) open(base bool, save func() error) (err error) {
	if t.device {
		return t.openDevice(base, save)
	}
	if err := t.take(); err != nil {
		return err
	}
	fits := func() error { return fail.Wrap(fail.Full, "create", t.partial(), t.file.Truncate(t.Size)) }
	switch {
	case t.reuse: // the partial file must not be taken for the one that save speaks of
		if err = t.forget(); err == nil {
			err = t.swap(save)
		}
	case base:
		if err = fail.Wrap(fail.Full, "write", t.statePath(), save()); err == nil {
			err = fits()
		}
	default: // the state does not speak of the file that begins here
		if err = t.forget(); err == nil {
			err = fail.Wrap(fail.Full, "create", t.partial(), t.file.Truncate(0))
		}
		if err == nil {
			err = fits()
		}
	}
	if err != nil {
		return errors.Join(err, t.file.Close())
	}
	return nil
}

// openDevice takes a device for this process alone.
func (t *Target) openDevice(base bool, save func() error) (err error) {
	t.file, err = os.OpenFile(t.Path, os.O_RDWR|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) { // since it was looked at
		return fail.New(fail.Refused, "restore to", t.Path, "the device is in use: "+hostdev.Claimed(t.Path)).
			WithHint("end that use of it, or name another device")
	}
	if err != nil {
		return (&fail.Error{Kind: fail.Denied, Op: "open", Object: t.Path, Err: err}).
			WithHint("restore as a user who may write to it, such as root")
	}
	err = t.lock()
	if err == nil && base { // from here on it holds some of both, and no point
		err = fail.Wrap(fail.Full, "write", t.statePath(), save())
	}
	if err == nil && !base { // what the state says is not so while it is zeroed
		if err = t.forget(); err == nil {
			err = t.zeroDevice()
		}
	}
	if err != nil {
		return errors.Join(err, t.file.Close())
	}
	return nil
}

// take opens the partial file, which no other restore must have.
func (t *Target) take() (err error) {
	if t.file, err = os.OpenFile(t.partial(), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return fail.Wrap(fail.Denied, "create", t.partial(), err)
	}
	if err = t.lock(); err == nil {
		var mine, there unix.Stat_t // another may have renamed it before we had the lock
		if unix.Fstat(int(t.file.Fd()), &mine) != nil || unix.Stat(t.partial(), &there) != nil ||
			mine.Ino != there.Ino {
			err = t.busy()
		}
	}
	if err != nil {
		_ = t.file.Close()
	}
	return err
}

func (t *Target) lock() error {
	if unix.Flock(int(t.file.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return t.busy()
	}
	return nil
}

func (t *Target) busy() error {
	return fail.New(fail.Refused, "restore to", t.Path, "another restore is at it").
		WithHint("wait for it, or choose another target")
}

// swap goes on with the image that is there, under the partial file's name: while it is
// changed it is no image.
func (t *Target) swap(save func() error) error {
	image, err := os.OpenFile(t.Path, os.O_RDWR, 0)
	if err != nil {
		return fail.Wrap(fail.Denied, "open", t.Path, err)
	}
	empty := t.file
	defer empty.Close() // with its lock, which the image's replaces
	t.file = image
	if err := t.lock(); err != nil {
		return err
	}
	_ = unix.Fremovexattr(int(image.Fd()), provenance.RestoredName)
	if err := os.Rename(t.Path, t.partial()); err != nil {
		return fail.Wrap(fail.Denied, "rename", t.Path, err)
	}
	if err := errors.Join(image.Sync(), atomicfile.SyncDir(vfs.Default, filepath.Dir(t.Path))); err != nil {
		return fail.Wrap(fail.Full, "sync", t.Path, err)
	}
	return fail.Wrap(fail.Full, "write", t.statePath(), save())
}

func (t *Target) partial() string { return t.Path + ".partial" }

// WriteAt makes a target what twin writes to.
func (t *Target) WriteAt(b []byte, off int64) (int, error) { return t.file.WriteAt(b, off) }

// ReadAt reads back what was written.
func (t *Target) ReadAt(b []byte, off int64) (int, error) { return t.file.ReadAt(b, off) }

// NextData is where a hole at off ends.
func (t *Target) NextData(off int64) int64 {
	next, err := unix.Seek(int(t.file.Fd()), off, unix.SEEK_DATA)
	switch {
	case err == unix.ENXIO:
		return t.Size
	case err != nil || t.device:
		return off
	}
	return next
}

// Zero makes a range zeros, and a hole where that can be.
func (t *Target) Zero(off, n int64) error {
	if t.device {
		return t.zeroRange(off, n)
	}
	err := unix.Fallocate(int(t.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	if err == unix.EOPNOTSUPP || err == unix.ENOSYS {
		return t.writeZeros(off, n)
	}
	return fail.Wrap(fail.Full, "zero", t.Path, err)
}

func (t *Target) writeZeros(off, n int64) error {
	none := make([]byte, min(n, 1<<20))
	for n > 0 {
		k, err := t.file.WriteAt(none[:min(n, int64(len(none)))], off)
		if err != nil {
			return fail.Wrap(fail.Full, "zero", t.Path, err)
		}
		off, n = off+int64(k), n-int64(k)
	}
	return nil
}

const blkZeroOut = 0x127f // BLKZEROOUT of linux/fs.h

func (t *Target) zeroDevice() error { return t.zeroRange(0, t.Size) }

// zeroRange has the device make a range zeros; what is no whole sectors is written.
func (t *Target) zeroRange(off, n int64) error {
	lo, hi := (off+511)&^511, (off+n)&^511
	if lo >= hi {
		return t.writeZeros(off, n)
	}
	var span [16]byte
	binary.NativeEndian.PutUint64(span[:], uint64(lo))
	binary.NativeEndian.PutUint64(span[8:], uint64(hi-lo))
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, t.file.Fd(), blkZeroOut, uintptr(unsafe.Pointer(&span[0])))
	if errno != 0 {
		return fail.Wrap(fail.Internal, "zero", t.Path, errno)
	}
	return errors.Join(t.writeZeros(off, lo-off), t.writeZeros(hi, off+n-hi))
}

// interrupted keeps what there is of a restore that failed, for another to go on from.
func (t *Target) interrupted(err error, save *saver) error {
	synced := save.settle() == nil
	_ = t.file.Close()
	if !synced && t.device {
		_ = os.Remove(t.statePath())
	}
	if !synced && !t.device { // nobody could go on from it: it is only in the way
		_ = os.Remove(t.partial())
		_ = os.Remove(t.statePath() + atomicfile.TempSuffix)
		_ = os.Remove(t.statePath())
		if fail.Is(err, fail.Full) && fail.HintOf(err) == "" {
			return &fail.Error{Kind: fail.Full, Op: "restore to", Object: t.Path, Err: err,
				Hint: "make room, or choose another place; it begins anew then"}
		}
	}
	if !synced || (fail.HintOf(err) != "" && !fail.Is(err, fail.Damaged)) {
		return err
	}
	how := "the same command goes on from here"
	if t.device {
		how = "the same command with --resume and --overwrite goes on from here"
	}
	switch fail.KindOf(err) {
	case fail.Damaged, fail.NotFound:
		how = "an older or a newer point may need nothing of it; pollux verify names all that is damaged; once the " +
			"object is back (in a bucket with versions: delete the marker or the newer version on top of it), " + how
	}
	return &fail.Error{Kind: fail.KindOf(err), Op: "restore to", Object: t.Path, Err: err, Hint: how}
}

// finish makes a good restore durable.
func (t *Target) finish() error {
	err := fail.Wrap(fail.Full, "sync", t.Path, t.file.Sync())
	if cerr := t.file.Close(); err == nil {
		err = fail.Wrap(fail.Full, "close", t.Path, cerr)
	}
	if err == nil && !t.device {
		err = fail.Wrap(fail.Denied, "complete", t.Path, os.Rename(t.partial(), t.Path))
	}
	if err != nil {
		return err
	}
	if err := t.forget(); err != nil || t.device {
		return err
	}
	return fail.Wrap(fail.Internal, "sync", filepath.Dir(t.Path), atomicfile.SyncDir(vfs.Default, filepath.Dir(t.Path)))
}
