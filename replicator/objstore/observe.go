package objstore

import (
	"context"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Request is one finished attempt, for metrics.
type Request struct {
	Op      string  // create, read, size, list, delete, lock_rule, lock or extend; a list is one Request
	Outcome string  // ok, or the name of the error's fail.Kind
	Bytes   int64   // of objects, sent by a create or received by a read
	Seconds float64 // from call to return
}

// WithObserver reports every call on s to observe, which must be quick and may
// be called concurrently. Below WithRetry it sees each attempt.
func WithObserver(s Store, observe func(Request)) Store { return &observed{s, observe} }

type observed struct {
	Store
	observe func(Request)
}

func (o *observed) report(op string, begin time.Time, bytes int64, err error) {
	outcome := "ok"
	if err != nil {
		outcome = fail.KindOf(err).String()
	}
	o.observe(Request{Op: op, Outcome: outcome, Bytes: bytes, Seconds: time.Since(begin).Seconds()})
}

func (o *observed) Create(ctx context.Context, name string, body []byte) error {
	begin := time.Now()
	err := o.Store.Create(ctx, name, body)
	o.report("create", begin, int64(len(body)), err)
	return err
}

func (o *observed) Read(ctx context.Context, name string, off, n int64, buf []byte) ([]byte, error) {
	begin := time.Now()
	b, err := o.Store.Read(ctx, name, off, n, buf)
	o.report("read", begin, int64(len(b)), err)
	return b, err
}

func (o *observed) Size(ctx context.Context, name string) (int64, error) {
	begin := time.Now()
	n, err := o.Store.Size(ctx, name)
	o.report("size", begin, 0, err)
	return n, err
}

func (o *observed) List(ctx context.Context, prefix, after string, fn func(Info) error) error {
	begin := time.Now()
	err := o.Store.List(ctx, prefix, after, fn)
	o.report("list", begin, 0, err)
	return err
}

func (o *observed) Delete(ctx context.Context, name string) error {
	begin := time.Now()
	err := o.Store.Delete(ctx, name)
	o.report("delete", begin, 0, err)
	return err
}

func (o *observed) LockRule(ctx context.Context) (LockRule, error) {
	begin := time.Now()
	rule, err := o.Store.LockRule(ctx)
	o.report("lock_rule", begin, 0, err)
	return rule, err
}

func (o *observed) Lock(ctx context.Context, name string) (Lock, error) {
	begin := time.Now()
	l, err := o.Store.Lock(ctx, name)
	o.report("lock", begin, 0, err)
	return l, err
}

func (o *observed) Extend(ctx context.Context, name string, l Lock) error {
	begin := time.Now()
	err := o.Store.Extend(ctx, name, l)
	o.report("extend", begin, 0, err)
	return err
}
