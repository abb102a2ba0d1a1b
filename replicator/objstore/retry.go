package objstore

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
)

// Policy says how WithRetry waits. The zero value has working defaults.
type Policy struct {
	// MinBackoff is the wait after the first failure, doubled after each
	// further one up to MaxBackoff. Defaults 100 ms and 10 s.
	MinBackoff, MaxBackoff time.Duration
	// Jitter is the part of a wait that is left to chance, from 0 to 1, so that
	// many clients do not return together. 0 is the default of 0.5; below 0 is
	// none.
	Jitter float64
	// Retryable says which errors are waited out; nil means those of kind
	// fail.Retry. A daemon may add Denied and Full, which an operator mends
	// while it runs.
	Retryable func(err error) bool
	// Patience, if set, says how long an operation is tried without progress: at least
	// three times, and until that has passed since it began, or last gave something.
	// reached: the store has answered anything since it was opened. Below 0 is for ever,
	// and so is no Patience.
	Patience func(reached bool) time.Duration
	// Notify, if set, hears of every error that is going to be retried.
	Notify func(err error)
	// Clock and Rand (in [0, 1)) are for tests; nil is the real ones.
	Clock Clock
	Rand  func() float64
}

// Clock tells the time and waits.
type Clock interface {
	Now() time.Time
	// Sleep returns nil after d, or the context's error when that ends before.
	Sleep(ctx context.Context, d time.Duration) error
}

// WithRetry repeats what fails with a passing fault until it works, patience or the
// context ends; the last error is then part of the error, of kind fail.Retry.
// A Create that meets its own object succeeds: only the reply had been lost, or
// something on the way sent the request twice. All bytes of the object are compared. Before a Create
// is repeated it is asked whether the object is there: a store that refuses one at once, and closes
// the connection on the rest of the body, is never heard over a slow link.
func WithRetry(s Store, p Policy) Store {
	if p.MinBackoff <= 0 {
		p.MinBackoff = 100 * time.Millisecond
	}
	if p.MaxBackoff <= 0 {
		p.MaxBackoff = 10 * time.Second
	}
	switch {
	case p.Jitter == 0:
		p.Jitter = 0.5
	case p.Jitter < 0:
		p.Jitter = 0
	}
	p.MaxBackoff = max(p.MaxBackoff, p.MinBackoff)
	p.Jitter = min(p.Jitter, 1)
	if p.Retryable == nil {
		p.Retryable = func(err error) bool { return fail.Is(err, fail.Retry) }
	}
	if p.Notify == nil {
		p.Notify = func(error) {}
	}
	if p.Clock == nil {
		p.Clock = realClock{}
	}
	if p.Rand == nil {
		p.Rand = rand.Float64
	}
	return &retrying{Store: s, p: p, gate: newGate()}
}

type realClock struct{}

func (realClock) Now() time.Time { return clock.Now() }

func (realClock) Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

type retrying struct {
	Store
	p       Policy
	reached atomic.Bool
	gate    *gate
	pieces  pieces
}

// leastTries is how often an operation is tried, however short the patience is.
const leastTries = 3

// patience is what is left of it for one operation.
type patience struct {
	since time.Time
	tries int
}

// progress begins it anew.
func (r *retrying) progress(w *patience) { *w = patience{since: r.p.Clock.Now()} }

// over returns the error of an operation that has been tried for long enough.
func (r *retrying) over(w *patience) error {
	w.tries++
	if r.p.Patience == nil || w.tries < leastTries {
		return nil
	}
	limit := r.p.Patience(r.reached.Load())
	if limit < 0 || r.p.Clock.Now().Sub(w.since) < limit {
		return nil
	}
	return fmt.Errorf("no progress within %v", limit)
}

// do calls f, a request, until it succeeds or fails for good.
func (r *retrying) do(ctx context.Context, op, name string, f func() error) error {
	var w patience
	r.progress(&w)
	return r.doFor(ctx, &w, op, name, func() error { return r.gate.run(ctx, f) })
}

// doFor is do of what makes its own requests.
func (r *retrying) doFor(ctx context.Context, w *patience, op, name string, f func() error) error {
	wait := r.p.MinBackoff
	for {
		err := f()
		if err == nil || !r.p.Retryable(err) {
			r.reached.Store(true)
			return err
		}
		ended := ctx.Err()
		if ended == nil {
			ended = r.over(w)
		}
		if ended == nil {
			r.p.Notify(err)
			ended = r.p.Clock.Sleep(ctx, wait-time.Duration(float64(wait)*r.p.Jitter*r.p.Rand()))
		}
		if ended != nil {
			return fail.Wrap(fail.Retry, op, r.URL()+"/"+name, fmt.Errorf("%w; last: %w", ended, err))
		}
		wait = min(2*wait, r.p.MaxBackoff)
	}
}

func (r *retrying) Create(ctx context.Context, name string, body []byte) error {
	failed := false
	exists := r.do(ctx, "create object", name, func() error {
		if failed { // whatever was answered may not have come through
			if _, err := r.Store.Size(ctx, name); err == nil {
				return fail.New(fail.Exists, "create object", r.URL()+"/"+name, "it exists")
			}
		}
		err := r.Store.Create(ctx, name, body)
		failed = err != nil
		return err
	})
	if !fail.Is(exists, fail.Exists) {
		return exists
	}
	// One byte more, so that a longer object is not taken for equal.
	there, err := r.Read(ctx, name, 0, int64(len(body))+1, nil)
	switch {
	case fail.Is(err, fail.NotFound):
		return exists // and deleted since, which no writer may undo
	case err != nil:
		return err
	case bytes.Equal(there, body):
		return nil
	}
	return exists
}

func (r *retrying) Size(ctx context.Context, name string) (n int64, err error) {
	err = r.do(ctx, "size of object", name, func() error {
		n, err = r.Store.Size(ctx, name)
		return err
	})
	return n, err
}

// List goes on where it was interrupted, so fn sees each name once. It does not count among
// the requests that run: fn may make some.
func (r *retrying) List(ctx context.Context, prefix, after string, fn func(Info) error) error {
	var failed error // fn's, which is the caller's business and never repeated
	var w patience
	r.progress(&w)
	err := r.doFor(ctx, &w, "list objects", prefix, func() error {
		err := r.Store.List(ctx, prefix, after, func(i Info) error {
			after = i.Name
			r.progress(&w)
			failed = fn(i)
			return failed
		})
		if failed != nil {
			return nil
		}
		return err
	})
	if failed != nil {
		return failed
	}
	return err
}

func (r *retrying) Delete(ctx context.Context, name string) error {
	return r.do(ctx, "delete object", name, func() error { return r.Store.Delete(ctx, name) })
}

func (r *retrying) LockRule(ctx context.Context) (rule LockRule, err error) {
	err = r.do(ctx, "read Object Lock rule", "", func() error {
		rule, err = r.Store.LockRule(ctx)
		return err
	})
	return rule, err
}

func (r *retrying) Lock(ctx context.Context, name string) (l Lock, err error) {
	err = r.do(ctx, "retention of object", name, func() error {
		l, err = r.Store.Lock(ctx, name)
		return err
	})
	return l, err
}

func (r *retrying) Extend(ctx context.Context, name string, l Lock) error {
	return r.do(ctx, "extend retention of object", name, func() error { return r.Store.Extend(ctx, name, l) })
}
