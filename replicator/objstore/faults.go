package objstore

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Faults says how often, as fractions of the calls from 0 to 1, WithFaults
// makes trouble. At most one kind strikes a call, drawn in the order given here.
type Faults struct {
	Errors      float64       // fails with Err, and nothing is done
	LostReplies float64       // is done, then fails with Err
	Late        float64       // a Create fails with Err and is done LateBy later
	Stalls      float64       // hangs until its context ends, Set or Close
	Latency     time.Duration // added to every call
	LateBy      time.Duration
	Err         error // nil is a fail.Retry
}

// Faulty is a store with faults, for tests.
type Faulty struct {
	Store
	stop context.CancelFunc
	ctx  context.Context
	late sync.WaitGroup

	mu      sync.Mutex
	rand    *rand.Rand
	faults  Faults
	changed chan struct{} // closed by Set
}

// WithFaults wraps s; the same seed and order of calls make the same faults.
func WithFaults(s Store, seed uint64, f Faults) *Faulty {
	x := &Faulty{Store: s, faults: f, changed: make(chan struct{}), rand: rand.New(rand.NewPCG(seed, 0))}
	x.ctx, x.stop = context.WithCancel(context.Background())
	return x
}

// Set replaces the faults; calls that hang go on.
func (x *Faulty) Set(f Faults) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.faults = f
	close(x.changed)
	x.changed = make(chan struct{})
}

// Close ends what hangs, drops the late creates that did not start yet, and
// closes the store under it.
func (x *Faulty) Close() error {
	x.mu.Lock()
	x.stop() // under the lock: afterwards nobody adds to late
	x.mu.Unlock()
	x.late.Wait()
	return x.Store.Close()
}

var errInjected = fail.New(fail.Retry, "", "", "injected fault")

// call runs f with what fate has for it. late makes f's late form, before the
// call returns and its arguments are the caller's again.
func (x *Faulty) call(ctx context.Context, f func() error, late func() func()) error {
	x.mu.Lock()
	faults, changed := x.faults, x.changed
	fate := x.rand.Float64()
	x.mu.Unlock()
	injected := faults.Err
	if injected == nil {
		injected = errInjected
	}
	if faults.Latency > 0 {
		if err := x.wait(ctx, faults.Latency, nil); err != nil {
			return err
		}
	}
	if fate -= faults.Errors; fate < 0 {
		return injected
	}
	if fate -= faults.LostReplies; fate < 0 {
		return errors.Join(injected, f())
	}
	if fate -= faults.Late; fate < 0 && late != nil {
		x.later(faults.LateBy, late())
		return injected
	}
	if fate -= faults.Stalls; fate < 0 {
		if err := x.wait(ctx, -1, changed); err != nil {
			return err
		}
	}
	return f()
}

// wait returns after d (never if below 0) or when changed is closed.
func (x *Faulty) wait(ctx context.Context, d time.Duration, changed <-chan struct{}) error {
	var expired <-chan time.Time
	if d >= 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		expired = t.C
	}
	select {
	case <-expired:
		return nil
	case <-changed:
		return nil
	case <-ctx.Done():
		return fail.Wrap(fail.Retry, "wait", x.URL(), ctx.Err())
	case <-x.ctx.Done():
		return fail.New(fail.Retry, "wait", x.URL(), "closed")
	}
}

func (x *Faulty) later(d time.Duration, f func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ctx.Err() != nil {
		return
	}
	x.late.Go(func() {
		if x.wait(x.ctx, d, nil) == nil {
			f()
		}
	})
}

// Create is Store's, with faults.
func (x *Faulty) Create(ctx context.Context, name string, body []byte) error {
	return x.call(ctx, func() error { return x.Store.Create(ctx, name, body) }, func() func() {
		body := bytes.Clone(body)
		// Nobody hears of its outcome, like a request left over in the network.
		return func() { _ = x.Store.Create(context.WithoutCancel(ctx), name, body) }
	})
}

// Read is Store's, with faults.
func (x *Faulty) Read(ctx context.Context, name string, off, n int64, buf []byte) (b []byte, err error) {
	err = x.call(ctx, func() error {
		b, err = x.Store.Read(ctx, name, off, n, buf)
		return err
	}, nil)
	if err != nil {
		return nil, err
	}
	return b, nil
}

// Size is Store's, with faults.
func (x *Faulty) Size(ctx context.Context, name string) (n int64, err error) {
	err = x.call(ctx, func() error {
		n, err = x.Store.Size(ctx, name)
		return err
	}, nil)
	return n, err
}

// List is Store's, with faults.
func (x *Faulty) List(ctx context.Context, prefix, after string, fn func(Info) error) error {
	return x.call(ctx, func() error { return x.Store.List(ctx, prefix, after, fn) }, nil)
}

// Delete is Store's, with faults.
func (x *Faulty) Delete(ctx context.Context, name string) error {
	return x.call(ctx, func() error { return x.Store.Delete(ctx, name) }, nil)
}

// LockRule is Store's, with faults.
func (x *Faulty) LockRule(ctx context.Context) (rule LockRule, err error) {
	err = x.call(ctx, func() error {
		rule, err = x.Store.LockRule(ctx)
		return err
	}, nil)
	return rule, err
}

// Lock is Store's, with faults.
func (x *Faulty) Lock(ctx context.Context, name string) (l Lock, err error) {
	err = x.call(ctx, func() error {
		l, err = x.Store.Lock(ctx, name)
		return err
	}, nil)
	return l, err
}

// Extend is Store's, with faults.
func (x *Faulty) Extend(ctx context.Context, name string, l Lock) error {
	return x.call(ctx, func() error { return x.Store.Extend(ctx, name, l) }, nil)
}
