package objstore_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// slow is a link that a number of requests can share; more of them all time out.
type slow struct {
	objstore.Store
	running, most, late atomic.Int32
}

type noProgress struct{ error }

func (noProgress) Timeout() bool { return true }

func (s *slow) Size(ctx context.Context, _ string) (int64, error) {
	n := s.running.Add(1)
	defer s.running.Add(-1)
	if n > s.most.Load() {
		time.Sleep(15 * time.Second)
		s.late.Add(1)
		return 0, fail.Wrap(fail.Retry, "size", "x", noProgress{errors.New("no progress within 15s")})
	}
	time.Sleep(time.Second)
	return 1, nil
}

// TestTimeoutsLowerConcurrency: requests that time out since they are too many for the
// link become fewer, and more again when it bears them.
func TestTimeoutsLowerConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		link := &slow{Store: openMem(t)}
		link.most.Store(4)
		s := objstore.WithRetry(link, objstore.Policy{})
		all := func(n int) time.Duration {
			began := time.Now()
			var g errgroup.Group
			for range n {
				g.Go(func() error { _, err := s.Size(t.Context(), "x"); return err })
			}
			if err := g.Wait(); err != nil {
				t.Error(err)
			}
			return time.Since(began)
		}
		took := all(64)
		if took > 5*time.Minute {
			t.Errorf("64 requests took %v, and timed out %d times", took, link.late.Load())
		}
		link.most.Store(1000)
		all(3000)
		if took := all(64); took > 2*time.Second {
			t.Errorf("64 requests took %v over a fast link", took)
		}
	})
}
