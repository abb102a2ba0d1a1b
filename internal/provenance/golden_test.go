package provenance

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/change"
)

// TestRestoredFormat: what a restore leaves is understood, with and without the time and the
// hash that older releases did not write.
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
		stream + " 2 42": {Stream: stream, Volume: 2, LSN: 42},
		fmt.Sprint(stream, " 2 42 ", when.UnixNano()):      {Stream: stream, Volume: 2, LSN: 42, Untouched: true},
		fmt.Sprint(stream, " 2 42 ", when.UnixNano()+1000): {Stream: stream, Volume: 2, LSN: 42},
		fmt.Sprint(stream, " 2 42 ", when.UnixNano(), " 0102030405060708090a0b0c0d0e0f10"): {Stream: stream, Volume: 2,
			LSN: 42, Untouched: true, Hash: change.Hash{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}},
	} {
		if err := unix.Setxattr(path, "user.pollux.restored", []byte(text), 0); err != nil {
			t.Fatal(err)
		}
		if got, ok := RestoredAt(path); !ok || got != want {
			t.Errorf("%q: %+v, %v", text, got, ok)
		}
	}
}
