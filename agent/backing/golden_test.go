package backing

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/pollux-dr/pollux/internal/provenance"

	"golang.org/x/sys/unix"
)

// TestMarkFormat: the marks of earlier builds are understood, and written as they were.
// They name an inode, so that there is no file to keep of them.
func TestMarkFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "b")
	if _, err := Create(path, 1<<20); err != nil {
		t.Fatal(err)
	}
	b, err := Open(path, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		t.Fatal(err)
	}
	const id, text = "0123456789abcdef", "volume data of agent host-a: do not write here"
	want := fmt.Sprintf("%s inode %d born %d: %s", id, st.Ino, st.Btime.Sec*1e9+int64(st.Btime.Nsec), text)
	if err := unix.Setxattr(path, "user.pollux.backing", []byte(want), 0); err != nil {
		t.Fatal(err)
	}
	if !b.HasIdentity(id) || b.HasIdentity("another") || provenance.BackingOf(path) != text {
		t.Errorf("the mark %q is not understood: %q", want, provenance.BackingOf(path))
	}
	if err := b.SetIdentity(id, text); err != nil {
		t.Fatal(err)
	}
	mark := make([]byte, 1024)
	if n, err := unix.Getxattr(path, "user.pollux.backing", mark); err != nil || string(mark[:n]) != want {
		t.Errorf("mark %q in place of %q, %v", mark[:max(n, 0)], want, err)
	}
}
