package twin

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// forgetful is a store of which a list lacks objects that are there, as one of a
// directory may that others are created in meanwhile.
type forgetful struct {
	objstore.Store
	lacks func(name string) bool
}

func (s forgetful) List(ctx context.Context, prefix, after string, fn func(objstore.Info) error) error {
	return s.Store.List(ctx, prefix, after, func(i objstore.Info) error {
		if s.lacks(i.Name) {
			return nil
		}
		return fn(i)
	})
}

// TestListIsNoSnapshot: what a list lacks is asked for by name; what is not there is
// missing.
func TestListIsNoSnapshot(t *testing.T) {
	h := begun(t)
	h.control(streamA)
	for i := range 100 {
		h.frame(streamA, fill(2, int64(i)*512, 512, byte(i+1)))
		h.segment()
	}
	real := h.store
	want := imageOf(t, h.mustOpen())
	for range 10 {
		drawn := map[string]bool{}
		for pos := range h.pos - 1 { // the last one tells of the others
			drawn[objlog.ObjectName(pos)] = rand.IntN(3) == 0
		}
		h.store = forgetful{real, func(name string) bool { return drawn[name] }}
		l, err := Open(t.Context(), h.store, nil)
		if err != nil || l.Damage != nil || l.End != h.pos {
			t.Fatalf("%v, %v, end %d of %d", err, l.Damage, l.End, h.pos)
		}
		if got := imageOf(t, l); string(got) != string(want) {
			t.Error("another image")
		}
		found, totals := examine(t, h)
		if totals.Err() != nil || len(found) != int(h.pos) {
			t.Fatalf("%v, %d of %d positions", totals.Err(), len(found), h.pos)
		}
	}
	h.store = real
	if err := real.Delete(t.Context(), objlog.ObjectName(50)); err != nil {
		t.Fatal(err)
	}
	l, err := Open(t.Context(), real, nil)
	if err != nil || !fail.Is(l.Damage, fail.Damaged) || l.End != 50 {
		t.Errorf("%v, %v, end %d", err, l.Damage, l.End)
	}
	if found, totals := examine(t, h); totals.Damaged == 0 || found[50].Standing != Missing {
		t.Errorf("%+v", totals)
	}
}
