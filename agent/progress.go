package agent

import (
	"context"

	"github.com/pollux-dr/pollux/internal/fail"
)

// progress is how callers wait for a stream's stages, and how all of them hear that
// there will be no more. Guarded by stream.mu.
type progress struct {
	changed chan struct{} // closed, and replaced, when a stage got further
	waiters int           // how many wait for that; with none, it is left as it is
	err     error         // the log is poisoned, or the agent closed: nothing goes on
}

// broadcast wakes everyone who waits for progress.
func (p *progress) broadcast() {
	if p.waiters > 0 {
		close(p.changed)
		p.changed = make(chan struct{})
	}
}

// await blocks until done (called with mu held) says so, the stream fails, or
// ctx ends.
func (s *stream) await(ctx context.Context, done func() bool) error {
	p := &s.progress
	s.mu.Lock()
	defer s.mu.Unlock()
	for !done() {
		if p.err != nil {
			return p.err
		}
		c := p.changed
		p.waiters++
		s.mu.Unlock()
		var err error
		select {
		case <-c:
		case <-ctx.Done():
			err = fail.Wrap(fail.Retry, "wait for", "group "+s.conf.Group, ctx.Err())
		}
		s.mu.Lock()
		p.waiters--
		if err != nil {
			return err
		}
	}
	return nil
}

// close makes every later call fail with err.
func (s *stream) close(err error) {
	p := &s.progress
	s.mu.Lock()
	if p.err == nil {
		p.err = err
	}
	p.waiters++ // closes the channel even when nobody waits yet
	p.broadcast()
	p.waiters--
	s.mu.Unlock()
	s.ship.told.Broadcast()
}

// wake tells a loop that there is something to do. It does not wait for it.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
