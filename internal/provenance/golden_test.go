package provenance

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestRestoredFormat: what a restore leaves is understood, with and without the time of older
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
