package hostdev

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/fail"
)

// CheckPath refuses what is a URL and no path on this host. op and object are for the
// error's text.
func CheckPath(op, object, path string) error {
	scheme, _, ok := strings.Cut(path, "://")
	switch {
	case path == "":
		return fail.New(fail.Invalid, op, object, "the path is empty").WithHint("name a file or a block device")
	case !ok || strings.Contains(scheme, "/"):
		return nil
	case strings.HasPrefix(scheme, "nbd"):
		return fail.New(fail.Invalid, op, object, "an NBD export, and a file or a block device is needed").
			WithHint("attach it with nbd-client and name the device; or use a file, and copy with nbdcopy")
	}
	return fail.New(fail.Invalid, op, object, "a URL, and a file or a block device is needed").
		WithHint("name a path on this host")
}

// CheckImage refuses a path at which no image can ever be written, whatever the image:
// it is no path at all, its directory is missing, or it names a device that is not
// there. A directory passes, since a group's images go into one.
func CheckImage(op, object, path string) error {
	refuse := func(kind fail.Kind, why, hint string) error { return fail.New(kind, op, object, why).WithHint(hint) }
	if err := CheckPath(op, object, path); err != nil {
		return err
	}
	st, err := os.Stat(path)
	switch {
	case err == nil && st.IsDir():
		return nil
	case err == nil && st.Mode().IsRegular() && BelowDev(path):
		return refuse(fail.Invalid, "a regular file among the devices, which the next boot takes away",
			"remove it if a mistyped device made it, and name a device that lsblk shows, or a file elsewhere")
	case err == nil && (st.Mode().IsRegular() || IsBlock(st.Mode())):
		return nil
	case err == nil:
		return refuse(fail.Invalid, "neither a regular file nor a block device", "name a file, such as "+path+
			".img, or a block device")
	case !errors.Is(err, os.ErrNotExist):
		return fail.Wrap(fail.Denied, op, object, err)
	case BelowDev(path):
		return refuse(fail.NotFound, "no such device", "lsblk shows the devices there are")
	}
	if to, err := os.Readlink(path); err == nil {
		return refuse(fail.NotFound, "a link to "+to+", which does not exist",
			"name what is meant itself, or remove the link")
	}
	dir := filepath.Dir(path)
	if d, err := os.Stat(dir); err != nil || !d.IsDir() {
		return refuse(fail.NotFound, "no directory "+dir, "make it, or name another path")
	}
	if strings.HasSuffix(path, "/") {
		return refuse(fail.NotFound, "no such directory", "make it, or name a file without a slash at the end")
	}
	return nil
}

// IsBlock reports whether a mode is a block device's.
func IsBlock(m os.FileMode) bool { return m&os.ModeDevice != 0 && m&os.ModeCharDevice == 0 }

// BelowDev reports whether a path lies in the filesystem of the devices, where a
// regular file can only be a mistake. What is mounted below /dev, as /dev/shm, does not.
func BelowDev(path string) bool {
	path, err := filepath.Abs(path)
	if err != nil {
		return false
	}
	if real, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		path = filepath.Join(real, filepath.Base(path))
	}
	if !strings.HasPrefix(path, "/dev/") {
		return false
	}
	var devs, dir unix.Stat_t
	// A directory that is missing below /dev is one of devices too: /dev/vg0/data.
	return unix.Stat("/dev", &devs) != nil || unix.Stat(filepath.Dir(path), &dir) != nil || devs.Dev == dir.Dev
}
