package objstore

import (
	"context"
	"sync"
	"sync/atomic"

	"golang.org/x/time/rate"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Limited is a Store whose creates pay from a token bucket, because a store
// charges for each.
type Limited struct {
	Store
	limit   *rate.Limiter
	prepaid atomic.Int64

	mu    sync.Mutex
	on    bool          // there is a hurry
	hurry chan struct{} // closed while there is
}

// WithRequests lets through burst creates at once and perSecond in the long
// run; perSecond 0 is unlimited. Others wait, in order. Put it below WithRetry:
// a failed attempt costs too.
func WithRequests(s Store, perSecond float64, burst int) *Limited {
	limit := rate.Limit(perSecond)
	if perSecond <= 0 {
		limit = rate.Inf
	}
	return &Limited{Store: s, limit: rate.NewLimiter(limit, max(burst, 1)), hurry: make(chan struct{})}
}

// Hurry says that nobody waits for a token from now on, those included who wait already, or that
// they wait again.
func (l *Limited) Hurry(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.on == on {
		return
	}
	if l.on = on; on {
		close(l.hurry)
	} else {
		l.hurry = make(chan struct{})
	}
}

// wait is for a token, or until there is a hurry.
func (l *Limited) wait(ctx context.Context) error {
	l.mu.Lock()
	hurry := l.hurry
	l.mu.Unlock()
	select {
	case <-hurry:
		return nil
	default:
	}
	if l.limit.Allow() {
		return nil
	}
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-hurry:
			stop()
		case <-waiting.Done():
		}
	}()
	err := l.limit.Wait(waiting)
	if err != nil && waiting.Err() != nil && ctx.Err() == nil { // there is a hurry
		return nil
	}
	return err
}

// Reserve waits for a token and keeps it for the next Create, which then starts
// at once. A writer that batches calls it before it closes a batch, so that what
// arrives during the wait still gets in.
func (l *Limited) Reserve(ctx context.Context) error {
	if err := l.wait(ctx); err != nil {
		return fail.Wrap(fail.Retry, "wait for request budget", l.URL(), err)
	}
	l.prepaid.Add(1)
	return nil
}

// Create waits for its token first; see Store.
func (l *Limited) Create(ctx context.Context, name string, body []byte) error {
	for n := l.prepaid.Load(); ; n = l.prepaid.Load() {
		if n == 0 {
			if err := l.wait(ctx); err != nil {
				return fail.Wrap(fail.Retry, "wait for request budget", l.URL()+"/"+name, err)
			}
			break
		}
		if l.prepaid.CompareAndSwap(n, n-1) {
			break
		}
	}
	return l.Store.Create(ctx, name, body)
}
