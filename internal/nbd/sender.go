package nbd

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// sender is a client's socket. A write to it waits for as long as the client takes
// something within each limit. It lies below TLS, which a write that ends half way
// would break.
type sender struct {
	net.Conn
	limit     time.Duration // 0: the deadline that was set on the socket counts
	draining  *atomic.Bool  // then drainFor is the limit, if it is less
	drainFor  time.Duration
	by        time.Time
	byDrained bool
}

// Write sends p.
func (s *sender) Write(p []byte) (n int, err error) {
	for {
		if err := s.extend(); err != nil {
			return n, err
		}
		k, err := s.Conn.Write(p[n:])
		n += k
		if !s.goesOn(k, err) {
			return n, err
		}
	}
}

// writev sends all of v, in one system call where the client keeps up.
func (s *sender) writev(v *net.Buffers) error {
	for {
		if err := s.extend(); err != nil {
			return err
		}
		if k, err := v.WriteTo(s.Conn); !s.goesOn(int(k), err) {
			return err
		}
	}
}

// SetWriteDeadline sets a deadline that counts from now on, whatever the client takes.
func (s *sender) SetWriteDeadline(t time.Time) error {
	s.limit = 0
	return s.Conn.SetWriteDeadline(t)
}

// goesOn reports whether a write that ended after k bytes is continued.
func (s *sender) goesOn(k int, err error) bool {
	if s.limit == 0 || k == 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	s.by = time.Time{}
	return true
}

// extend gives the client its limit. Moving a deadline for every system call would
// cost more than it is worth: it is moved only when a quarter of the time is over.
func (s *sender) extend() error {
	if s.limit == 0 {
		return nil
	}
	for { // until nobody has begun to drain meanwhile
		limit, drained := s.limit, s.draining.Load()
		if drained {
			limit = min(limit, s.drainFor)
		}
		now := time.Now()
		if drained == s.byDrained && s.by.Sub(now) >= limit {
			return nil
		}
		s.by, s.byDrained = now.Add(limit+limit/4), drained
		if err := s.Conn.SetWriteDeadline(s.by); err != nil {
			return err
		}
	}
}

// drain ends a write that waits for its client once the shorter limit is over. It may
// run beside the others.
func (s *sender) drain() { _ = s.Conn.SetWriteDeadline(time.Now().Add(s.drainFor)) }
