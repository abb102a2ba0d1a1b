package uploader

import (
	"context"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/pollux-dr/pollux/replicator/journal"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
)

// The state disk is full for a moment, then has room again.
func TestFullRaftDisk(t *testing.T) {
	var full atomic.Bool
	r := &rig{t: t}
	r.fs = errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full.Load() && op.Kind == errorfs.OpCreate && strings.HasPrefix(op.Path, "/j/raft") {
			return syscall.ENOSPC
		}
		return nil
	}))
	_ = r.fs.MkdirAll("/remote", 0o755)
	var err error
	if r.store, err = objstore.Open(context.Background(), "file:///remote", objstore.Options{FS: r.fs}); err != nil {
		t.Fatal(err)
	}
	if r.j, err = journal.Open(context.Background(), journal.Options{Dir: "/j", FS: r.fs, Targets: []string{"x"},
		Required: []string{"x"}, Election: 5 * time.Millisecond, LogSegmentBytes: 32 << 10}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.j.Close() })
	u, stop := r.run()
	r.propose(5)
	r.await()
	full.Store(true)
	failed := 0
	var last error
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		if _, err := r.j.Propose(state.KindHeartbeat, state.Heartbeat{}); err != nil {
			failed++
			last = err
		}
	}
	full.Store(false)
	t.Log("failed proposals:", failed, last)
	for i := 0; ; i++ {
		if _, err := r.j.Propose(state.KindHeartbeat, state.Heartbeat{}); err == nil {
			break
		} else if i == 500 {
			t.Fatalf("the journal does not go on: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.await() // the disk has room and the journal goes on: so must the uploader
	if st := u.Status(); st.Stopped {
		t.Errorf("the uploader has stopped: %v", st.Err)
	}
	if err := stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
}
