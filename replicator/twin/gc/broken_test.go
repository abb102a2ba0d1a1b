package gc

import (
	"testing"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// TestBrokenStreamStays: where a stream does not go on in the log, nothing is cataloged
// and nothing deleted: what lies behind the break would be taken for garbage, and the
// alarm would end.
func TestBrokenStreamStays(t *testing.T) {
	l := retained(t, false)
	l.Random(l.r, 5)
	l.Point.LSN += 4
	l.Random(l.r, 5)
	for range 12 {
		l.Random(l.r, 4)
		l.horizon()
		if _, err := Collect(t.Context(), l.Store, l.options()); !fail.Is(err, fail.Damaged) {
			t.Fatal(err)
		}
	}
	in, err := twin.Open(t.Context(), l.Store, nil)
	if err != nil || in.Catalog != nil || len(in.Broken) != 1 {
		t.Errorf("%v, catalog %v, broken %v", err, in.Catalog, in.Broken)
	}
}
