package agent

import (
	"context"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// Hold is a time in which a stream's writers wait, so that a mark over several hosts
// is one point. It ends by itself after its limit.
type Hold struct {
	s     *stream
	began time.Time
	timer *time.Timer
	over  chan struct{} // closed when it has ended
	late  bool          // it ended by itself; guarded by s.mu
}

// errHeld refuses a write while writers are held; it is submitted again when they are not.
var errHeld = fail.New(fail.Retry, "write", "", "writers are held for a mark")

// Hold makes a stream's writers wait, puts a mark into its order, and makes that
// durable here. The caller releases it. A stream without a recovery point just now is
// refused.
func (a *Agent) Hold(ctx context.Context, id change.StreamID, name string, limit time.Duration) (*Hold, uint64, error) {
	s, err := a.stream("hold", id)
	if err == nil {
		err = a.NoPoint(id)
	}
	if err != nil {
		return nil, 0, err
	}
	h := &Hold{s: s, began: time.Now(), over: make(chan struct{})}
	s.mu.Lock()
	if s.order.hold != nil {
		s.mu.Unlock()
		return nil, 0, fail.New(fail.Retry, "hold", "group "+s.conf.Group, "its writers are held for another mark")
	}
	s.order.hold = h
	h.timer = time.AfterFunc(limit, func() { h.end(true) })
	s.mu.Unlock()
	lsn, err := a.Mark(ctx, id, name)
	if err != nil {
		h.Release()
		return nil, 0, err
	}
	return h, lsn, nil
}

// Release lets writers go on. It returns how long they were held, and whether that
// was without a break until now.
func (h *Hold) Release() (held time.Duration, whole bool) {
	h.timer.Stop()
	h.end(false)
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	return time.Since(h.began), !h.late
}

// Over is closed when the hold has ended.
func (h *Hold) Over() <-chan struct{} { return h.over }

func (h *Hold) end(late bool) {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	if h.s.order.hold == h {
		h.s.order.hold, h.late = nil, late
		close(h.over)
	}
}

// released blocks a write while its stream is held.
func (s *stream) released(ctx context.Context) error {
	s.mu.Lock()
	h := s.order.hold
	s.mu.Unlock()
	if h == nil {
		return nil
	}
	select {
	case <-h.over:
		return nil
	case <-ctx.Done():
		return fail.Wrap(fail.Retry, "write", "group "+s.conf.Group, ctx.Err())
	}
}
