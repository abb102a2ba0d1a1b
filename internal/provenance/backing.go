package provenance

import (
	"strings"

	"golang.org/x/sys/unix"
)

// BackingName is the extended attribute that says whose backing a file is: an id,
// the file's inode and when that was made (a copy that keeps attributes is another
// file all the same, and inode numbers come back), and a text for people:
//
//	<id> inode <number> born <ns since 1970, 0: not known>: <text>
const BackingName = "user.pollux.backing"

const maxBytes = 1024

// Read returns an attribute, "" where there is none; get is Getxattr or Fgetxattr.
func Read(get func(p []byte) (int, error)) string {
	p := make([]byte, maxBytes)
	n, err := get(p)
	if err != nil {
		return ""
	}
	return string(p[:n])
}

// BackingOf returns whose backing the file at path is, in words; "" is nobody's.
func BackingOf(path string) string {
	note := Read(func(p []byte) (int, error) { return unix.Getxattr(path, BackingName, p) })
	_, text, _ := strings.Cut(note, ": ")
	return text
}
