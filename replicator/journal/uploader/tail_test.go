package uploader

import (
	"context"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// goneOn is a catalog of a log that went on some positions further, and freed them all.
func (r *rig) goneOn() {
	r.t.Helper()
	id, _, _ := r.j.ID()
	at := r.j.Target("x").Position + 5
	c := &catalog.Catalog{Journal: id, Marks: []catalog.Mark{{Position: at, Durable: at, Token: segment.Token{Epoch: 1, Term: 99}}}}
	if err := catalog.Create(r.t.Context(), r.store, c); err != nil {
		r.t.Fatal(err)
	}
}

// TestTail: a writer whose log went on elsewhere finds its positions free. What it creates
// there counts no more, once the store's clock or its own says that it was away for long.
func TestTail(t *testing.T) {
	for _, tt := range []struct {
		name string
		away func(dates *objstore.Dates, boot *time.Duration)
		ends bool
	}{
		{"just now", func(*objstore.Dates, *time.Duration) {}, false},
		{"the machine's clock", func(_ *objstore.Dates, boot *time.Duration) { *boot += catalog.TailCheck + time.Second }, true},
		{"the store's clock", func(d *objstore.Dates, _ *time.Duration) { d.Note(time.Now().Add(catalog.TailCheck + time.Minute)) }, true},
		{"the store's clock, back", func(d *objstore.Dates, _ *time.Duration) { d.Note(time.Now().Add(-catalog.TailCheck - time.Minute)) }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			dates, boot := &objstore.Dates{}, time.Duration(0)
			dates.Note(time.Now())
			u := New(Options{Target: "x", Journal: r.j, Term: r.j.Term(), Dates: dates, SinceBoot: func() time.Duration { return boot },
				Store: objstore.WithRetry(r.store, objstore.Policy{Retryable: Retryable})})
			if err := u.claim(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.goneOn()
			tt.away(dates, &boot)
			was := r.j.Target("x")
			r.propose(1)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if !tt.ends {
				go func() { r.await(); cancel() }()
			}
			if err := u.feed(ctx); fail.Is(err, fail.Fenced) != tt.ends {
				t.Errorf("ended with %v", err)
			}
			if is := r.j.Target("x"); tt.ends && is.Position != was.Position {
				t.Errorf("it counts up to position %d, from %d", is.Position, was.Position)
			}
		})
	}
}

// TestTailOfCopy: a journal whose state is older than its bucket claims nothing there.
func TestTailOfCopy(t *testing.T) {
	r := newRig(t)
	_, stop := r.run()
	r.propose(3)
	r.await()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	r.goneOn()
	was := r.j.Target("x")
	u, stop := r.run()
	for deadline := time.Now().Add(20 * time.Second); !u.Status().Stopped && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if err := stop(); !fail.Is(err, fail.Fenced) || r.j.Target("x").Position != was.Position {
		t.Errorf("ended with %v, at %+v", err, r.j.Target("x"))
	}
}

// TestHeadsSayThatTheTailIsChecked: garbage collection goes by it.
func TestHeadsSayThatTheTailIsChecked(t *testing.T) {
	r := newRig(t)
	_, stop := r.run()
	r.propose(1)
	r.await()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for pos, want := range []bool{false, true, true} {
		if x, err := objlog.ReadIndex(t.Context(), r.store, uint64(pos)); err != nil || x.ChecksTail != want {
			t.Errorf("position %d: %v, %v", pos, x.ChecksTail, err)
		}
	}
}
