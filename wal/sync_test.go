package wal

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// slowSync is a filesystem whose syncs take a moment.
type slowSync struct{ vfs.FS }

type slowFile struct{ vfs.File }

func (s slowSync) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := s.FS.Create(name, c)
	return slowFile{f}, err
}

func (f slowFile) SyncData() error {
	time.Sleep(20 * time.Microsecond)
	return f.File.SyncData()
}

// TestSyncTurnIsPassedOn: whose turn it is to sync, and whose context has just
// ended, must not let those behind it wait for ever.
func TestSyncTurnIsPassedOn(t *testing.T) {
	l, err := Open(Options{FS: slowSync{vfs.NewMem()}, Dir: "/wal", SegmentBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const limit = 5 * time.Second
	rounds := 15000
	if testing.Short() { // under the race detector, which slows the waiters down as much
		rounds = 2500
	}
	for round := range rounds {
		if l.Last()%100 == 99 {
			if err := l.TruncateFront(l.Last()); err != nil {
				t.Fatal(err)
			}
		}
		var wg sync.WaitGroup
		for i := range 12 {
			index, err := l.Append([]byte("x"))
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() {
				ctx := context.Background()
				if i < 10 {
					var cancel func()
					ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(400))*time.Microsecond)
					defer cancel()
				}
				_ = l.Sync(ctx, index)
			})
		}
		done := make(chan struct{})
		go func() { wg.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(limit):
			t.Fatalf("round %d: a Sync without a deadline does not return", round)
		}
	}
}
