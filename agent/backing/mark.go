package backing

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/fail"
)

// markName is the extended attribute that says whose backing a file is. A copy or
// a restored image in its place does not have it.
const markName = "user.pollux.backing"

const maxMarkBytes = 1024

func (b *osBacking) SetMark(owner string) (kept bool, err error) {
	if b.device {
		return false, nil
	}
	err = b.control(func(fd int) error {
		if owner != "" {
			return unix.Fsetxattr(fd, markName, []byte(owner), 0)
		}
		if err := unix.Fremovexattr(fd, markName); !errors.Is(err, unix.ENODATA) {
			return err
		}
		return nil
	})
	switch {
	case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
		return false, nil
	case err != nil:
		return false, fail.Wrap(fail.Full, "mark backing", b.path, err)
	}
	return true, fail.Wrap(fail.Full, "mark backing", b.path, b.f.Sync())
}

func (b *osBacking) Mark() (string, error) {
	p := make([]byte, maxMarkBytes)
	n := 0
	err := b.control(func(fd int) (err error) {
		n, err = unix.Fgetxattr(fd, markName, p)
		return err
	})
	if errors.Is(err, unix.ENODATA) {
		return "", nil
	}
	return string(p[:max(n, 0)]), fail.Wrap(fail.Internal, "read mark of backing", b.path, err)
}

// MarkOf returns the mark of the file at path, "" where it bears none.
func MarkOf(path string) string {
	p := make([]byte, maxMarkBytes)
	n, err := unix.Getxattr(path, markName, p)
	if err != nil {
		return ""
	}
	return string(p[:n])
}

func (b *vfsBacking) SetMark(string) (bool, error) { return false, nil }

func (b *vfsBacking) Mark() (string, error) { return "", nil }
