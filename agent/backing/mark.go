package backing

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/fail"
)

// markName is the extended attribute that says whose backing a file is: an id,
// the file's inode and when that was made (a copy that keeps attributes is another
// file all the same, and inode numbers come back), and a text for people:
//
//	<id> inode <number> born <ns since 1970, 0: not known>: <text>
const markName = "user.pollux.backing"

const maxMarkBytes = 1024

// markPrefix is a mark without its text.
func (b *osBacking) markPrefix(id string) (string, error) {
	var st unix.Statx_t
	err := b.control(func(fd int) error {
		return unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME, &st)
	})
	return fmt.Sprintf("%s inode %d born %d: ", id, st.Ino, st.Btime.Sec*1e9+int64(st.Btime.Nsec)), err
}

func (b *osBacking) SetMark(id, text string) error {
	if b.device {
		return fail.New(fail.Unsupported, "mark backing", b.path, "a device has no place for a mark")
	}
	prefix, err := b.markPrefix(id)
	if err == nil {
		err = b.control(func(fd int) error { return unix.Fsetxattr(fd, markName, []byte(prefix+text), 0) })
	}
	if err != nil {
		return fail.Wrap(fail.Unsupported, "mark backing", b.path, err)
	}
	_ = b.control(func(fd int) error { return unix.Fremovexattr(fd, RestoredName) }) // from now on it changes
	return ioError("sync backing", b.path, b.f.Sync())
}

func (b *osBacking) HasMark(id string) bool {
	prefix, err := b.markPrefix(id)
	mark := ""
	_ = b.control(func(fd int) error {
		mark = readMark(func(p []byte) (int, error) { return unix.Fgetxattr(fd, markName, p) })
		return nil
	})
	return err == nil && strings.HasPrefix(mark, prefix)
}

func (b *osBacking) ClearMark(id string) error {
	if !b.HasMark(id) {
		return nil // another volume's by now
	}
	err := b.control(func(fd int) error { return unix.Fremovexattr(fd, markName) })
	if errors.Is(err, unix.ENODATA) {
		err = nil
	}
	return fail.Wrap(fail.Internal, "take the mark from backing", b.path, err)
}

func readMark(get func(p []byte) (int, error)) string {
	p := make([]byte, maxMarkBytes)
	n, err := get(p)
	if err != nil {
		return ""
	}
	return string(p[:n])
}

// MarkOf returns the text of the mark that the file at path bears, "" for none.
func MarkOf(path string) string {
	mark := readMark(func(p []byte) (int, error) { return unix.Getxattr(path, markName, p) })
	_, text, _ := strings.Cut(mark, ": ")
	return text
}
