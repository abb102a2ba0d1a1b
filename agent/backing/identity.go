package backing

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/provenance"
)

// identityPrefix is an identity without its text.
func (b *osBacking) identityPrefix(id string) (string, error) {
	var st unix.Statx_t
	err := b.control(func(fd int) error {
		return unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME, &st)
	})
	return fmt.Sprintf("%s inode %d born %d: ", id, st.Ino, st.Btime.Sec*1e9+int64(st.Btime.Nsec)), err
}

func (b *osBacking) SetIdentity(id, text string) error {
	if b.device {
		return fail.New(fail.Unsupported, "mark backing", b.path, "a device has no place for a mark")
	}
	prefix, err := b.identityPrefix(id)
	if err == nil {
		err = b.control(func(fd int) error {
			return unix.Fsetxattr(fd, provenance.BackingName, []byte(prefix+text), 0)
		})
	}
	if err != nil {
		return fail.Wrap(fail.Unsupported, "mark backing", b.path, err)
	}
	// From now on it changes.
	_ = b.control(func(fd int) error { return unix.Fremovexattr(fd, provenance.RestoredName) })
	return ioError("sync backing", b.path, b.f.Sync())
}

func (b *osBacking) HasIdentity(id string) bool {
	prefix, err := b.identityPrefix(id)
	mark := ""
	_ = b.control(func(fd int) error {
		mark = provenance.Read(func(p []byte) (int, error) { return unix.Fgetxattr(fd, provenance.BackingName, p) })
		return nil
	})
	return err == nil && strings.HasPrefix(mark, prefix)
}

func (b *osBacking) ClearIdentity(id string) error {
	if !b.HasIdentity(id) {
		return nil // another volume's by now
	}
	err := b.control(func(fd int) error { return unix.Fremovexattr(fd, provenance.BackingName) })
	if errors.Is(err, unix.ENODATA) {
		err = nil
	}
	return fail.Wrap(fail.Internal, "take the mark from backing", b.path, err)
}
