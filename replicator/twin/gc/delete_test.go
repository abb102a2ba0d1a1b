package gc

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// together lets a delete end only when so many are under way.
type together struct {
	objstore.Store
	want int

	mu        sync.Mutex
	now, most int
	once      sync.Once
	met       chan struct{}
}

func (s *together) Delete(ctx context.Context, name string) error {
	s.mu.Lock()
	s.now++
	if s.most = max(s.most, s.now); s.now == s.want {
		s.once.Do(func() { close(s.met) }) // it may be so many again
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.now--
		s.mu.Unlock()
	}()
	select {
	case <-s.met:
		return s.Store.Delete(ctx, name)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// goneStore is a store that does not delete.
type goneStore struct {
	objstore.Store
	mu    sync.Mutex
	calls int
}

func (s *goneStore) Delete(context.Context, string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	return fail.New(fail.Retry, "delete", "object", "no progress")
}

// TestDeletesTogether: objects are deleted beside each other, a bounded number; a store
// that is away ends the run and is not asked about each.
func TestDeletesTogether(t *testing.T) {
	l := retained(t, false)
	for range 12 {
		l.Random(l.r, 12)
		l.horizon()
		l.catalog()
		l.Clock = l.Clock.Add(time.Hour)
	}
	for range 2 {
		l.collect()
		l.Clock = l.Clock.Add(2 * time.Hour)
		l.Random(l.r, 3)
		l.horizon()
	}
	away := &goneStore{Store: l.Store}
	if _, err := Collect(t.Context(), away, l.options()); !fail.Is(err, fail.Retry) || away.calls > deleting {
		t.Errorf("a store that is away: %v after %d deletes", err, away.calls)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := &together{Store: l.Store, want: 8, met: make(chan struct{})}
	rep, err := Collect(ctx, s, l.options())
	if err != nil || rep.Deleted.Objects < s.want {
		t.Fatalf("%+v, %v", rep.Deleted, err)
	}
	if s.most > deleting {
		t.Errorf("%d at once, of %d", s.most, deleting)
	}
	l.check(l.open(), l.promised(nil))
}
