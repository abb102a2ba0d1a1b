package extentmap

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/pollux-dr/pollux/replicator/objlog/extent"
)

// TestLeafOfAnotherCaller: who waits for a leaf that another caller works out has it, though
// that one goes away; and need not wait for it.
func TestLeafOfAnotherCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runs := 0
		m := &Map{SizeBytes: extent.LeafBytes, Moved: func(ctx context.Context, _ []extent.Extent) error {
			if runs++; runs > 1 {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}}
		leaf := func(ctx context.Context) chan error {
			done := make(chan error, 1)
			go func() { _, err := m.Leaf(ctx, 0); done <- err }()
			synctest.Wait()
			return done
		}
		first, leave := context.WithCancel(t.Context())
		second, hurry := context.WithCancel(t.Context())
		a, b, c := leaf(first), leaf(second), leaf(t.Context())
		hurry()
		synctest.Wait()
		select {
		case err := <-b:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("who does not want to wait: %v", err)
			}
		default:
			t.Error("a caller has to wait for another's work, though it was cancelled")
		}
		leave()
		if err := <-a; !errors.Is(err, context.Canceled) {
			t.Errorf("who was cancelled: %v", err)
		}
		if err := <-c; err != nil || runs != 2 {
			t.Errorf("who waited: %v after %d runs", err, runs)
		}
	})
}
