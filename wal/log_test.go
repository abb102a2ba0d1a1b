package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/fail"
)

var errInjected = errors.New("injected")

func TestFreshLog(t *testing.T) {
	l := openTest(t, Options{})
	if l.First() != 1 || l.Last() != 0 || l.Durable() != 0 {
		t.Fatal(l.First(), l.Last(), l.Durable())
	}
	must(t, l.Sync(t.Context(), 0))
	wantKind(t, l.Sync(t.Context(), 1), fail.Invalid, nil)
	_, err := l.Read(1, nil)
	wantKind(t, err, fail.NotFound, nil)
	last, err := l.Append()
	if last != 0 || err != nil {
		t.Fatal(last, err)
	}
	last, err = l.Append(nil, []byte{}, []byte("x"))
	if last != 3 || err != nil {
		t.Fatal(last, err)
	}
	b, err := l.Read(1, nil)
	if len(b) != 0 || err != nil {
		t.Fatal(b, err)
	}
	must(t, l.Close())
	wantKind(t, l.Close(), fail.Refused, ErrClosed)
	_, err = l.Append([]byte("x"))
	wantKind(t, err, fail.Refused, ErrClosed)
	_, err = l.Read(1, nil)
	wantKind(t, err, fail.Refused, ErrClosed)
	wantKind(t, l.Sync(t.Context(), 1), fail.Refused, ErrClosed)
	wantKind(t, l.Wait(t.Context(), 1), fail.Refused, ErrClosed)
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{
		{Dir: ""},
		{Dir: "/x", SegmentBytes: 4096},
		{Dir: "/x", SegmentBytes: 100_000},
		{Dir: "/x", SegmentBytes: 4 << 30},
		{Dir: "/x", BudgetBytes: -1},
	} {
		o.FS = vfs.NewMem()
		_, err := Open(o)
		wantKind(t, err, fail.Invalid, nil)
	}
}

func TestLocked(t *testing.T) {
	mem := vfs.NewCrashableMem()
	l := openTest(t, Options{FS: mem})
	_, err := Open(withDefaults(Options{FS: mem}))
	wantKind(t, err, fail.Refused, nil)
	must(t, l.Close())
	must(t, openTest(t, Options{FS: mem}).Close())
}

func TestEntryLimits(t *testing.T) {
	l := openTest(t, Options{})
	defer l.Close()
	_, err := l.Append([]byte("a"), make([]byte, l.MaxEntry()+1))
	wantKind(t, err, fail.Invalid, nil)
	if l.Last() != 0 {
		t.Fatal("a part of a refused append was written")
	}
	for i := range 5 {
		last, err := l.Append(payload(uint64(i), l.MaxEntry()))
		must(t, err)
		must(t, l.Sync(t.Context(), last))
	}
	// One append over several segments.
	var many [][]byte
	for i := range 40 {
		many = append(many, payload(uint64(100+i), 3000))
	}
	last, err := l.Append(many...)
	if err != nil || last != 45 {
		t.Fatal(last, err)
	}
	for i, w := range many {
		b, err := l.Read(uint64(6+i), nil)
		if err != nil || !bytes.Equal(b, w) {
			t.Fatal(i, err)
		}
	}
}

func TestTruncateArguments(t *testing.T) {
	l := openTest(t, Options{})
	defer l.Close()
	for i := range 10 {
		_, err := l.Append(payload(uint64(i), 100))
		must(t, err)
	}
	wantKind(t, l.TruncateFront(12), fail.Invalid, nil)
	wantKind(t, l.TruncateBack(11), fail.Invalid, nil)
	must(t, l.TruncateFront(5))
	must(t, l.TruncateFront(2)) // nothing to do
	if l.First() != 5 {
		t.Fatal(l.First())
	}
	wantKind(t, l.TruncateBack(3), fail.Invalid, nil)
	must(t, l.TruncateBack(10))
	must(t, l.TruncateBack(4))
	if l.First() != 5 || l.Last() != 4 {
		t.Fatal(l.First(), l.Last())
	}
	last, err := l.Append([]byte("x"))
	if last != 5 || err != nil {
		t.Fatal(last, err)
	}
	must(t, l.TruncateFront(6))
	if l.First() != 6 || l.Last() != 5 || l.Stats().LiveBytes != 0 {
		t.Fatal(l.First(), l.Last(), l.Stats())
	}
	wantKind(t, l.Reset(0), fail.Invalid, nil)
	must(t, l.Reset(1000))
	if l.First() != 1000 || l.Last() != 999 {
		t.Fatal(l.First(), l.Last())
	}
}

func TestBudgetAndReserve(t *testing.T) {
	l := openTest(t, Options{BudgetBytes: 100 << 10, ReserveBytes: 8 << 10})
	defer l.Close()
	e := make([]byte, 4000)
	n := uint64(0)
	for {
		last, err := l.Append(e)
		if err != nil {
			wantKind(t, err, fail.Full, ErrFull)
			break
		}
		n = last
	}
	if n != 25 {
		t.Fatalf("%d entries of 4 KiB fit into 100 KiB", n)
	}
	for range 2 {
		_, err := l.AppendReserved(nil, [][]byte{e})
		must(t, err)
	}
	_, err := l.AppendReserved(nil, [][]byte{e})
	wantKind(t, err, fail.Full, ErrFull)
	if s := l.Stats(); s.LiveBytes != 108<<10 {
		t.Fatalf("%+v", s)
	}
	must(t, l.TruncateFront(4))
	_, err = l.Append(e)
	must(t, err)
	_, err = l.Append(e)
	wantKind(t, err, fail.Full, ErrFull)
}

func TestFailedSyncPoisons(t *testing.T) {
	mem := vfs.NewCrashableMem()
	fs := newTestFS(mem)
	var failing atomic.Bool
	gate := make(chan struct{})
	fs.before = func(op fileOp) error {
		if failing.Load() && op.kind == "sync" {
			<-gate
			return errInjected
		}
		return nil
	}
	l := openTest(t, Options{FS: fs})
	_, err := l.Append([]byte("one"))
	must(t, err)
	must(t, l.Sync(t.Context(), 1))
	_, err = l.Append([]byte("two"), []byte("three"))
	must(t, err)
	failing.Store(true)
	errs := make(chan error, 4)
	for i := range 3 {
		go func() { errs <- l.Sync(context.Background(), uint64(2+i%2)) }()
	}
	go func() { errs <- l.Wait(context.Background(), 2) }()
	for waiting := false; !waiting; time.Sleep(time.Millisecond) { // until all of them wait
		l.mu.Lock()
		waiting = l.syncing && len(l.waiters) == 2 && l.advanced != nil
		l.mu.Unlock()
	}
	close(gate)
	for range 4 {
		wantKind(t, <-errs, fail.Refused, ErrPoisoned)
	}
	failing.Store(false) // the next fsync would succeed, and lie
	err = l.Sync(t.Context(), 3)
	wantKind(t, err, fail.Refused, ErrPoisoned)
	if !errors.Is(err, errInjected) || fail.HintOf(err) == "" {
		t.Fatal(err)
	}
	wantKind(t, l.Sync(t.Context(), 1), fail.Refused, ErrPoisoned)
	_, err = l.Append([]byte("four"))
	wantKind(t, err, fail.Refused, ErrPoisoned)
	wantKind(t, l.TruncateFront(2), fail.Refused, ErrPoisoned)
	wantKind(t, l.TruncateBack(1), fail.Refused, ErrPoisoned)
	wantKind(t, l.Reset(1), fail.Refused, ErrPoisoned)
	if l.Durable() != 1 || !l.Stats().Poisoned {
		t.Fatal(l.Stats())
	}
	r := l.NewReader(1)
	if _, b, err := r.Next(t.Context()); err != nil || string(b) != "one" {
		t.Fatal(err)
	}
	_, _, err = r.Next(t.Context())
	wantKind(t, err, fail.Refused, ErrPoisoned)
	wantKind(t, l.Close(), fail.Refused, ErrPoisoned)

	// What is really there is re-read, and written anew, after the restart.
	l = openTest(t, Options{FS: mem})
	defer l.Close()
	if l.Last() != 3 || l.Durable() != 3 || l.Recovery().RewrittenEntries == 0 {
		t.Fatal(l.Stats(), l.Recovery())
	}
}

func TestFailuresWhileReplacingSegment(t *testing.T) {
	for _, kind := range []string{"create", "allocate", "write", "sync", "rename", "syncdir"} {
		for _, errno := range []error{syscall.ENOSPC, syscall.EIO} {
			t.Run(fmt.Sprintf("%s %v", kind, errno), func(t *testing.T) {
				fs := newTestFS(vfs.NewCrashableMem())
				var failing atomic.Bool
				fs.before = func(op fileOp) error {
					if failing.Load() && op.kind == kind && (isSpareOp(op) || kind == "syncdir") {
						return errno
					}
					return nil
				}
				l := openTest(t, Options{FS: fs})
				defer l.Close()
				e := payload(1, 4000)
				failing.Store(true)
				var err error
				for err == nil && l.Last() < 10 {
					_, err = l.Append(e)
				}
				at := l.Last()
				failing.Store(false)
				if kind == "allocate" && errno == syscall.EIO {
					must(t, err) // only a full disk counts
					return
				}
				if errno == syscall.EIO || kind == "syncdir" {
					wantKind(t, err, fail.Refused, ErrPoisoned)
					if !errors.Is(err, errno) {
						t.Fatal(err)
					}
					return
				}
				wantKind(t, err, fail.Full, nil)
				if errors.Is(err, ErrFull) || !strings.Contains(err.Error(), testDir) {
					t.Fatal(err)
				}
				last, err := l.Append(e) // there is room again
				if err != nil || last != at+1 {
					t.Fatal(last, err)
				}
				must(t, l.Sync(t.Context(), last))
				names, err := fs.List(testDir)
				must(t, err)
				if len(names) != 3 { // LOCK and two segments
					t.Fatal("a failed attempt left files:", names)
				}
			})
		}
	}
}

func TestFailedWritePoisons(t *testing.T) {
	fs := newTestFS(vfs.NewCrashableMem())
	l := openTest(t, Options{FS: fs})
	fs.before = func(op fileOp) error {
		if op.kind == "write" {
			return errInjected
		}
		return nil
	}
	_, err := l.Append([]byte("x"))
	wantKind(t, err, fail.Refused, ErrPoisoned)
	wantKind(t, l.Sync(t.Context(), 0), fail.Refused, ErrPoisoned)
	wantKind(t, l.Close(), fail.Refused, ErrPoisoned)
}

func TestRecycling(t *testing.T) {
	for _, background := range []bool{false, true} {
		mem := vfs.NewCrashableMem()
		l := openTest(t, Options{FS: mem, PreallocateInBackground: background})
		for i := uint64(1); i <= 200; i++ {
			last, err := l.Append(payload(i, 4000))
			must(t, err)
			must(t, l.Sync(t.Context(), last))
			if i > 10 {
				must(t, l.TruncateFront(i-10))
			}
		}
		must(t, l.Close())
		l = openTest(t, Options{FS: mem})
		names, err := mem.List(testDir)
		must(t, err)
		if len(names) > 9 {
			t.Fatal("files pile up:", names)
		}
		for i := l.First(); i <= l.Last(); i++ {
			b, err := l.Read(i, nil)
			if err != nil || !bytes.Equal(b, payload(i, 4000)) {
				t.Fatal(i, err)
			}
		}
		must(t, l.Close())
	}
}

// TestCrashLoopKeepsNoFiles: restarts without new entries do not eat the disk.
func TestCrashLoopKeepsNoFiles(t *testing.T) {
	mem := vfs.NewCrashableMem()
	for i := range 20 {
		l := openTest(t, Options{FS: mem})
		if i == 0 {
			_, err := l.Append([]byte("x"), []byte("y"))
			must(t, err)
			must(t, l.Sync(t.Context(), 2))
		}
		killed := copyFS(t, mem, testDir)
		must(t, l.Close())
		mem = killed
		if l.Last() != 2 {
			t.Fatal(l.Last())
		}
	}
	if names, _ := mem.List(testDir); len(names) > 5 {
		t.Fatal("files pile up:", names)
	}
}
