package systemtest

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/internal/fail"
)

// TestRestoreOntoDevice: a device is empty only where all of it is; data far behind its
// beginning is not overwritten unasked.
func TestRestoreOntoDevice(t *testing.T) {
	s := newSite(t, siteConf{})
	s.mustStart()
	s.volume("g", "v", "16MiB")
	s.mark("g", "now")
	path, data := filepath.Join(s.dir, "disk"), bytes.Repeat([]byte("data"), 1<<20)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(300 << 20); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(data, 10<<20); err != nil { // within the volume's size
		t.Fatal(err)
	}
	device, _ := loop(t, path)
	args := append([]string{"restore", "v", "-o", device}, s.storeArgs()...)
	o := s.pollux(args...)
	if o.code != fail.ExitCode(fail.New(fail.Refused, "", "", "")) || !strings.Contains(o.stderr, "not empty") {
		t.Errorf("onto a device with data: %d, %s", o.code, o.stderr)
	}
	got := make([]byte, len(data))
	if _, err := f.ReadAt(got, 10<<20); err != nil || !bytes.Equal(got, data) {
		t.Error("the data is gone", err)
	}
	empty, _ := loop(t, newSparse(t, filepath.Join(s.dir, "empty"), 300<<20))
	if o := s.pollux(append([]string{"restore", "v", "-o", empty}, s.storeArgs()...)...); o.code != 0 {
		t.Errorf("onto an empty device: %d, %s", o.code, o.stderr)
	}
}

func newSparse(t *testing.T, path string, size int64) string {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}
