package gc

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/logtest"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// dated is a store whose clock is the log's.
type dated struct {
	objstore.Store
	l *testLog
}

func (d dated) Create(ctx context.Context, name string, b []byte) error {
	err := d.Store.Create(ctx, name, b)
	if err == nil {
		err = os.Chtimes(filepath.Join(d.l.dir, name), d.l.Clock, d.l.Clock)
	}
	return err
}

// TestFencesSettle: a fence, and what a writer that it fenced might still try, is garbage
// once a catalog has passed it for catalog.FenceGrace, where that writer checks its tail; for
// an earlier release's writer it stays for ever. Points and verify know no difference.
func TestFencesSettle(t *testing.T) {
	for _, unchecked := range []bool{false, true} {
		l := retained(t, false)
		l.Store = dated{l.Store, l}
		l.Unchecked, l.Step = unchecked, 40*time.Minute
		l.Fence() // so that the one before was made by such a writer
		l.Random(l.r, 10)
		at := l.Position
		l.Fence()
		name, passed := objlog.ObjectName(at), time.Time{}
		for range 30 {
			l.Random(l.r, 3)
			l.horizon()
			l.collect()
			c, err := catalog.Newest(t.Context(), l.Store, logtest.Journal)
			if err != nil {
				t.Fatal(err)
			}
			if passed.IsZero() && c.Passed(at+segment.MaxInFlight) {
				passed = l.Clock
			}
			_, err = l.Store.Size(t.Context(), name)
			if fail.Is(err, fail.NotFound) &&
				(unchecked || passed.IsZero() || l.Clock.Sub(passed) < catalog.FenceGrace) {
				t.Fatalf("unchecked %v: %s is gone, which a catalog passed %v ago", unchecked, name,
					l.Clock.Sub(passed))
			}
		}
		if _, err := l.Store.Size(t.Context(), name); fail.Is(err, fail.NotFound) == unchecked {
			t.Errorf("unchecked %v: %s in the end: %v", unchecked, name, err)
		}
		l.check(l.open(), l.promised(nil))
		totals, err := twin.Examine(t.Context(), l.Store, func(*twin.Object) error { return nil })
		if err != nil || totals.Err() != nil {
			t.Errorf("unchecked %v: verify: %v, %v", unchecked, err, totals.Err())
		}
	}
}
