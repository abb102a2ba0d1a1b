package journal

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/crashfs"
	"github.com/pollux-dr/pollux/replicator/state"
)

// small makes a log that rolls over and is let go soon.
func small(o *Options) { o.LogSegmentBytes, o.TrailingLogs = 32<<10, 1 }

// TestLogLeftAllLazy: a snapshot is being written while an Uploaded goes into a new
// segment of Raft's log; Raft then lets go of everything before it; the power fails
// before the next sync. Nothing of what was promised is lost: the journal starts.
func TestLogLeftAllLazy(t *testing.T) {
	mem := vfs.NewCrashableMem()
	if err := errors.Join(mem.MkdirAll("/j", 0o700), atomicfile.SyncDir(mem, "/")); err != nil {
		t.Fatal(err)
	}
	var hook atomic.Pointer[func()]
	fs := &crashfs.FS{FS: errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if h := hook.Load(); h != nil && op.Kind == errorfs.OpCreate && strings.HasPrefix(op.Path, "/j/snapshots") {
			hook.Store(nil)
			(*h)()
		}
		return nil
	}))}
	j, err := openTest(fs, small)
	if err != nil {
		t.Fatal(err)
	}
	pos := uint64(1)
	for try := 0; ; try++ {
		var n uint64
		for range 1 + try%2 {
			if n, err = j.Propose(state.KindHeartbeat, state.Heartbeat{}); err != nil {
				t.Fatal(err)
			}
		}
		rolled := j.wal.Stats().Rollovers
		h := func() {
			pos++
			if err := j.Uploaded(Uploaded{Target: "x", Position: pos, Index: n}); err != nil {
				t.Error(err)
			}
		}
		hook.Store(&h)
		if err := j.Snapshot(); err != nil {
			t.Fatal(err)
		}
		if j.wal.Stats().Rollovers > rolled {
			break
		}
		if try == 100 {
			t.Fatal("no rollover while a snapshot was written")
		}
	}
	var cut *vfs.MemFS
	fs.Quiet(func() { cut = mem.CrashClone(vfs.CrashCloneCfg{}) })
	_ = j.Close()
	if j, err = openTest(cut, small); err != nil {
		t.Errorf("does not start: %v", err)
	} else {
		_ = j.Close()
	}
}
