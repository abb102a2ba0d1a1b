package objstore

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"time"
)

const (
	// slowestBytes a second are what may still be on its way, once a body was given to the
	// network: the wait for the reply allows for it.
	slowestBytes = 256 << 10
	// progressBytes of a reply within the timeout are progress; fewer are none.
	progressBytes = 16 << 10
)

// attempt is one request's context: it ends with the caller's, or when the request has made
// no progress for the timeout. Time as such says nothing: over a slow link that eight
// requests share, each takes minutes.
type attempt struct {
	ctx     context.Context
	parent  context.Context
	cancel  context.CancelCauseFunc
	timer   *time.Timer
	timeout time.Duration
}

type timeoutError struct{ after time.Duration }

func (e timeoutError) Error() string { return fmt.Sprintf("no progress within %v", e.after) }
func (timeoutError) Timeout() bool   { return true }

// attempt begins a request.
func (s *s3Store) attempt(parent context.Context) *attempt {
	a := &attempt{parent: parent, timeout: s.timeout}
	a.ctx, a.cancel = context.WithCancelCause(parent)
	a.timer = time.AfterFunc(s.timeout, func() { a.cancel(timeoutError{s.timeout}) })
	return a
}

// allow begins the time anew, for n bytes that may be on their way.
func (a *attempt) allow(n int64) {
	if a.timer.Stop() {
		a.timer.Reset(a.timeout + time.Duration(n)*time.Second/slowestBytes)
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

// sending is a request's body. Each piece that the connection has room for is progress.
type sending struct {
	a    *attempt
	body *bytes.Reader // not embedded: its other methods would pass by Read
}

func (s *sending) Read(p []byte) (int, error) {
	n, err := s.body.Read(p)
	if s.body.Len() > 0 {
		s.a.allow(0)
	} else {
		s.a.allow(s.body.Size())
	}
	return n, err
}

func (s *sending) Seek(off int64, whence int) (int64, error) { return s.body.Seek(off, whence) }

// readBody reads n bytes of the reply, and returns what came of them where it ends early. An answer may claim
// any length: beyond the first few there is memory only for as many bytes again as have come.
func (a *attempt) readBody(r io.Reader, n int64, buf []byte) ([]byte, error) {
	const first = 32 << 20
	buf = slices.Grow(buf[:0], int(min(n, first)))
	for have := int64(0); have < n; {
		to := min(n, have+progressBytes)
		if to > int64(cap(buf)) {
			buf = slices.Grow(buf, int(min(n, 2*have)-have))
		}
		a.allow(0)
		buf = buf[:to]
		if n, err := io.ReadFull(r, buf[have:]); err != nil {
			return buf[:have+int64(n)], err
		}
		have = to
	}
	return buf, nil
}
