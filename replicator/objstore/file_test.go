package objstore_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/objstore/objstoretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, url string, opts objstore.Options) objstore.Store {
	t.Helper()
	s, err := objstore.Open(t.Context(), url, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// troubled is s behind lost replies and errors, and the retries that hide them.
func troubled(s objstore.Store) objstore.Store {
	faulty := objstore.WithFaults(s, 1, objstore.Faults{LostReplies: 0.2, Errors: 0.1})
	return objstore.WithRetry(faulty, objstore.Policy{MinBackoff: time.Microsecond, MaxBackoff: time.Millisecond})
}

func TestFile(t *testing.T) {
	openDir := func(t *testing.T) objstore.Store {
		return open(t, "file://"+t.TempDir()+"/store", objstore.Options{})
	}
	openMem := func(t *testing.T) objstore.Store {
		return open(t, "file:///store", objstore.Options{FS: vfs.NewCrashableMem()})
	}
	t.Run("Dir", func(t *testing.T) { objstoretest.Run(t, openDir) })
	t.Run("Mem", func(t *testing.T) { objstoretest.Run(t, openMem) })
	t.Run("DirTroubled", func(t *testing.T) {
		objstoretest.Run(t, func(t *testing.T) objstore.Store { return troubled(openDir(t)) })
	})
	t.Run("MemTroubled", func(t *testing.T) {
		objstoretest.Run(t, func(t *testing.T) objstore.Store { return troubled(openMem(t)) })
	})
}

// TestFileStoreVanishes moves the store away under a writer, or puts an empty
// directory in its place as a lost mount does: nothing is written there, and the
// writer goes on when it is back.
func TestFileStoreVanishes(t *testing.T) {
	for _, part := range []string{"store", "store/log"} {
		dir := t.TempDir()
		s := open(t, "file://"+dir+"/store", objstore.Options{})
		create := func(name string) error { return s.Create(t.Context(), name, []byte("x")) }
		if err := create("log/0"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, part), filepath.Join(dir, "away")); err != nil {
			t.Fatal(err)
		}
		for _, d := range []string{"", "store", "store/.tmp", "store/log"} {
			if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := create("log/1"); !fail.Is(err, fail.Retry) || fail.HintOf(err) == "" {
				t.Errorf("without %s, with %q: %v", part, d, err)
			}
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "store/log/*")); len(left) > 0 {
			t.Errorf("without %s: wrote %v", part, left)
		}
		if err := os.RemoveAll(filepath.Join(dir, part)); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "away"), filepath.Join(dir, part)); err != nil {
			t.Fatal(err)
		}
		if err := create("log/1"); err != nil {
			t.Errorf("after %s came back: %v", part, err)
		}
		// The next process has read the log when it loses it.
		s = open(t, "file://"+dir+"/store", objstore.Options{})
		if _, err := s.Read(t.Context(), "log/0", 0, -1, nil); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, part), filepath.Join(dir, "away")); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(dir, "store"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := create("log/2"); !fail.Is(err, fail.Retry) {
			t.Errorf("after a restart, without %s: %v", part, err)
		}
	}
}
