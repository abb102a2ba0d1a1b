package objstore

import (
	"context"
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
}

// WithRequests lets through burst creates at once and perSecond in the long
// run; perSecond 0 is unlimited. Others wait, in order. Put it below WithRetry:
// a failed attempt costs too.
func WithRequests(s Store, perSecond float64, burst int) *Limited {
	limit := rate.Limit(perSecond)
	if perSecond <= 0 {
		limit = rate.Inf
	}
	return &Limited{Store: s, limit: rate.NewLimiter(limit, max(burst, 1))}
}

// Reserve waits for a token and keeps it for the next Create, which then starts
// at once. A writer that batches calls it before it closes a batch, so that what
// arrives during the wait still gets in.
func (l *Limited) Reserve(ctx context.Context) error {
	if err := l.limit.Wait(ctx); err != nil {
		return fail.Wrap(fail.Retry, "wait for request budget", l.URL(), err)
	}
	l.prepaid.Add(1)
	return nil
}

// Create waits for its token first; see Store.
func (l *Limited) Create(ctx context.Context, name string, body []byte) error {
	for n := l.prepaid.Load(); ; n = l.prepaid.Load() {
		if n == 0 {
			if err := l.limit.Wait(ctx); err != nil {
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
