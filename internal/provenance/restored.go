package provenance

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// RestoredName is the extended attribute that a restore leaves on a file: which
// point of which volume it holds, until an agent takes the file.
//
//	<stream id> <volume's number> <LSN> <mtime, ns since 1970> <hash of the frame at the LSN>
//
// Older releases wrote no hash, and before that no mtime.
const RestoredName = "user.pollux.restored"

// Restored is a point of a volume that a file was restored to.
type Restored struct {
	Stream string
	Volume uint32 // number in the journal
	LSN    uint64
	// Untouched: the file was not written to since.
	Untouched bool
	Hash      change.Hash // of the frame in which LSN lies; zero: not known
}

// SetRestored writes r beside the file's bytes, where there is a place for it.
func SetRestored(f *os.File, r Restored) error {
	when := time.Now().Truncate(time.Microsecond) // that the file's own is what we wrote, whatever its clock's steps
	err := unix.Futimes(int(f.Fd()),
		[]unix.Timeval{unix.NsecToTimeval(when.UnixNano()), unix.NsecToTimeval(when.UnixNano())})
	if err == nil {
		err = unix.Fsetxattr(int(f.Fd()), RestoredName,
			fmt.Appendf(nil, "%s %d %d %d %s", r.Stream, r.Volume, r.LSN, when.UnixNano(), r.Hash), 0)
	}
	return fail.Wrap(fail.Unsupported, "note the point at", f.Name(), err)
}

// RestoredAt returns what SetRestored wrote; ok is false where it did not.
func RestoredAt(path string) (r Restored, ok bool) {
	text := Read(func(p []byte) (int, error) { return unix.Getxattr(path, RestoredName, p) })
	var when int64
	var hash string
	n, _ := fmt.Sscanf(text, "%s %d %d %d %s", &r.Stream, &r.Volume, &r.LSN, &when, &hash)
	if n == 5 && r.Hash.UnmarshalText([]byte(hash)) != nil {
		r.Hash = change.Hash{}
	}
	if st, err := os.Stat(path); err == nil && n >= 4 {
		r.Untouched = st.ModTime().UnixNano() == when
	}
	return r, n >= 3
}
