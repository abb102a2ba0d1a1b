package gc

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/replicator/logtest"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// TestPointsRounds: the parts of history that points are named from are read side by
// side: a list each, and one request for each object.
func TestPointsRounds(t *testing.T) {
	l := newTestLog(t, false)
	const catalogs, each = 12, 4
	for i := range catalogs {
		for range each {
			l.Frame(l.Write("v", 0, []byte{byte(i)}))
			l.Segment()
		}
		l.Bookmark(fmt.Sprintf("b%d", i))
		l.Segment()
		l.Clock = l.Clock.Add(time.Hour)
		l.catalog()
	}
	in := l.open()
	v, err := in.Volume("v")
	if err != nil {
		t.Fatal(err)
	}
	p, err := in.Resolve(t.Context(), v, "b0", l.Clock)
	if err != nil {
		t.Fatal(err)
	}
	const ends, most = catalogs * (each + 1), 4 // the first part has identity and fence as well
	requests, rounds := logtest.Cost(t, l.Store, func(ctx context.Context, s objstore.Store) {
		far, err := twin.Open(ctx, s, nil)
		if err != nil {
			t.Error(err)
			return
		}
		if got := far.PointsOf(ctx, v); len(got.Bookmarks) != catalogs || !got.Bookmarks[0].InLog {
			t.Errorf("%+v", got)
		}
	})
	// To open it: the catalogs' list, the newest of them, the log's list beside the identity.
	// Then the parts' lists, and their objects.
	if requests > 4+catalogs+ends+most || rounds > 3+1+2 {
		t.Errorf("points: %d requests in %d rounds", requests, rounds)
	}
	requests, rounds = logtest.Cost(t, l.Store, func(ctx context.Context, s objstore.Store) {
		far, err := twin.Open(ctx, s, nil)
		if err == nil {
			var changed interface{ Close() error }
			if changed, err = far.Changed(ctx, v.Stream, p.LSN, l.Point.LSN, t.TempDir()); err == nil {
				err = changed.Close()
			}
		}
		if err != nil {
			t.Error(err)
		}
	})
	t.Logf("changed: %d requests in %d rounds", requests, rounds)
}

// TestOldViewsProgress: who reads an older part of the log is told how far that is, also
// where many are read side by side.
func TestOldViewsProgress(t *testing.T) {
	l := newTestLog(t, false)
	const catalogs, each = 3, 4
	for i := range catalogs {
		for range each {
			l.Frame(l.Write("v", 0, []byte{byte(i)}))
			l.Segment()
		}
		l.catalog()
	}
	l.Frame(l.Write("v", 0, []byte{1}))
	l.Segment()
	var mu sync.Mutex
	var done, total, least int64
	in, err := twin.Open(t.Context(), l.Store, &twin.Reading{Progress: func(d, n int64) {
		mu.Lock()
		defer mu.Unlock()
		if d < done || n < total || d > n {
			t.Errorf("%d of %d after %d of %d", d, n, done, total)
		}
		if done == total {
			least = n // of a new reading
		}
		done, total = d, n
	}})
	if err != nil {
		t.Fatal(err)
	}
	if done != 1 || total != 1 {
		t.Errorf("open: %d of %d, want the object behind the catalog", done, total)
	}
	v, err := in.Volume("v")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Resolve(t.Context(), v, fmt.Sprint(each+2), l.Clock); err != nil {
		t.Fatal(err)
	}
	if done != 1+each || total != done || least != total {
		t.Errorf("a point in the second part: %d of %d, %d at first", done, total, least)
	}
	changed, err := in.Changed(t.Context(), v.Stream, 1, l.Point.LSN, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	_ = changed.Close()
	if want := int64(l.Position); done != want-1 && done != want || total != done || least != total {
		t.Errorf("all parts: %d of %d, %d at first; the log has %d objects", done, total, least, want)
	}
}
