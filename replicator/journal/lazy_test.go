package journal

import (
	"context"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/crashfs"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
)

func openTest(fs vfs.FS, with ...func(*Options)) (*Journal, error) {
	o := Options{Dir: "/j", FS: fs, Targets: []string{"x"}, Required: []string{"x"},
		Election: 5 * time.Millisecond, LogSegmentBytes: 1 << 20, Heartbeat: time.Hour}
	for _, set := range with {
		set(&o)
	}
	return Open(context.Background(), o)
}

// cutWithStateAhead returns what a power cut leaves when the state was written
// out, and Raft's log only up to its last sync.
func cutWithStateAhead(t *testing.T, do func(j *Journal)) *vfs.MemFS {
	mem := vfs.NewCrashableMem()
	fs := &crashfs.FS{FS: mem}
	if err := mem.MkdirAll("/j", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.SyncDir(mem, "/"); err != nil {
		t.Fatal(err)
	}
	j, err := openTest(fs)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	do(j)
	if err := j.db.LogData(nil, pebble.Sync); err != nil {
		t.Fatal(err)
	}
	var cut *vfs.MemFS
	fs.Quiet(func() { cut = mem.CrashClone(vfs.CrashCloneCfg{}) })
	return cut
}

// TestLazyEntryLost loses an Uploaded that the state knows already. The journal
// goes on, still knows what the store has, and applies what comes next.
func TestLazyEntryLost(t *testing.T) {
	var before Status
	cut := cutWithStateAhead(t, func(j *Journal) {
		for position := uint64(2); position <= 3; position++ { // the first one moves the floor, and is firm
			last, err := j.Propose(state.KindHeartbeat, state.Heartbeat{})
			if err != nil {
				t.Fatal(err)
			}
			if err := j.Uploaded(Uploaded{Target: "x", Position: position, Index: last}); err != nil {
				t.Fatal(err)
			}
			if st := j.Status(); position == 2 && st.WAL.Durable != st.WAL.Last {
				t.Error("the first Uploaded was not synced")
			}
		}
		if st := j.Status(); st.WAL.Durable == st.WAL.Last {
			t.Fatal("Uploaded was synced: the test shows nothing")
		}
		before = j.Status()
	})
	j, err := openTest(cut)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if got := j.Target("x"); got.Position != 3 || got.Index != before.LastIndex {
		t.Errorf("the target is at %+v, want position 3, index %d", got, before.LastIndex)
	}
	for range 3 {
		if _, err := j.Propose(state.KindHeartbeat, state.Heartbeat{}); err != nil {
			t.Fatalf("after the cut: %v", err)
		}
	}
	if got := j.LastIndex(); got != before.LastIndex+3 {
		t.Errorf("the journal is at index %d, want %d", got, before.LastIndex+3)
	}
}

// TestFirmEntryLost loses an entry that was promised: that is refused.
func TestFirmEntryLost(t *testing.T) {
	cut := cutWithStateAhead(t, func(j *Journal) {
		for range 3 {
			if _, err := j.Propose(state.KindHeartbeat, state.Heartbeat{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := j.wal.TruncateBack(j.wal.Last() - 1); err != nil {
			t.Fatal(err)
		}
	})
	j, err := openTest(cut)
	if !fail.Is(err, fail.Damaged) {
		t.Errorf("opened with %v, want it refused as damaged", err)
	}
	if err == nil {
		_ = j.Close()
	}
}
