package objstore

import (
	"context"
	"sync"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Late is a store that could not be opened yet: a directory that is not mounted,
// a file of credentials that is not there. Each call tries again, and fails with
// fail.Retry until open succeeds.
func Late(url string, open func(context.Context) (Store, error)) Store {
	return &late{url: url, open: open}
}

type late struct {
	url  string
	open func(context.Context) (Store, error)

	mu      sync.Mutex
	s       Store
	err     error         // of the last attempt
	opening chan struct{} // closed when the attempt under way ends; nil: none is
}

func (l *late) get(ctx context.Context) (Store, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.s != nil {
		return l.s, nil
	}
	if l.opening == nil {
		l.opening = make(chan struct{})
		go l.try()
	}
	opening := l.opening
	l.mu.Unlock() // a mount that hangs must not hold up whoever has less patience
	var err error
	select {
	case <-opening:
	case <-ctx.Done():
		err = ctx.Err()
	}
	l.mu.Lock()
	if err == nil && l.s != nil {
		return l.s, nil
	}
	if err == nil {
		err = l.err
	}
	return nil, (&fail.Error{Kind: fail.Retry, Op: "reach", Object: l.url, Err: err}).WithHint(fail.HintOf(err))
}

func (l *late) try() {
	s, err := l.open(context.Background())
	l.mu.Lock()
	defer l.mu.Unlock()
	l.s, l.err = s, err
	close(l.opening)
	l.opening = nil
}

func (l *late) URL() string { return l.url }

func (l *late) Create(ctx context.Context, name string, body []byte) error {
	s, err := l.get(ctx)
	if err != nil {
		return err
	}
	return s.Create(ctx, name, body)
}

func (l *late) Read(ctx context.Context, name string, off, n int64, buf []byte) ([]byte, error) {
	s, err := l.get(ctx)
	if err != nil {
		return nil, err
	}
	return s.Read(ctx, name, off, n, buf)
}

func (l *late) Size(ctx context.Context, name string) (int64, error) {
	s, err := l.get(ctx)
	if err != nil {
		return 0, err
	}
	return s.Size(ctx, name)
}

func (l *late) List(ctx context.Context, prefix, after string, fn func(Info) error) error {
	s, err := l.get(ctx)
	if err != nil {
		return err
	}
	return s.List(ctx, prefix, after, fn)
}

func (l *late) Delete(ctx context.Context, name string) error {
	s, err := l.get(ctx)
	if err != nil {
		return err
	}
	return s.Delete(ctx, name)
}

func (l *late) LockRule(ctx context.Context) (LockRule, error) {
	s, err := l.get(ctx)
	if err != nil {
		return LockRule{}, err
	}
	return s.LockRule(ctx)
}

func (l *late) Lock(ctx context.Context, name string) (Lock, error) {
	s, err := l.get(ctx)
	if err != nil {
		return Lock{}, err
	}
	return s.Lock(ctx, name)
}

func (l *late) Extend(ctx context.Context, name string, lock Lock) error {
	s, err := l.get(ctx)
	if err != nil {
		return err
	}
	return s.Extend(ctx, name, lock)
}

func (l *late) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.s == nil {
		return nil
	}
	return l.s.Close()
}
