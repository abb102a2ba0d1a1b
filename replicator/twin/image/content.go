package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/quantity"
)

// zeros is the content of what may be overwritten.
const zeros = "nothing but zeros"

// lookBytes is how much of a target is read in search of data: some seconds' worth. What
// is longer, and begins with as many zeros, is left to the operator.
const lookBytes = 4 << 30

// content is what a target is looked at through: a file or a device.
type content interface {
	io.ReaderAt
	io.Seeker
}

// look says what a target of a size seems to hold. Doubt is why it may hold more than the
// zeros that were found.
func look(f content, size int64) (what string, doubt error) {
	b := make([]byte, min(size, 1<<20))
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return "what cannot be read", err
	}
	if what := signature(b); what != "" {
		return what, nil
	}
	data, end, err := anyData(f, size, lookBytes)
	switch {
	case data:
		return "data of an unknown kind", nil
	case err != nil:
		return zeros + fmt.Sprintf(" before byte %d", end), err
	case end < size:
		doubt = fmt.Errorf("looked at %s of %s, and these are zeros", quantity.Bytes(end), quantity.Bytes(size))
		return fmt.Sprintf("zeros in its first %s", quantity.Bytes(end)), doubt
	}
	return zeros, nil
}

// anyData looks for a byte that is not zero, and reads no more than a bound for it: all
// before end are zeros. Holes cost nothing where the system tells them, which it does of
// files, and of devices not.
func anyData(f content, size, bound int64) (found bool, end int64, err error) {
	b := make([]byte, 1<<20)
	for end < size {
		next, err := f.Seek(end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return false, size, nil
		}
		if err == nil {
			end = max(end, next)
		}
		if bound <= 0 {
			return false, end, nil
		}
		n, err := f.ReadAt(b[:min(int64(len(b)), size-end)], end)
		if len(bytes.TrimLeft(b[:n], "\x00")) > 0 {
			return true, end, nil
		}
		end, bound = end+int64(n), bound-int64(n)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, end, err
		}
		if n == 0 { // it has become shorter
			return false, size, nil
		}
	}
	return false, size, nil
}

// signature names what begins with b, "" what is not known.
func signature(b []byte) string {
	at := func(off int, magic string) bool {
		return len(b) >= off+len(magic) && string(b[off:off+len(magic)]) == magic
	}
	switch {
	case at(0, "XFSB"):
		return "an XFS filesystem"
	case at(1080, "\x53\xef"):
		return "an ext2/3/4 filesystem"
	case at(0x10040, "_BHRfS_M"):
		return "a btrfs filesystem"
	case at(0, "LUKS\xba\xbe"):
		return "a LUKS container"
	case at(512, "LABELONE"), at(0, "LABELONE"):
		return "an LVM physical volume"
	case at(4086, "SWAPSPACE2"):
		return "swap space"
	case at(512, "EFI PART"):
		return "a GPT partition table"
	case at(510, "\x55\xaa"):
		return "an MBR partition table or boot sector"
	case at(0, "SQLite format 3"):
		return "an SQLite database"
	case at(0, "QFI\xfb"):
		return "a qcow2 image"
	}
	return ""
}
