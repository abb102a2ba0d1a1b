package flight

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/pollux-dr/pollux/internal/fail"
)

// TestShared: what one caller finds, error or not, all have who asked meanwhile.
func TestShared(t *testing.T) {
	for _, want := range []error{nil, errors.New("broken")} {
		synctest.Test(t, func(t *testing.T) {
			var g Group[string, int]
			var runs atomic.Int32
			start := make(chan struct{})
			for range 5 {
				go func() {
					v, err := g.Do(t.Context(), "x", func() (int, error) { runs.Add(1); <-start; return 7, want })
					if v != 7 || err != want {
						t.Errorf("%d, %v", v, err)
					}
				}()
			}
			synctest.Wait()
			if v, err := g.Do(t.Context(), "y", func() (int, error) { return 8, nil }); v != 8 || err != nil {
				t.Errorf("another key: %d, %v", v, err)
			}
			close(start)
			synctest.Wait()
			if runs.Load() != 1 {
				t.Errorf("%d runs", runs.Load())
			}
			if v, err := g.Do(t.Context(), "x", func() (int, error) { return 9, nil }); v != 9 || err != nil {
				t.Errorf("afterwards: %d, %v", v, err)
			}
		})
	}
}

// TestLeft: work that its caller left, or died of, is done by one of those who wait.
func TestLeft(t *testing.T) {
	for name, leave := range map[string]func(context.Context) error{
		"cancelled": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		"panic":     func(ctx context.Context) error { <-ctx.Done(); panic("x") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var g Group[int, int]
				var runs atomic.Int32
				end := make(chan struct{})
				first, cancel := context.WithCancel(t.Context())
				go func() {
					defer func() { _ = recover() }()
					if _, err := g.Do(first, 1, func() (int, error) { return 0, leave(first) }); !errors.Is(err,
						context.Canceled) {
						t.Errorf("the first: %v", err)
					}
				}()
				synctest.Wait()
				hurried, hurry := context.WithCancel(t.Context())
				go func() {
					if _, err := g.Do(hurried, 1, nil); !errors.Is(err, context.Canceled) || !fail.Is(err, fail.Retry) {
						t.Errorf("who would not wait: %v", err)
					}
				}()
				for range 3 {
					go func() {
						v, err := g.Do(t.Context(), 1, func() (int, error) { runs.Add(1); <-end; return 7, nil })
						if v != 7 || err != nil {
							t.Errorf("who waited: %d, %v", v, err)
						}
					}()
				}
				synctest.Wait()
				hurry()
				synctest.Wait()
				cancel()
				synctest.Wait()
				if runs.Load() != 1 {
					t.Errorf("%d runs at once", runs.Load())
				}
				close(end)
				synctest.Wait()
			})
		})
	}
}
