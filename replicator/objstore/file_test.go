package objstore_test

import (
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

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
