package systemtest

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestEmptyStore starts an agent whose store directory is empty all of a sudden, as
// when a filesystem is not mounted. A log that begins in the middle could never be
// restored: nothing is written, the status says why, and replication goes on by
// itself when the log is back.
func TestEmptyStore(t *testing.T) {
	s := newSite(t, siteConf{})
	s.mustStart()
	s.volume("g", "v", "8MiB")
	data := bytes.Repeat([]byte{5}, 4096)
	if err := s.dial("v").WriteAt(t.Context(), data, 0, 0); err != nil {
		t.Fatal(err)
	}
	s.verb("group", "wait", "g")
	s.stop()
	store, aside := s.storeDir(), filepath.Join(s.dir, "aside")
	if err := os.Rename(store, aside); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(store, 0o755); err != nil {
		t.Fatal(err)
	}
	s.mustStart()
	if err := s.dial("v").WriteAt(t.Context(), data, 4096, 0); err != nil {
		t.Fatal(err)
	}
	until(t, 30*time.Second, "the status names the empty store", func() error {
		if g := s.group("g"); !strings.Contains(g.Reason, "mounted") {
			return &os.PathError{Op: g.State, Path: g.Reason, Err: os.ErrInvalid}
		}
		return nil
	})
	if o := s.pollux("status", "--check"); o.code == 0 {
		t.Errorf("status --check is content: %s", o.stdout)
	}
	if objects, err := filepath.Glob(filepath.Join(store, "log", "*")); err != nil || len(objects) > 0 {
		t.Errorf("written to the empty store: %v, %v", objects, err)
	}
	if g := s.group("g"); g.DurableLSN != 1 {
		t.Errorf("durable up to LSN %d, want 1", g.DurableLSN)
	}
	if err := os.RemoveAll(store); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(aside, store); err != nil {
		t.Fatal(err)
	}
	s.drained("g", time.Minute)
	image, lsn := s.restore("v", "")
	if lsn != 2 || !bytes.Equal(image[:8192], append(data, data...)) {
		t.Errorf("restored LSN %d; the image is right: %v", lsn, bytes.Equal(image[:8192], append(data, data...)))
	}
}
