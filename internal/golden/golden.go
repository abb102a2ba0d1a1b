package golden

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

const (
	// Dir is where the vectors of a package are, below its folder.
	Dir = "testdata/golden"
	// addVariable says, set to "add" in the environment, that vectors which are missing
	// are to be written.
	addVariable = "POLLUX_GOLDEN"
)

// Adding reports whether vectors that are missing are to be written.
func Adding() bool { return os.Getenv(addVariable) == "add" }

// Kept returns the vector of a name. Where there is none the test fails, or, while
// vectors are added, keeps what write returns. A vector whose name ends in .zst is kept
// compressed; its plain bytes are given and returned. write is nil where this build does
// not write the format any more.
func Kept(t testing.TB, name string, write func() []byte) []byte {
	t.Helper()
	path := filepath.Join(Dir, filepath.FromSlash(name))
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && write != nil && Adding() {
		add(t, path, write())
		b, err = os.ReadFile(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("there is no vector %s: a new format or kind needs one; see docs/formats/README.md", path)
	}
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(name, ".zst") {
		return b
	}
	r, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	plain, err := r.DecodeAll(b, nil)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return plain
}

// add creates a vector, and never replaces one.
func add(t testing.TB, path string, b []byte) {
	t.Helper()
	if strings.HasSuffix(path, ".zst") {
		w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
		if err != nil {
			t.Fatal(err)
		}
		b = w.EncodeAll(b, nil)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	t.Logf("added %s, %d bytes", path, len(b))
}

// Same is Kept for what this build still writes, byte for byte: today. It says where the
// two differ.
func Same(t testing.TB, name string, today []byte) []byte {
	t.Helper()
	kept := Kept(t, name, func() []byte { return today })
	if bytes.Equal(kept, today) {
		return kept
	}
	at := 0
	for at < len(kept) && at < len(today) && kept[at] == today[at] {
		at++
	}
	t.Errorf("%s: this build writes other bytes, from byte %d of %d on (it writes %d): a change of format "+
		"needs a version, a vector of its own, and readers of the old one\n kept %s\ntoday %s", name, at, len(kept),
		len(today),
		around(kept, at), around(today, at))
	return kept
}

// around quotes what is near an offset.
func around(b []byte, at int) string {
	return strconv.QuoteToASCII(string(b[max(0, at-16):min(len(b), at+48)]))
}

// Text compares a dump of what a vector says with the one that is kept beside it.
func Text(t testing.TB, name, today string) {
	t.Helper()
	kept := strings.Split(string(Kept(t, name, func() []byte { return []byte(today) })), "\n")
	got := strings.Split(today, "\n")
	for i := range max(len(kept), len(got)) {
		line := func(of []string) string {
			if i < len(of) {
				return of[i]
			}
			return "(nothing)"
		}
		if line(kept) != line(got) {
			t.Errorf("%s, line %d: this build understands it otherwise\n kept %s\ntoday %s", name, i+1,
				line(kept), line(got))
			return
		}
	}
}
