package flight

import (
	"context"
	"sync"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Group shares work by key. It is ready to use as it is.
type Group[K comparable, V any] struct {
	mu    sync.Mutex
	calls map[K]*call[V]
}

type call[V any] struct {
	done chan struct{}
	v    V
	err  error
	left bool // the caller that was at it went away before there was an answer
}

// Do returns what fn returns, to all who ask for key while it runs. fn ends with ctx, which
// is the caller's own.
func (g *Group[K, V]) Do(ctx context.Context, key K, fn func() (V, error)) (V, error) {
	for {
		c, ours := g.join(key)
		if ours {
			g.run(ctx, key, c, fn)
			return c.v, c.err
		}
		select {
		case <-c.done:
			if !c.left {
				return c.v, c.err
			}
		case <-ctx.Done():
			var none V
			return none, fail.Wrap(fail.Retry, "wait for another's work", "", ctx.Err())
		}
	}
}

func (g *Group[K, V]) join(key K) (c *call[V], ours bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c = g.calls[key]; c != nil {
		return c, false
	}
	if g.calls == nil {
		g.calls = map[K]*call[V]{}
	}
	c = &call[V]{done: make(chan struct{}), left: true}
	g.calls[key] = c
	return c, true
}

func (g *Group[K, V]) run(ctx context.Context, key K, c *call[V], fn func() (V, error)) {
	defer func() { // a panic of fn's is its caller's alone
		g.mu.Lock()
		delete(g.calls, key)
		g.mu.Unlock()
		close(c.done)
	}()
	c.v, c.err = fn()
	c.left = c.err != nil && ctx.Err() != nil
}
