package backing

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

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
	if !b.HasMark(id) || b.HasMark("another") || MarkOf(path) != text {
		t.Errorf("the mark %q is not understood: %q", want, MarkOf(path))
	}
	if err := b.SetMark(id, text); err != nil {
		t.Fatal(err)
	}
	mark := make([]byte, maxMarkBytes)
	if n, err := unix.Getxattr(path, "user.pollux.backing", mark); err != nil || string(mark[:n]) != want {
		t.Errorf("mark %q in place of %q, %v", mark[:max(n, 0)], want, err)
	}
}

// TestRestoredFormat: so is what a restore leaves, with and without the time of older
// releases.
func TestRestoredFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "b")
	when := time.Unix(1_795_000_000, 123_000)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, when, when); err != nil {
		t.Fatal(err)
	}
	const stream = "51000000-0000-4000-8000-000000000001"
	for text, want := range map[string]Restored{
		stream + " 2 42": {stream, 2, 42, false},
		fmt.Sprint(stream, " 2 42 ", when.UnixNano()):      {stream, 2, 42, true},
		fmt.Sprint(stream, " 2 42 ", when.UnixNano()+1000): {stream, 2, 42, false},
	} {
		if err := unix.Setxattr(path, "user.pollux.restored", []byte(text), 0); err != nil {
			t.Fatal(err)
		}
		if got, ok := RestoredAt(path); !ok || got != want {
			t.Errorf("%q: %+v, %v", text, got, ok)
		}
	}
}
