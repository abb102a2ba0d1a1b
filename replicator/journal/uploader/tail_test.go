package uploader

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// goneOn is a catalog of a log that went on some positions further, and freed them all.
func (r *rig) goneOn() {
	r.t.Helper()
	r.create(r.passing(0))
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
		{"the machine's clock",
			func(_ *objstore.Dates, boot *time.Duration) { *boot += catalog.TailCheck + time.Second }, true},
		{"the store's clock", func(d *objstore.Dates, _ *time.Duration) {
			d.Note(time.Now().Add(catalog.TailCheck + time.Minute))
		}, true},
		{"the store's clock, back", func(d *objstore.Dates, _ *time.Duration) {
			d.Note(time.Now().Add(-catalog.TailCheck - time.Minute))
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			dates, boot := &objstore.Dates{}, time.Duration(0)
			dates.Note(time.Now())
			u := New(Options{Target: "x", Journal: r.j, Term: r.j.Term(), Dates: dates,
				SinceBoot: func() time.Duration { return boot },
				Store:     objstore.WithRetry(r.store, objstore.Policy{Retryable: Retryable})})
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

// cutOff is a store whose link goes down just after it has listed the catalogs, for so long
// that there are others when it is back.
type cutOff struct {
	objstore.Store
	away func()
}

func (c *cutOff) List(ctx context.Context, prefix, after string, fn func(objstore.Info) error) error {
	err := c.Store.List(ctx, prefix, after, fn)
	if away := c.away; prefix == "catalog/" && away != nil {
		c.away = nil
		away()
	}
	return err
}

// passing is a catalog that has passed all that the journal knows of the log.
func (r *rig) passing(number uint64) *catalog.Catalog {
	id, _, _ := r.j.ID()
	at := r.j.Target("x").Position + 5
	return &catalog.Catalog{Number: number, Journal: id,
		ReadPoints: []catalog.ReadPoint{{Position: at, Durable: at, Token: segment.Token{Epoch: 1, Term: 99}}}}
}

func (r *rig) create(c *catalog.Catalog) {
	r.t.Helper()
	if err := catalog.Create(r.t.Context(), r.store, c); err != nil {
		r.t.Fatal(err)
	}
}

// TestTailUnknown: where no catalog tells, nothing is counted until one does.
func TestTailUnknown(t *testing.T) {
	for _, tt := range []struct {
		name  string
		make  func(r *rig, c *cutOff)
		waits bool // else it ends as fenced
	}{
		{"gone since they were listed", func(r *rig, c *cutOff) {
			r.create(r.passing(5))
			c.away = func() {
				_ = r.store.Delete(t.Context(), catalog.Name(5))
				r.create(r.passing(8))
				r.create(r.passing(9))
			}
		}, false},
		{"the newest damaged", func(r *rig, _ *cutOff) {
			r.create(r.passing(5))
			_ = r.store.Create(t.Context(), catalog.Name(6), []byte("damaged"))
		}, false},
		{"two damaged", func(r *rig, _ *cutOff) {
			_ = r.store.Create(t.Context(), catalog.Name(5), []byte("damaged"))
			_ = r.store.Create(t.Context(), catalog.Name(6), []byte("damaged"))
		}, true},
		{"a list that ends too early", func(r *rig, c *cutOff) {
			id, _, _ := r.j.ID()
			r.create(&catalog.Catalog{Number: 5, Journal: id, ReadPoints: []catalog.ReadPoint{{Position: 1}}})
			c.away = func() { r.create(r.passing(6)) }
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			boot, store := time.Duration(0), &cutOff{Store: r.store}
			u := New(Options{Target: "x", Journal: r.j, Term: r.j.Term(),
				SinceBoot: func() time.Duration { return boot },
				Store:     objstore.WithRetry(store, objstore.Policy{Retryable: Retryable})})
			if err := u.claim(t.Context()); err != nil {
				t.Fatal(err)
			}
			boot += catalog.TailCheck + time.Second
			was := r.j.Target("x")
			tt.make(r, store)
			r.propose(1)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if tt.waits {
				go func() {
					for u.Status().Err == nil && ctx.Err() == nil {
						time.Sleep(time.Millisecond)
					}
					cancel()
				}()
			}
			if err := u.feed(ctx); fail.Is(err, fail.Fenced) == tt.waits {
				t.Errorf("ended with %v", err)
			}
			if is := r.j.Target("x"); is.Position != was.Position {
				t.Errorf("it counts up to position %d, from %d", is.Position, was.Position)
			}
		})
	}
}

// TestTailForeignCatalog: a catalog of another journal, left in this place, stops nobody.
func TestTailForeignCatalog(t *testing.T) {
	r := newRig(t)
	c := r.passing(3)
	c.Journal = uuid.New()
	r.create(c)
	_, stop := r.run()
	r.propose(1)
	r.await()
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestTailOfTargetComingBack: a target that was taken out and comes back is adopted, though
// a catalog has passed its beginning.
func TestTailOfTargetComingBack(t *testing.T) {
	p := newPair(t)
	_, stop := p.start()
	for range 12 {
		p.propose(1)
		p.await()
	}
	until := func(what string, cond func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %+v", what, p.j.Target("spare"))
			}
		}
	}
	until("spare has all", func() bool { return p.j.Target("spare").Index == p.j.LastIndex() })
	stop()
	at := p.j.Target("spare")
	p.reopen("x")
	p.reopen("x", "spare")
	id, _, _ := p.j.ID()
	c := &catalog.Catalog{Journal: id, ReadPoints: []catalog.ReadPoint{{Position: 5, Durable: 4, Index: 3},
		{Position: at.Position, Durable: at.Position - 1, Index: at.Index, Token: at.Token}}}
	if err := catalog.Create(t.Context(), p.spare, c); err != nil {
		t.Fatal(err)
	}
	spare, stop := p.start()
	defer stop()
	until("spare comes back", func() bool { return p.j.Target("spare").Index >= at.Index || spare.Status().Stopped })
	if st := spare.Status(); st.Stopped || st.Fenced {
		t.Errorf("the writer of a whole log stopped: %v", st.Err)
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
