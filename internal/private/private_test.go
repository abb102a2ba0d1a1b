package private

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/fail"
)

// nobody is a user that these tests, which root runs, give things to.
const nobody = 65534

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// refused expects a refusal that names path.
func refused(t *testing.T, name, path string, err error) {
	t.Helper()
	if !fail.Is(err, fail.Refused) || !strings.Contains(err.Error(), path) || fail.HintOf(err) == "" {
		t.Errorf("%s: %v", name, err)
	}
}

// foreignDir makes a directory as another user would have. Without root's rights there
// is no way to: then one that others may write to stands for it.
func foreignDir(path string) error {
	if err := os.Mkdir(path, 0o755); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return os.Chmod(path, 0o777)
	}
	return os.Chown(path, nobody, nobody)
}

func TestDir(t *testing.T) {
	top := t.TempDir()
	in := func(parts ...string) string { return filepath.Join(append([]string{top}, parts...)...) }
	must(t, os.Chmod(top, os.ModeSticky|0o777))
	for name, path := range map[string]string{"new": in("a"), "nested": in("b", "c"), "again": in("a")} {
		if err := Dir(path); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	must(t, os.Symlink(in("a"), in("link")), os.Symlink(in("nowhere"), in("dangling")), os.Symlink(in("b"), in("ours")),
		os.WriteFile(in("file"), nil, 0o600),
		os.Mkdir(in("wide"), 0o700), os.Chmod(in("wide"), 0o777), os.Mkdir(in("group"), 0o700),
		os.Chmod(in("group"), 0o770),
		foreignDir(in("theirs")), os.Mkdir(in("theirs", "mine"), 0o700))
	if err := Dir(in("ours", "c")); err != nil {
		t.Errorf("below a link of our own: %v", err)
	}
	for name, path := range map[string]string{"link": in("link"), "dangling link": in("dangling"),
		"writable by all": in("wide"), "writable by a group": in("group"), "sticky": top, "another's": in("theirs")} {
		refused(t, name, path, Dir(path))
	}
	refused(t, "below another's", in("theirs"), Dir(in("theirs", "mine")))
	if err := Dir(in("file")); err == nil {
		t.Error("a file was taken for a directory")
	}
	if _, err := os.Lstat(in("nowhere")); err == nil {
		t.Error("a directory was made through a link")
	}
}

func TestOpenFile(t *testing.T) {
	top := t.TempDir()
	in := func(name string) string { return filepath.Join(top, name) }
	for _, name := range []string{"made", "opened"} {
		f, err := OpenFile(in("mine"))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if st, err := f.Stat(); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, st.Mode(), err)
		}
		must(t, f.Close())
	}
	const precious = "precious"
	must(t, os.WriteFile(in("precious"), []byte(precious), 0o600), os.Symlink(in("precious"), in("link")),
		os.Symlink(in("nowhere"), in("dangling")), os.WriteFile(in("wide"), nil, 0o600), os.Chmod(in("wide"), 0o666),
		os.WriteFile(in("readable"), nil, 0o644), os.Chmod(in("readable"), 0o644),
		unix.Mkfifo(in("pipe"), 0o600), os.WriteFile(in("two"), nil, 0o600), os.Link(in("two"), in("names")))
	bad := []string{"link", "dangling", "wide", "readable", "pipe", "two", "names"}
	if os.Geteuid() == 0 {
		must(t, os.WriteFile(in("theirs"), nil, 0o600), os.Chown(in("theirs"), nobody, nobody))
		bad = append(bad, "theirs")
	}
	for _, name := range bad {
		f, err := OpenFile(in(name))
		if err == nil {
			_ = f.Close()
		}
		refused(t, name, in(name), err)
	}
	if b, err := os.ReadFile(in("precious")); err != nil || string(b) != precious {
		t.Errorf("the link's target has %q, %v", b, err)
	}
	if _, err := os.Lstat(in("nowhere")); err == nil {
		t.Error("a file was made through a link")
	}
}
