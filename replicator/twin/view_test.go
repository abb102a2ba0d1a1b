package twin

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// firstHangs is a store whose first list hangs until its caller goes.
type firstHangs struct {
	objstore.Store
	lists atomic.Int32
}

func (s *firstHangs) List(ctx context.Context, prefix, after string, fn func(objstore.Info) error) error {
	if s.lists.Add(1) > 1 {
		return s.Store.List(ctx, prefix, after, fn)
	}
	<-ctx.Done()
	return fail.Wrap(fail.Retry, "list objects", prefix, ctx.Err())
}

// TestViewOfAnotherCaller: a view whose reader was cancelled is read by who waits for it.
func TestViewOfAnotherCaller(t *testing.T) {
	h := long(t, 3)
	l := h.mustOpen() // outside of the bubble: coders of compressed blocks are shared by all tests
	synctest.Test(t, func(t *testing.T) {
		s := &firstHangs{Store: h.store}
		// A view from the fence to the end of the first segment.
		l.store, l.readPoint = s, 1
		l.Catalog = &catalog.Catalog{ReadPoints: []catalog.ReadPoint{
			{Position: 2, Token: h.token},
			{Position: 3, Index: 5, Token: h.token},
		}}
		view := func(ctx context.Context) chan error {
			done := make(chan error, 1)
			go func() { _, err := l.view(ctx, 0); done <- err }()
			synctest.Wait()
			return done
		}
		first, leave := context.WithCancel(t.Context())
		a, b := view(first), view(t.Context())
		leave()
		if err := <-a; !errors.Is(err, context.Canceled) {
			t.Errorf("who was cancelled: %v", err)
		}
		if err := <-b; err != nil {
			t.Errorf("who waited: %v", err)
		}
		if w, err := l.view(t.Context(), 0); err != nil || w.readPoint != 0 || s.lists.Load() != 2 {
			t.Errorf("%v after %d lists", err, s.lists.Load())
		}
	})
}
