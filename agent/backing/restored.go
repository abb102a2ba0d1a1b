package backing

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/fail"
)

// restoredName is the extended attribute that a restore leaves on a file: which
// point of which volume it holds, until an agent takes the file.
//
//	<stream id> <volume's number> <LSN>
const restoredName = "user.pollux.restored"

// Restored is a point of a volume that a file was restored to.
type Restored struct {
	Stream string
	Volume uint32 // number in the journal
	LSN    uint64
}

// SetRestored writes r beside the file's bytes, where there is a place for it.
func SetRestored(f *os.File, r Restored) error {
	err := unix.Fsetxattr(int(f.Fd()), restoredName, fmt.Appendf(nil, "%s %d %d", r.Stream, r.Volume, r.LSN), 0)
	return fail.Wrap(fail.Unsupported, "note the point at", f.Name(), err)
}

// RestoredAt returns what SetRestored wrote; ok is false where it did not.
func RestoredAt(path string) (r Restored, ok bool) {
	text := readMark(func(p []byte) (int, error) { return unix.Getxattr(path, restoredName, p) })
	n, err := fmt.Sscanf(text, "%s %d %d", &r.Stream, &r.Volume, &r.LSN)
	return r, n == 3 && err == nil
}
