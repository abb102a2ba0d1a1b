package provenance

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/fail"
)

// HydratingName is the extended attribute of an image that is not complete: what is missing
// still comes from an object store. Its value is the id that the side file bears which says
// what is here, so that neither is taken without the other.
const HydratingName = "user.pollux.hydrating"

// SetHydrating notes beside a file's bytes that it is filled by the side file of that id. The
// caller syncs the file. Errors: fail.Unsupported where there is no place for it.
func SetHydrating(fd int, id string) error {
	return fail.Wrap(fail.Unsupported, "note the side file at", "image",
		unix.Fsetxattr(fd, HydratingName, []byte(id), 0))
}

// Hydrating returns the id of the side file that fills the image at path; "" is none.
func Hydrating(path string) string {
	return Read(func(p []byte) (int, error) { return unix.Getxattr(path, HydratingName, p) })
}

// ClearHydrating durably says that the image at path is complete. What a sync of it has to
// report stays to be heard by those who have the file open.
func ClearHydrating(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fail.Wrap(fail.Internal, "complete", path, err)
	}
	err = unix.Fremovexattr(int(f.Fd()), HydratingName)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		err = nil
	}
	if err == nil {
		err = f.Sync()
	}
	return fail.Wrap(fail.Internal, "complete", path, errors.Join(err, f.Close()))
}
