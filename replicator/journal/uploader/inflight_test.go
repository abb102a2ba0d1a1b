package uploader

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// stuckStore holds the create of one position, and knows how far the others went.
type stuckStore struct {
	objstore.Store
	stuck uint64
	let   chan struct{}

	mu  sync.Mutex
	far uint64
}

func (s *stuckStore) Create(ctx context.Context, name string, body []byte) error {
	position, _ := objlog.PositionOf(name)
	if position == s.stuck {
		select {
		case <-s.let:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	err := s.Store.Create(ctx, name, body)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.far = max(s.far, position)
	}
	return err
}

func (s *stuckStore) reached() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.far
}

// stuckPosition is the one that hangs: until then objects go one at a time.
const stuckPosition = 20

// stuckAt starts an uploader that has come to a position whose create hangs.
func (r *rig) stuckAt(position uint64) (s *stuckStore, u *Uploader, stop func() error) {
	s = &stuckStore{Store: r.store, stuck: position, let: make(chan struct{})}
	r.store = s
	u, stop = r.run()
	for s.reached() < position-1 {
		r.propose(1)
		r.await()
	}
	return s, u, stop
}

// TestOneIsStuck: while one create hangs, others go on beside it, but never so far that what they left behind
// proves the one before them lost.
func TestOneIsStuck(t *testing.T) {
	for name, hurried := range map[string]bool{"natural": false, "hurried": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			s, u, stop := r.stuckAt(stuckPosition)
			u.Hurry(hurried)
			if !hurried { // larger than what has to wait for the one before it
				u.mu.Lock()
				u.pipeline = 1
				u.mu.Unlock()
			}
			for quiet, far := time.Now(), uint64(0); time.Since(quiet) < 200*time.Millisecond; r.propose(1) {
				time.Sleep(time.Millisecond)
				if s.reached() != far {
					quiet, far = time.Now(), s.reached()
				}
			}
			far := s.reached()
			if objlog.ProvesMissing(stuckPosition, far, nil) || far < stuckPosition+2 {
				t.Errorf("while position %d is on its way, %d is there", stuckPosition, far)
			}
			close(s.let)
			r.await()
			if err := stop(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestGoesOnAfterTheSlowOne: what collected while a create hung is sent once that has landed, though nothing
// more comes that would wake the uploader.
func TestGoesOnAfterTheSlowOne(t *testing.T) {
	for range 12 {
		r := newRig(t)
		s, u, stop := r.stuckAt(stuckPosition)
		u.Hurry(true)
		for s.reached() < stuckPosition+segment.MaxInFlight {
			r.propose(1)
			time.Sleep(time.Millisecond)
		}
		r.propose(1) // it has to wait
		time.Sleep(20 * time.Millisecond)
		close(s.let)
		r.await()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
}
