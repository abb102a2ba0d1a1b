package private

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Dir makes a directory, and what is missing above it, and refuses one that another
// user can change.
func Dir(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fail.Wrap(fail.Denied, "create", path, err)
	}
	return CheckDir(path)
}

// CheckDir refuses a directory that another user can change, or put another one in
// the place of.
func CheckDir(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return fail.Wrap(fail.Denied, "find", path, err)
	}
	var st os.FileInfo
	for p := path; ; p = filepath.Dir(p) {
		if st, err = os.Lstat(p); err != nil {
			return fail.Wrap(fail.Denied, "look at", p, err)
		}
		link := st.Mode()&os.ModeSymlink != 0
		why := foreign(st)
		if link && why == "" && p != path { // as /var/run is
			if st, err = os.Stat(p); err != nil {
				return fail.Wrap(fail.Denied, "look at", p, err)
			}
			why = foreign(st)
		}
		switch perm := st.Mode().Perm(); {
		case why != "":
		case !st.IsDir() && link:
			why = "is a symbolic link"
		case !st.IsDir():
			why = "is no directory"
		case p == path && perm&0o022 != 0, p != path && perm&0o002 != 0 && st.Mode()&os.ModeSticky == 0:
			why = fmt.Sprintf("can be written to by others (mode %o)", perm)
		}
		if why != "" {
			return refuse(p, why, "a directory")
		}
		if p == filepath.Dir(p) {
			return nil
		}
	}
}

// OpenFile opens a regular file that only this user can read and write, or makes it.
func OpenFile(path string) (*os.File, error) {
	const flags = os.O_RDWR | unix.O_NOFOLLOW | unix.O_NONBLOCK
	f, err := os.OpenFile(path, flags, 0)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = os.OpenFile(path, flags|os.O_CREATE|os.O_EXCL, 0o600)
	}
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, refuse(path, "is a symbolic link", "a file")
	case err != nil:
		return nil, fail.Wrap(fail.Denied, "open", path, err)
	}
	st, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, fail.Wrap(fail.Denied, "look at", path, err)
	}
	why := ""
	switch perm := st.Mode().Perm(); {
	case !st.Mode().IsRegular():
		why = "is no regular file"
	case owner(st) != os.Geteuid():
		why = fmt.Sprintf("belongs to user %d", owner(st))
	case perm&0o077 != 0:
		why = fmt.Sprintf("is open to others (mode %o)", perm)
	case st.Sys().(*syscall.Stat_t).Nlink != 1:
		why = "has another name"
	}
	if why != "" {
		_ = f.Close()
		return nil, refuse(path, why, "a file")
	}
	return f, nil
}

func owner(st os.FileInfo) int { return int(st.Sys().(*syscall.Stat_t).Uid) }

// foreign says whose st is, if that is neither this user nor root.
func foreign(st os.FileInfo) string {
	if u := owner(st); u != 0 && u != os.Geteuid() {
		return fmt.Sprintf("belongs to user %d", u)
	}
	return ""
}

func refuse(path, why, what string) error {
	return fail.New(fail.Refused, "use", path, "it "+why+": another user could read or change what is there").
		WithHint(fmt.Sprintf("find out who made it, and remove it, or configure another place; "+
			"%s here has to be user %d's alone", what, os.Geteuid()))
}
