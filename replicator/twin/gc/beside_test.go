package gc

import (
	"bytes"
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// resync has the stream go on behind a gap, as after an overflow: what changed follows,
// here all of the volumes.
func (l *testLog) resync() {
	gap := state.Gap{From: l.Point, To: change.Point{LSN: l.Point.LSN + 3, Hash: change.Hash{byte(l.Point.LSN), 0xee}}}
	l.Command(state.KindResyncBegin, state.ResyncBegin{Stream: l.Stream, Gap: gap})
	l.Point = gap.To
	for name, img := range l.Images {
		l.Frame(l.Write(name, 0, bytes.Clone(img)))
	}
	if l.r.IntN(2) == 0 {
		l.Segment()
	}
	l.Command(state.KindResyncEnd, state.ResyncEnd{Stream: l.Stream, To: gap.To, LSN: l.Point.LSN})
	l.Keep()
	l.Segment()
}

// struck is a store in which something happens before the n-th read.
type struck struct {
	objstore.Store
	n    atomic.Int64
	what func()
}

func (s *struck) Read(ctx context.Context, name string, off, n int64, buf []byte) ([]byte, error) {
	if s.n.Add(-1) == 0 {
		s.what()
	}
	return s.Store.Read(ctx, name, off, n, buf)
}

// TestVerifyAroundCollect: garbage is collected in the middle of verify, twice, without
// any grace.
func TestVerifyAroundCollect(t *testing.T) {
	l := retained(t, false)
	o := l.options()
	o.Grace = 0
	store, deleted := l.Store, 0
	for range 40 {
		l.Random(l.r, 6)
		l.horizon()
		s := &struck{Store: store, what: func() {
			for range 2 {
				rep, err := Collect(t.Context(), store, o)
				if err != nil {
					t.Error(err)
					return
				}
				deleted += rep.Deleted.Objects
			}
		}}
		s.n.Store(1 + l.r.Int64N(120))
		l.Store = s
		whole(t.Context(), t, l)
		l.Store = store
	}
	if deleted == 0 {
		t.Error("nothing was deleted")
	}
}

// whole fails the test where verify finds anything wrong.
func whole(ctx context.Context, t *testing.T, l *testLog) {
	var bad []string
	totals, err := twin.Examine(ctx, l.Store, func(o *twin.Object) error {
		if o.Err != nil {
			bad = append(bad, string(o.Standing)+": "+o.Err.Error())
		}
		return nil
	})
	if ctx.Err() != nil {
		return
	}
	if err != nil || totals.Err() != nil {
		t.Errorf("false alarm in a healthy log: %v, %v, %q", err, totals, bad)
		return
	}
	c, err := Check(ctx, l.Store)
	if ctx.Err() == nil && (err != nil || len(c.Damaged) > 0) {
		t.Errorf("false alarm beside a healthy log: %v, %+v", err, c)
	}
}

// TestVerifyResyncBehindCatalog: commands behind a catalog tell of gaps, whether the log
// is there from its beginning or from a floor.
func TestVerifyResyncBehindCatalog(t *testing.T) {
	l := retained(t, false)
	o := l.options()
	o.Grace = 0
	floor := uint64(0)
	for range 12 {
		l.Random(l.r, 8)
		if l.r.IntN(2) == 0 {
			l.resync()
		}
		l.horizon()
		l.catalog()
		l.resync()
		whole(t.Context(), t, l)
		if l.r.IntN(2) == 0 {
			for range 2 {
				rep, err := Collect(t.Context(), l.Store, o)
				if err != nil {
					t.Fatal(err)
				}
				floor = rep.Floor
			}
			whole(t.Context(), t, l)
		}
	}
	if floor <= 1 {
		t.Error("the floor never moved")
	}
}

// TestVerifyBesideCollect: while garbage is deleted without any grace, verify raises no
// alarm, and the newest point can be read.
func TestVerifyBesideCollect(t *testing.T) {
	l := retained(t, false)
	l.Keeping = false
	o := l.options()
	o.Grace = 0
	l.Random(l.r, 6) // so that there is a point
	l.horizon()
	ctx, stop := context.WithCancel(t.Context())
	ended, runs := make(chan struct{}), 0
	go func() {
		defer close(ended)
		for ; ctx.Err() == nil && !t.Failed(); runs++ {
			whole(ctx, t, l)
			readNewest(ctx, t, l)
		}
	}()
	deleted := 0
	for range 40 {
		if t.Failed() {
			break
		}
		l.Random(l.r, 6)
		if l.r.IntN(4) == 0 {
			l.resync()
		}
		l.horizon()
		now := l.Clock
		o.Now = func() time.Time { return now }
		rep, err := Collect(t.Context(), l.Store, o)
		if err != nil {
			t.Error(err)
			break
		}
		deleted += rep.Deleted.Objects
	}
	stop()
	<-ended
	if deleted == 0 || runs < 2 {
		t.Errorf("%d objects deleted, %d runs of verify", deleted, runs)
	}
	t.Logf("%d objects deleted, %d runs of verify", deleted, runs)
}

func readNewest(ctx context.Context, t *testing.T, l *testLog) {
	in, err := twin.Open(ctx, l.Store, nil)
	if ctx.Err() != nil {
		return
	}
	if err != nil || in.Damage != nil || in.CatalogDamage != nil {
		t.Errorf("open: %v, %+v", err, in)
		return
	}
	v, err := in.Volume("v")
	if err != nil {
		t.Error(err)
		return
	}
	p, err := in.Resolve(ctx, v, "", time.Time{})
	if err == nil {
		_, err = in.Restore(ctx, p, make(memory, v.SizeBytes))
	}
	if ctx.Err() != nil || fail.Is(err, fail.NotFound) { // it is as old as all grace, which is none
		return
	}
	if err != nil {
		t.Errorf("the newest point: %v", err)
	}
}
