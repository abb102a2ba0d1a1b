package backing

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/fail"
)

// markName is the extended attribute that says whose backing a file is: an id,
// the file's inode (a copy that keeps attributes is another file all the same),
// and a text for people:
//
//	<id> inode <number>: <text>
const markName = "user.pollux.backing"

const maxMarkBytes = 1024

func markPrefix(id string, st os.FileInfo) string {
	inode := uint64(0)
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		inode = sys.Ino
	}
	return fmt.Sprintf("%s inode %d: ", id, inode)
}

func (b *osBacking) SetMark(id, text string) error {
	if b.device {
		return fail.New(fail.Unsupported, "mark backing", b.path, "a device has no place for a mark")
	}
	st, err := b.f.Stat()
	if err == nil {
		err = b.control(func(fd int) error {
			return unix.Fsetxattr(fd, markName, []byte(markPrefix(id, st)+text), 0)
		})
	}
	if err == nil {
		_ = b.control(func(fd int) error { return unix.Fremovexattr(fd, restoredName) }) // from now on it changes
		err = b.f.Sync()
	}
	return fail.Wrap(fail.Unsupported, "mark backing", b.path, err)
}

func (b *osBacking) HasMark(id string) bool {
	st, err := b.f.Stat()
	mark := ""
	_ = b.control(func(fd int) error {
		mark = readMark(func(p []byte) (int, error) { return unix.Fgetxattr(fd, markName, p) })
		return nil
	})
	return err == nil && strings.HasPrefix(mark, markPrefix(id, st))
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
