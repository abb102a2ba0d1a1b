package objstore

import (
	"context"
	"errors"
	"sync"

	"github.com/pollux-dr/pollux/internal/fail"
)

// gate lets fewer requests run at once when they time out: over a link that is slow, all
// of them share what few could use. It is open until the first time-out, which halves
// what ran; each round that succeeds then lets one more through.
type gate struct {
	mu      sync.Mutex
	running int
	limit   int // 0 is none
	highest int // of what ran when there was none
	done    int // successes since limit changed
	halved  int // how often
	wake    chan struct{}
}

func newGate() *gate { return &gate{wake: make(chan struct{})} }

// run calls f when there is room for it.
func (g *gate) run(ctx context.Context, f func() error) error {
	generation, err := g.enter(ctx)
	if err != nil {
		return err
	}
	err = f()
	g.leave(err, isTimeout(err) && ctx.Err() == nil, generation)
	return err
}

func (g *gate) enter(ctx context.Context) (generation int, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.limit > 0 && g.running >= g.limit {
		wake := g.wake
		g.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
			err = fail.Wrap(fail.Retry, "wait for other requests", "", ctx.Err())
		}
		g.mu.Lock()
		if err != nil {
			return 0, err
		}
	}
	g.running++
	return g.halved, nil
}

func (g *gate) leave(err error, late bool, generation int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case late && generation == g.halved: // not one that was already on its way
		if g.limit == 0 {
			g.highest = g.running
		}
		g.limit, g.done = max(1, g.running/2), 0
		g.halved++
	case err == nil && g.limit > 0:
		if g.done++; g.done >= g.limit {
			g.limit, g.done = g.limit+1, 0
		}
		if g.limit > g.highest {
			g.limit = 0
		}
	}
	g.running--
	close(g.wake)
	g.wake = make(chan struct{})
}

// isTimeout reports whether a request ended because it made no progress.
func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}
