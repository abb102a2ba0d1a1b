package gc

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// worm is a store with Object Lock and a clock.
type worm struct {
	objstore.Store
	now         func() time.Time
	rule, asked objstore.LockRule // the bucket's, and what a Create asks for
	refuse      string            // an object whose date cannot be moved

	mu       sync.Mutex
	locks    map[string]objstore.Lock
	extended int
	vain     int // deletions that were refused
}

func (w *worm) Create(ctx context.Context, name string, body []byte) error {
	err := w.Store.Create(ctx, name, body)
	if err == nil {
		rule := w.rule
		if w.asked.For > 0 {
			rule = w.asked
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		l := objstore.Lock{Created: w.now()}
		if rule.For > 0 {
			l.Mode, l.Until = rule.Mode, w.now().Add(rule.For)
		}
		w.locks[name] = l
	}
	return err
}

func (w *worm) LockRule(context.Context) (objstore.LockRule, error) { return w.rule, nil }

func (w *worm) List(ctx context.Context, prefix, after string, fn func(objstore.Info) error) error {
	return w.Store.List(ctx, prefix, after, func(i objstore.Info) error {
		w.mu.Lock()
		i.Modified = w.locks[i.Name].Created
		w.mu.Unlock()
		return fn(i)
	})
}

func (w *worm) Lock(_ context.Context, name string) (objstore.Lock, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l, ok := w.locks[name]
	if !ok {
		return l, fail.New(fail.NotFound, "lock", name, "no such object")
	}
	return l, nil
}

func (w *worm) Extend(_ context.Context, name string, to objstore.Lock) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	l, ok := w.locks[name]
	switch {
	case !ok:
		return fail.New(fail.NotFound, "extend", name, "no such object")
	case name == w.refuse:
		return fail.New(fail.Denied, "extend", name, "refused")
	case l.Until.Before(to.Until):
		l.Mode, l.Until = to.Mode, to.Until
		w.extended++
	}
	w.locks[name] = l
	return nil
}

func (w *worm) Delete(ctx context.Context, name string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.locks[name].Until.After(w.now()) {
		w.vain++
		return fail.New(fail.Denied, "delete", name, "object protected by object lock")
	}
	delete(w.locks, name)
	return w.Store.Delete(ctx, name)
}

// locked is a log in a store that locks by the bucket's rule, or because it is asked to.
func locked(t *testing.T, rule, asked objstore.LockRule) (*testLog, *worm) {
	l := retained(t, false)
	l.lock = asked
	w := &worm{Store: l.Store, now: func() time.Time { return l.Clock }, rule: rule, asked: asked,
		locks: map[string]objstore.Lock{}}
	for pos := range l.Position { // made before the store was wrapped
		w.locks[fmt.Sprintf("log/%020d", pos)] = objstore.Lock{Created: l.Clock}
	}
	l.Store = w
	return l, w
}

// TestLock has the store keep objects for a time of which several pass. After each run
// nothing that is needed may be free, nor longest kept than promised; and all garbage goes.
func TestLock(t *testing.T) {
	day := objstore.LockRule{Mode: objstore.Compliance, For: 24 * time.Hour}
	for name, rules := range map[string][2]objstore.LockRule{"Bucket": {day, {}}, "Uploader": {{}, day}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, w := locked(t, rules[0], rules[1])
			deleted, held, rounds := 0, 0, 0
			var bookmark uint64
			for i := range 80 { // of an hour and more
				l.Random(l.r, 9)
				if i == 5 {
					l.Bookmark("early")
					bookmark = l.Point.LSN
				}
				l.horizon()
				rep := l.collect()
				deleted, held = deleted+rep.Deleted.Objects, held+rep.Held.Objects
				if rep.Locked.Extended > 0 {
					rounds++
				}
				w.check(t, l, day.For)
			}
			l.check(l.open(), l.promised(map[string]uint64{"early": bookmark}))
			if deleted == 0 || held == 0 || rounds < 4 || rounds > 20 || w.vain > 0 {
				t.Errorf("%d deleted, %d in vain, %d held, %d rounds", deleted, w.vain, held, rounds)
			}
		})
	}
}

// check looks at all dates after a run.
func (w *worm) check(t *testing.T, l *testLog, span time.Duration) {
	t.Helper()
	c := l.open().Catalog
	err := w.List(t.Context(), "", "", func(i objstore.Info) error {
		is := w.locks[i.Name]
		left := is.Until.Sub(l.Clock)
		if _, dead := c.Dead[i.Name]; !dead && left < span/2-time.Minute {
			t.Errorf("at %v: %s is needed and kept for %v only", l.Clock, i.Name, left)
		}
		if left > span+time.Minute {
			t.Errorf("at %v: %s is kept for %v", l.Clock, i.Name, left)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestLockAlone: the journal is dead, its log's newest object gets older and older, and
// gc goes on keeping what there is for as long as before, not longer.
func TestLockAlone(t *testing.T) {
	rule := objstore.LockRule{Mode: objstore.Governance, For: 24 * time.Hour}
	l, w := locked(t, rule, objstore.LockRule{})
	l.Random(l.r, 20)
	l.horizon()
	for range 100 {
		l.collect()
		w.check(t, l, rule.For)
		l.Clock = l.Clock.Add(time.Hour)
	}
	l.Clock = l.Clock.Add(10 * rule.For) // gc does not run for longer than its dates last
	for range 30 {
		l.collect()
		w.check(t, l, rule.For)
		l.Clock = l.Clock.Add(time.Hour)
	}
}

// TestLockRefused: one date cannot be moved. The run says so, and the next does all of
// it again.
func TestLockRefused(t *testing.T) {
	l, w := locked(t, objstore.LockRule{Mode: objstore.Governance, For: 24 * time.Hour}, objstore.LockRule{})
	l.Random(l.r, 20)
	l.horizon()
	w.refuse = "log/00000000000000000002"
	for range 3 {
		rep, err := Collect(t.Context(), w, l.options())
		if err != nil || rep.Locked.Failed != 1 || rep.Locked.FailedWhy == "" || rep.Locked.Extended < 3 {
			t.Fatalf("%+v, %v", rep, err)
		}
		if c := l.open().Catalog; len(c.Locked) > 0 {
			t.Fatal("the round counts")
		}
		for name, is := range w.locks {
			if left := is.Until.Sub(l.Clock); name != w.refuse && left < 23*time.Hour {
				t.Errorf("%s is kept for %v", name, left)
			}
		}
		l.Clock = l.Clock.Add(time.Hour)
	}
	w.refuse = ""
	rep := l.collect()
	if c := l.open().Catalog; rep.Locked.Failed != 0 || len(c.Locked) != 1 {
		t.Errorf("%+v", rep.Locked)
	}
	w.check(t, l, 24*time.Hour)
}

// TestLockCrashes: gc dies behind its round and before its catalog, again and again.
// Nothing is kept longer for that.
func TestLockCrashes(t *testing.T) {
	rule := objstore.LockRule{Mode: objstore.Compliance, For: 24 * time.Hour}
	l, w := locked(t, rule, objstore.LockRule{})
	l.Random(l.r, 20)
	l.horizon()
	l.collect()
	died := 0
	for range 6 {
		l.Clock = l.Clock.Add(11 * time.Hour)
		if _, err := Collect(t.Context(), &noCatalogs{w}, l.options()); err != nil {
			died++
		}
		for name, is := range w.locks {
			if left := is.Until.Sub(l.Clock); left > rule.For+time.Minute {
				t.Fatalf("%s is kept for %v", name, left)
			}
		}
	}
	if died == 0 {
		t.Error("it never died")
	}
	l.collect()
	w.check(t, l, rule.For)
}

// noCatalogs is a store in which no catalog can be made.
type noCatalogs struct{ *worm }

func (s *noCatalogs) Create(ctx context.Context, name string, b []byte) error {
	if strings.HasPrefix(name, "catalog/") {
		return fail.New(fail.Internal, "stop", "here", "killed")
	}
	return s.worm.Create(ctx, name, b)
}

// TestLockShorter: the rule becomes shorter. What was made since goes by its own date.
func TestLockShorter(t *testing.T) {
	l, w := locked(t, objstore.LockRule{Mode: objstore.Compliance, For: 30 * 24 * time.Hour}, objstore.LockRule{})
	for range 10 {
		l.Random(l.r, 9)
		l.horizon()
		l.collect()
	}
	w.rule.For = 24 * time.Hour
	for range 90 {
		l.Random(l.r, 4)
		l.horizon()
		l.collect()
	}
	for name, since := range l.open().Catalog.Dead {
		is, there := w.locks[name]
		if late := l.Clock.Sub(is.Until); there && l.Clock.Sub(since) > 2*grace && late > 2*time.Hour {
			t.Errorf("%s is past its grace, and its date for %v, and still there", name, late)
		}
	}
}

// TestLockGrace: what readers by an older catalog may need stays for the grace.
func TestLockGrace(t *testing.T) {
	rule := objstore.LockRule{Mode: objstore.Governance, For: 24 * time.Hour}
	l, w := locked(t, objstore.LockRule{}, rule)
	o := l.options()
	o.Grace = 24 * time.Hour
	for range 60 {
		l.Random(l.r, 9)
		l.horizon()
		o.Now = l.options().Now
		if _, err := Collect(t.Context(), l.Store, o); err != nil {
			t.Fatal(err)
		}
		for name, since := range l.open().Catalog.Dead {
			if left := w.locks[name].Until.Sub(l.Clock); l.Clock.Sub(since) < o.Grace-2*time.Hour &&
				left < rule.For/2-2*time.Hour {
				t.Errorf("%s, garbage since %v, is kept for %v only", name, l.Clock.Sub(since), left)
			}
		}
	}
}

// noDeletes is a store whose credentials do not allow to delete.
type noDeletes struct{ *worm }

func (noDeletes) Delete(context.Context, string) error {
	return fail.New(fail.Denied, "delete", "here", "no")
}

// TestLockFreed: whoever deletes all that can be deleted harms no point that is kept.
func TestLockFreed(t *testing.T) {
	l, w := locked(t, objstore.LockRule{}, objstore.LockRule{Mode: objstore.Compliance, For: 6 * time.Hour})
	for range 20 {
		l.Random(l.r, 12)
		l.horizon()
		if _, err := Collect(t.Context(), noDeletes{w}, l.options()); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	if err := w.List(t.Context(), "", "", func(i objstore.Info) error {
		names = append(names, i.Name)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	gone := 0
	for _, name := range names {
		if w.Delete(t.Context(), name) == nil {
			gone++
		}
	}
	if gone == 0 {
		t.Error("nothing could be deleted")
	}
	if _, err := w.Size(t.Context(), catalog.Name(l.open().Catalog.Number)); err != nil {
		t.Error(err)
	}
	l.check(l.open(), l.promised(nil))
}
