package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/fail"
)

// TestGroupCommit: one fdatasync in flight, the next serves all who came meanwhile.
func TestGroupCommit(t *testing.T) {
	fs := newTestFS(vfs.NewCrashableMem())
	l := openTest(t, Options{FS: fs, SegmentBytes: 1 << 20})
	defer l.Close()
	var syncs, inFlight atomic.Int32
	entered, gate := make(chan struct{}, 100), make(chan struct{})
	fs.before = func(op fileOp) error {
		if op.kind == "sync" {
			syncs.Add(1)
			if inFlight.Add(1) > 1 {
				t.Error("two syncs at a time")
			}
			entered <- struct{}{}
			<-gate
			inFlight.Add(-1)
		}
		return nil
	}
	var wg sync.WaitGroup
	syncOne := func() {
		last, err := l.Append([]byte("x"))
		must(t, err)
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := l.Sync(context.Background(), last); err != nil {
				t.Error(err)
			}
			if l.Durable() < last {
				t.Error("not durable")
			}
		}()
	}
	syncOne()
	<-entered
	for range 20 {
		syncOne()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancelled := make(chan error, 1)
	go func() { cancelled <- l.Sync(ctx, l.Last()) }()
	cancel()
	wantKind(t, <-cancelled, fail.Retry, context.Canceled)
	for n := 0; n < 20; time.Sleep(time.Millisecond) {
		l.mu.Lock()
		n = len(l.waiters)
		l.mu.Unlock()
	}
	close(gate)
	wg.Wait()
	if n := syncs.Load(); n != 2 {
		t.Fatalf("%d syncs for 21 waiters, want 2", n)
	}
	fs.before = nil
}

// TestQuick: a first segment that is merely allocated holds what any does, over a restart too.
func TestQuick(t *testing.T) {
	fs := vfs.NewCrashableMem()
	o := Options{FS: fs, PreallocateInBackground: true, Quick: true}
	l := openTest(t, o)
	for i := uint64(1); i <= 100; i++ {
		_, err := l.Append(payload(i, 500))
		must(t, err)
	}
	must(t, l.Sync(context.Background(), 100))
	must(t, l.Close())
	l = openTest(t, o)
	r := l.NewReader(1)
	for i := uint64(1); i <= 100; i++ {
		if index, b, err := r.Next(context.Background()); err != nil || index != i || !bytes.Equal(b, payload(i, 500)) {
			t.Fatalf("entry %d of %d: %v", index, i, err)
		}
	}
	must(t, l.Close())
}

func TestWaitAndReaderTail(t *testing.T) {
	l := openTest(t, Options{PreallocateInBackground: true})
	const n = 300
	got, readAll := make(chan error, 1), make(chan error, 1)
	go func() {
		r := l.NewReader(1)
		for i := uint64(1); i <= n; i++ {
			index, b, err := r.Next(context.Background())
			if err != nil || index != i || !bytes.Equal(b, payload(i, int(100+i*20))) {
				readAll <- fmt.Errorf("entry %d of %d: %v", index, i, err)
				return
			}
			if d := l.Durable(); d < i {
				readAll <- fmt.Errorf("entry %d returned, %d durable", i, d)
				return
			}
		}
		readAll <- nil
		_, _, err := l.NewReader(n + 100).Next(context.Background())
		if !errors.Is(err, ErrClosed) {
			got <- fmt.Errorf("after Close: %v", err)
			return
		}
		got <- nil
	}()
	for i := uint64(1); i <= n; i++ {
		_, err := l.Append(payload(i, int(100+i*20)))
		must(t, err)
		if i%7 == 0 {
			must(t, l.Sync(t.Context(), i))
		}
	}
	must(t, l.Sync(t.Context(), n))
	must(t, l.Wait(t.Context(), n))
	must(t, <-readAll)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantKind(t, l.Wait(ctx, n+1), fail.Retry, context.Canceled)
	_, _, err := l.NewReader(n + 1).Next(ctx)
	wantKind(t, err, fail.Retry, context.Canceled)
	must(t, l.TruncateFront(50))
	_, _, err = l.NewReader(49).Next(t.Context())
	wantKind(t, err, fail.NotFound, nil)

	r := l.NewReader(290)
	for range 5 {
		_, _, err := r.Next(t.Context())
		must(t, err)
	}
	must(t, l.TruncateBack(294))
	last, err := l.Append(payload(295, 100+295*20))
	must(t, err)
	must(t, l.Sync(t.Context(), last))
	index, _, err := r.Next(t.Context()) // the new 295 continues what r has read
	if index != 295 || err != nil {
		t.Fatal(index, err)
	}
	must(t, l.TruncateBack(293))
	_, _, err = r.Next(t.Context())
	wantKind(t, err, fail.Refused, nil)
	for i := uint64(294); i <= n; i++ {
		_, err := l.Append(payload(i, int(100+i*20)))
		must(t, err)
	}
	must(t, l.Close())
	must(t, <-got)
}

// TestSyncOfTruncated: who waits for an entry that is truncated is told so.
func TestSyncOfTruncated(t *testing.T) {
	fs := newTestFS(vfs.NewCrashableMem())
	l := openTest(t, Options{FS: fs})
	defer l.Close()
	_, err := l.Append([]byte("a"), []byte("b"))
	must(t, err)
	entered, gate := make(chan struct{}), make(chan struct{})
	var once sync.Once
	fs.before = func(op fileOp) error {
		if op.kind == "sync" && !isSpareOp(op) {
			once.Do(func() { close(entered); <-gate })
		}
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- l.Sync(context.Background(), 2) }()
	<-entered
	must(t, l.Reset(1)) // does not wait for the sync
	_, err = l.Append([]byte("other"), []byte("other"))
	must(t, err)
	close(gate)
	wantKind(t, <-done, fail.NotFound, nil)
	if l.Durable() != 0 {
		t.Fatal("a sync of what was reset counts for what came after")
	}
	must(t, l.Sync(t.Context(), 2))
}

func TestConcurrentUse(t *testing.T) {
	l := openTest(t, Options{PreallocateInBackground: true})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var top atomic.Uint64
	for w := range 4 {
		wg.Go(func() {
			for i := range 150 {
				last, err := l.Append(payload(uint64(w*1000+i), 500+i*20))
				must(t, err)
				must(t, l.Sync(ctx, last))
				top.Store(last)
			}
		})
	}
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			var buf []byte
			for ctx.Err() == nil {
				b, err := l.Read(max(l.First(), 1), buf)
				if err != nil && !fail.Is(err, fail.NotFound) {
					t.Error(err)
					return
				}
				if err == nil {
					buf = b
				}
			}
		})
		readers.Go(func() {
			r := l.NewReader(1)
			for ctx.Err() == nil {
				_, _, err := r.Next(ctx)
				if fail.Is(err, fail.NotFound) {
					r = l.NewReader(l.First())
				} else if err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	readers.Go(func() {
		for ctx.Err() == nil {
			if last := top.Load(); last > 50 {
				must(t, l.TruncateFront(last-50))
			}
			_ = l.Stats()
		}
	})
	wg.Wait()
	cancel()
	readers.Wait()
	if l.Last() != 600 || l.Durable() != 600 {
		t.Fatal(l.Stats())
	}
	must(t, l.Close())
}

func TestAppendDoesNotAllocate(t *testing.T) {
	l := openTest(t, Options{FS: vfs.Default, Dir: t.TempDir(), SegmentBytes: 64 << 20})
	defer l.Close()
	e := make([]byte, 4000)
	entries := [][]byte{e}
	allocs := testing.AllocsPerRun(2000, func() {
		last, err := l.Append(entries...)
		if err == nil && last%64 == 0 {
			err = l.Sync(context.Background(), last)
		}
		must(t, err)
	})
	if allocs > 0.1 {
		t.Fatalf("%v allocations per append", allocs)
	}
	var buf []byte
	allocs = testing.AllocsPerRun(1000, func() {
		b, err := l.Read(5, buf)
		must(t, err)
		buf = b
	})
	if allocs > 0.1 {
		t.Fatalf("%v allocations per read", allocs)
	}
}
