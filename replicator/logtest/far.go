package logtest

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pollux-dr/pollux/replicator/objstore"
)

// far is a store that is a second away. In a synctest bubble the time that a call took
// is then how many requests it made one after another.
type far struct {
	objstore.Store
	requests atomic.Int64
}

func (s *far) wait() {
	s.requests.Add(1)
	time.Sleep(time.Second)
}

func (s *far) Read(ctx context.Context, name string, off, n int64, buf []byte) ([]byte, error) {
	s.wait()
	return s.Store.Read(ctx, name, off, n, buf)
}

func (s *far) Size(ctx context.Context, name string) (int64, error) {
	s.wait()
	return s.Store.Size(ctx, name)
}

func (s *far) List(ctx context.Context, prefix, after string, fn func(objstore.Info) error) error {
	s.wait()
	return s.Store.List(ctx, prefix, after, fn)
}

// Cost runs fn over a store that is far and returns how many requests it made, and in
// how many rounds.
func Cost(t *testing.T, s objstore.Store, fn func(context.Context, objstore.Store)) (requests, rounds int64) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f, began := &far{Store: s}, time.Now()
		fn(t.Context(), f)
		requests, rounds = f.requests.Load(), int64(time.Since(began)/time.Second)
	})
	return requests, rounds
}
