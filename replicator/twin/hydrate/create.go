package hydrate

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/provenance"
	"github.com/pollux-dr/pollux/internal/quantity"
)

// SideSuffix ends the name of the side file beside an image that is a file.
const SideSuffix = ".hydrating"

// Place is where an image lies, and what says which of its pages are here.
type Place struct {
	// Path is the image's: a file or a block device.
	Path string
	// Dir is where the side file of a device lies. The daemon of an agent looks in its state
	// directory.
	Dir string
	// FS is where files are; nil is the system's.
	FS vfs.FS
}

func (p *Place) fs() vfs.FS {
	if p.FS == nil {
		return vfs.Default
	}
	return p.FS
}

// real reports whether the image is in the system's filesystem.
func (p *Place) real() bool { return p.fs() == vfs.Default }

func (p *Place) device() bool {
	st, err := os.Stat(p.Path)
	return p.real() && err == nil && st.Mode()&os.ModeDevice != 0
}

// Side is the path of the side file.
func (p *Place) Side() string {
	if p.device() {
		return filepath.Join(p.Dir, url.PathEscape(p.Path)+SideSuffix)
	}
	return p.Path + SideSuffix
}

// Pending reports whether the image is to be opened by Open, because it may not be complete.
// Errors: fail.Damaged for an image of which the side file is gone.
func (p *Place) Pending() (bool, error) {
	side := p.Side()
	_, err := p.fs().Stat(side)
	if err == nil {
		return true, nil
	}
	if !oserror.IsNotExist(err) {
		return false, fail.Wrap(fail.Internal, "look for", side, err)
	}
	if p.real() && !p.device() && provenance.Hydrating(p.Path) != "" {
		return false, fail.New(fail.Damaged, "open", p.Path,
			"it was being filled from the object store, and "+side+", which says what of it is here, is not there").
			WithHint("put the side file back beside it; if it is lost, restore the volume's newest point " +
				"to its place, and say pollux volume accept")
	}
	return false, nil
}

// Create makes the image of a point, which is filled from the store by and by: a sparse file,
// or what is on a device from now on. It may be opened by Open at once, and by nothing else
// until it is complete. A crash leaves nothing at the image's path, or all of it. What an
// earlier attempt left beside it is replaced. Errors: fail.Exists where a file is at the path;
// fail.Invalid for a device that is too small.
func Create(p Place, at Point) error {
	if err := checkSize(at.SizeBytes); err != nil {
		return fail.New(fail.Invalid, "create image of", at.String(), err.Error())
	}
	h := Head{Point: at, PageBytes: pageBytes}
	if p.device() {
		if err := measure(&p, at.SizeBytes); err != nil {
			return err
		}
		return writeHead(&p, &h)
	}
	if _, err := p.fs().Stat(p.Path); err == nil {
		return fail.New(fail.Exists, "create image", p.Path, "there is something already").
			WithHint("name another path, or move it away")
	}
	tmp := p.Path + atomicfile.TempSuffix
	f, err := p.fs().Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fail.Wrap(fail.Denied, "create", tmp, err)
	}
	if fd := f.Fd(); fd != vfs.InvalidFd {
		h.ID = uuid.NewString()
		err = errors.Join(unix.Fchmod(int(fd), 0o600), unix.Ftruncate(int(fd), at.SizeBytes))
		if err == nil && provenance.SetHydrating(int(fd), h.ID) != nil {
			h.ID = "" // no place for it
		}
	}
	if err == nil { // before the image has its name, under which it looks complete
		err = writeHead(&p, &h)
	}
	return fail.Wrap(fail.Full, "create image", p.Path, atomicfile.Finish(p.fs(), f, p.Path, err))
}

// Made reports whether the place has the image of a point, as Create has made it or further. Errors:
// fail.Damaged for a side file that cannot be read.
func Made(p Place, at Point) (bool, error) {
	for _, path := range []string{p.Path, p.Side()} {
		if _, err := p.fs().Stat(path); oserror.IsNotExist(err) {
			return false, nil
		} else if err != nil {
			return false, fail.Wrap(fail.Internal, "look for", path, err)
		}
	}
	h, err := readSide(p.fs(), p.Side(), func(run) {})
	if err != nil || !h.Point.is(at) {
		return false, err
	}
	return h.ID == "" || !p.real() || provenance.Hydrating(p.Path) == h.ID, nil
}

func measure(p *Place, size int64) error {
	f, err := os.Open(p.Path)
	if err != nil {
		return fail.Wrap(fail.Denied, "open", p.Path, err)
	}
	defer f.Close()
	n, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fail.Wrap(fail.Internal, "measure", p.Path, err)
	}
	if n < size {
		return fail.New(fail.Invalid, "create image on", p.Path,
			fmt.Sprintf("it has %v, the volume %v", quantity.Bytes(n), quantity.Bytes(size)))
	}
	return nil
}

func writeHead(p *Place, h *Head) error {
	b, err := encodeHead(h)
	if err == nil {
		err = atomicfile.WriteFile(p.fs(), p.Side(), b)
	}
	return fail.Wrap(fail.Full, "write", p.Side(), err)
}

// Remove removes what Create made beside an image that is not wanted any more, and is gone.
func Remove(p Place) error {
	side := side{fs: p.fs(), path: p.Side()}
	return side.remove()
}
