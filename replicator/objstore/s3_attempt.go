package objstore

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"
)

// attempt is one request's context: it ends with the caller's, or when the
// request has taken longer than its bytes excuse.
type attempt struct {
	ctx     context.Context
	parent  context.Context
	cancel  context.CancelCauseFunc
	timer   *time.Timer
	timeout time.Duration
}

type timeoutError struct{ after time.Duration }

func (e timeoutError) Error() string { return fmt.Sprintf("not finished within %v", e.after) }
func (timeoutError) Timeout() bool   { return true }

// attempt begins a request that sends n bytes.
func (s *s3Store) attempt(parent context.Context, n int64) *attempt {
	a := &attempt{parent: parent, timeout: s.timeout}
	a.ctx, a.cancel = context.WithCancelCause(parent)
	limit := a.limit(n)
	a.timer = time.AfterFunc(limit, func() { a.cancel(timeoutError{limit}) })
	return a
}

func (a *attempt) limit(n int64) time.Duration {
	return a.timeout + time.Duration(n/slowestBytes)*time.Second
}

// allow begins the time anew for the n bytes that the reply turned out to have.
func (a *attempt) allow(n int64) {
	if a.timer.Stop() {
		a.timer.Reset(a.limit(n))
	}
}

func (a *attempt) end() {
	a.timer.Stop()
	a.cancel(nil)
}

// cause is why the attempt was cut short: the caller's context, the timeout or
// nil.
func (a *attempt) cause() error {
	if err := a.parent.Err(); err != nil {
		return err
	}
	if a.ctx.Err() != nil {
		return context.Cause(a.ctx)
	}
	return nil
}

// readBody reads n bytes of the reply. An answer may claim any length: beyond the first few,
// there is memory and time only for as many bytes again as have come.
func (a *attempt) readBody(r io.Reader, n int64, buf []byte) ([]byte, error) {
	const first = 32 << 20
	for have := int64(0); ; {
		to := min(n, max(first, 2*have))
		a.allow(to - have)
		buf = slices.Grow(buf[:have], int(to-have))[:to]
		if _, err := io.ReadFull(r, buf[have:]); err != nil {
			return nil, err
		}
		if have = to; have == n {
			return buf, nil
		}
	}
}
