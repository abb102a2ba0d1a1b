package objstore

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// TestFileSpecial: what is no regular file is refused by name, and nobody waits for it.
func TestFileSpecial(t *testing.T) {
	dir := t.TempDir()
	for _, sub := range []string{"log", "x"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"log/1", "pipe", tempDir} {
		if err := syscall.Mkfifo(filepath.Join(dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/dev/zero", filepath.Join(dir, "log/2")); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if _, err := Open(t.Context(), "file://"+dir+"/pipe", Options{ReadOnly: true}); !fail.Is(err, fail.NotFound) {
			t.Errorf("a store that is a pipe: %v", err)
		}
		s, err := Open(t.Context(), "file://"+dir, Options{})
		if err != nil {
			t.Error(err)
			return
		}
		defer s.Close()
		for _, name := range []string{"log/1", "log/2"} {
			if _, err := s.Read(t.Context(), name, 0, -1, nil); !fail.Is(err, fail.Damaged) {
				t.Errorf("read of %s: %v", name, err)
			}
			if _, err := s.Size(t.Context(), name); !fail.Is(err, fail.Damaged) {
				t.Errorf("size of %s: %v", name, err)
			}
		}
		names := 0
		if err := s.List(t.Context(), "log/", "", func(Info) error { names++; return nil }); err != nil || names != 2 {
			t.Errorf("list: %d names, %v", names, err)
		}
		if err := os.Remove(filepath.Join(dir, tempDir)); err != nil {
			t.Error(err)
		}
		if err := s.Create(t.Context(), "log/1", []byte("x")); !fail.Is(err, fail.Exists) {
			t.Errorf("create: %v", err)
		}
	}()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("it hangs")
	}
}

// TestReadWhole: an object larger than its kind is not read into memory.
func TestReadWhole(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(t.Context(), "file://"+dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "a"), 1<<40); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadWhole(t.Context(), s, "a", 1000); !fail.Is(err, fail.Damaged) {
		t.Errorf("%v", err)
	}
	if err := os.Truncate(filepath.Join(dir, "a"), 5); err != nil {
		t.Fatal(err)
	}
	if b, err := ReadWhole(t.Context(), s, "a", 5); string(b) != "12345" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

// TestExisting: a store that has to be there is not made, and may be written to where it is.
func TestExisting(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	if _, err := Open(t.Context(), "file://"+dir, Options{Existing: true}); !fail.Is(err, fail.NotFound) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("it was made: %v", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), "file://"+dir, Options{Existing: true})
	if err == nil {
		err = s.Create(t.Context(), "log/x", []byte("x"))
	}
	if err != nil {
		t.Error(err)
	}
}
