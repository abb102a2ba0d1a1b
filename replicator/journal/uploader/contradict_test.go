package uploader

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// contradicting is a store that answers other than it does, for the first calls that
// each function says so of.
type contradicting struct {
	objstore.Store
	mu     sync.Mutex
	create func(name string, create func() error) error
	read   func(name string) error
}

func (c *contradicting) Create(ctx context.Context, name string, body []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	create := func() error { return c.Store.Create(ctx, name, body) }
	if c.create == nil {
		return create()
	}
	return c.create(name, create)
}

func (c *contradicting) Size(ctx context.Context, name string) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.read != nil {
		if err := c.read(name); err != nil {
			return 0, err
		}
	}
	return c.Store.Size(ctx, name)
}

// times calls f for the first n calls with each name.
func times(n int, f func(create func() error) error) func(string, func() error) error {
	seen := map[string]int{}
	return func(name string, create func() error) error {
		if seen[name]++; seen[name] > n {
			return create()
		}
		return f(create)
	}
}

// TestContradictions: an answer that proves nothing never stops replication, nor fences it.
func TestContradictions(t *testing.T) {
	exists := fail.New(fail.Exists, "create", "object", "exists")
	for name, c := range map[string]*contradicting{
		"our own exists": {create: times(1, func(create func() error) error {
			if err := create(); err != nil {
				return err
			}
			return exists
		})},
		"exists, and is not there": {create: times(3, func(func() error) error { return exists })},
		"absent, of a create": {create: times(3, func(func() error) error {
			return fail.New(fail.NotFound, "create", "object", "no such key")
		})},
		"damaged, of a create": {create: times(3, func(func() error) error {
			return fail.New(fail.Damaged, "create", "object", "damaged")
		})},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			c.Store = r.store
			r.store = c
			u, stop := r.run()
			for range 20 {
				r.propose(3)
			}
			r.await()
			// The journal knows a moment before.
			for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
				st := u.Status()
				if !st.Fenced && !st.Stopped && st.Err == nil {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("status %+v", st)
				}
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
			r.checkLog()
		})
	}
}

// TestClaimGoesOn: a log that cannot be read when it is claimed is claimed when it can.
func TestClaimGoesOn(t *testing.T) {
	for _, kind := range []fail.Kind{fail.Damaged, fail.NotFound, fail.Exists, fail.Internal} {
		t.Run(kind.String(), func(t *testing.T) {
			r := newRig(t)
			_, stop := r.run()
			r.propose(3)
			r.await()
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			left := 4
			r.store = &contradicting{Store: r.store, read: func(string) error {
				if left--; left >= 0 {
					return fail.New(kind, "size of", "object", "for now")
				}
				return nil
			}}
			if err := r.j.Close(); err != nil {
				t.Fatal(err)
			}
			r.open()
			u, stop := r.run()
			r.propose(3)
			r.await()
			if st := u.Status(); st.Stopped || st.Fenced {
				t.Errorf("status %+v", st)
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
			r.checkLog()
		})
	}
}

// checkLog reads the log as readers do: the journal's index goes on without a gap to its end.
func (r *rig) checkLog() {
	r.t.Helper()
	next, at := uint64(1), r.j.Target("x")
	for pos := uint64(1); pos < at.Position; pos++ {
		x, err := objlog.ReadIndex(context.Background(), r.store, pos)
		if err != nil {
			r.t.Fatal(err)
		}
		if x.FirstIndex != next {
			r.t.Fatalf("position %d begins at journal index %d, want %d", pos, x.FirstIndex, next)
		}
		next = x.LastIndex + 1
	}
	if next != at.Index+1 {
		r.t.Errorf("the log ends before index %d, the journal counts %d as uploaded", next, at.Index)
	}
}
