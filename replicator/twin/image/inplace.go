package image

import (
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/hostdev"
	"github.com/pollux-dr/pollux/internal/provenance"
)

// InPlace opens a complete image of a volume of a size, a file or a device, for a standby that
// writes later changes into it, and keeps other restores away from it. It no longer counts as
// the image of the point that it was restored to. Errors: fail.NotFound where it is gone,
// fail.Refused where it has another size or somebody else is at it.
func InPlace(path string, size int64) (*Target, error) {
	t := Absent(path, size)
	st, err := os.Stat(path)
	if os.IsNotExist(err) {
		return nil, fail.Wrap(fail.NotFound, "open image", path, err)
	}
	if err != nil {
		return nil, fail.Wrap(fail.Denied, "open image", path, err)
	}
	flags := os.O_RDWR
	if t.device = hostdev.IsBlock(st.Mode()); t.device {
		flags |= unix.O_EXCL
	}
	if t.file, err = os.OpenFile(path, flags, 0); err != nil {
		return nil, fail.Wrap(fail.Denied, "open image", path, err)
	}
	if err = t.lock(); err == nil {
		t.have, err = t.file.Seek(0, io.SeekEnd)
	}
	if err == nil && (t.have < size || t.have > size && !t.device) {
		err = fail.New(fail.Refused, "open image", path, "it does not have the size of the volume any more")
	}
	if err != nil {
		_ = t.file.Close()
		return nil, err
	}
	_ = unix.Fremovexattr(int(t.file.Fd()), provenance.RestoredName)
	return t, nil
}

// WriteVector writes parts one after another, most of them with one call.
func (t *Target) WriteVector(parts [][]byte, off int64) error {
	if len(parts) == 1 {
		_, err := t.file.WriteAt(parts[0], off)
		return fail.Wrap(fail.Full, "write", t.Path, err)
	}
	left := slices.Clone(parts) // Pwritev may write a part of it
	for len(left) > 0 {
		n, err := unix.Pwritev(int(t.file.Fd()), left, off)
		if err == unix.EINTR {
			continue
		}
		if err == nil && n == 0 {
			err = io.ErrShortWrite
		}
		if err != nil {
			return fail.Wrap(fail.Full, "write", t.Path, err)
		}
		off += int64(n)
		for len(left) > 0 && n >= len(left[0]) {
			n -= len(left[0])
			left = left[1:]
		}
		if n > 0 {
			left[0] = left[0][n:]
		}
	}
	return nil
}

// Sync makes what was written durable. After an error nothing is known of what was written
// since the last one that succeeded: it must be written again.
func (t *Target) Sync() error { return fail.Wrap(fail.Full, "sync", t.Path, t.file.Sync()) }

// Close closes what InPlace opened.
func (t *Target) Close() error { return t.file.Close() }
