package gc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// hourOnly keeps every write for an hour, and lets the horizon follow.
func hourOnly(t *testing.T) (*testLog, func()) {
	l := retained(t, false)
	l.Command(state.KindGroupPut, state.Group{Name: "g", Ack: "local", Overflow: "throttle", PITR: state.PITRFold,
		Retention: &state.Retention{EveryWriteSeconds: 3600}})
	return l, func() {
		l.moveHorizon(time.Hour)
	}
}

// TestCatalogNumberReused: the newest catalog, under which a restore was interrupted,
// is lost, and another of the same number is made without its moves.
func TestCatalogNumberReused(t *testing.T) {
	for round := range 12 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			t.Parallel()
			l, horizon := hourOnly(t)
			o := l.options()
			o.Grace, o.SparseBelow = 24*time.Hour, 0
			collect := func() {
				horizon()
				if _, err := Collect(t.Context(), l.Store, o); err != nil {
					t.Fatal(err)
				}
			}
			for range 4 {
				l.Random(l.r, 12)
				collect()
			}
			o.SparseBelow = DefaultSparseBelow
			l.Random(l.r, 12)
			l.Bookmark("b")
			lsn := l.Point.LSN
			l.Segment()
			l.Random(l.r, 12)
			collect()
			plan := func(base *twin.Base) *twin.Plan {
				in := l.open()
				v, _ := in.Volume("v")
				p, err := in.Resolve(t.Context(), v, "b", l.Clock)
				if err != nil {
					t.Fatal(err)
				}
				pl, err := in.Plan(t.Context(), p, base, t.TempDir())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = pl.Close() })
				return pl
			}
			n := l.open().Catalog.Number
			var base twin.Base
			stop, img := 1+l.r.IntN(5), zeroing{make(memory, l.Sizes["v"])}
			_, err := plan(nil).Restore(t.Context(), img, twin.Run{Done: func(b twin.Base) error {
				if stop--; stop == 0 && b.Done != twin.Whole {
					base = b
					return errEnough
				}
				return nil
			}})
			if !errors.Is(err, errEnough) {
				return
			}
			if err := os.Remove(filepath.Join(l.dir, catalog.Name(n))); err != nil {
				t.Fatal(err)
			}
			// another process
			if l.Store, err = objstore.Open(t.Context(), "file://"+l.dir, objstore.Options{}); err != nil {
				t.Fatal(err)
			}
			defer l.Store.Close()
			l.Random(l.r, 1)
			l.catalog()
			if _, err = plan(&base).Restore(t.Context(), img, twin.Run{}); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(img.memory, l.History[lsn]["v"]) {
				t.Errorf("gone on from %+v: the image differs", base)
			}
		})
	}
}

// TestHydrateRefreshed: a mount's read has found the newest catalog while a plan of the
// same image is older. The plan finds it too.
func TestHydrateRefreshed(t *testing.T) {
	l, horizon := hourOnly(t)
	o := l.options()
	o.Grace, o.SparseBelow = 0, 2
	upkeep := func() {
		l.Random(l.r, 25)
		horizon()
		for range 2 {
			if _, err := Collect(t.Context(), l.Store, o); err != nil {
				t.Fatal(err)
			}
		}
	}
	upkeep()
	l.Random(l.r, 30)
	l.Bookmark("b")
	l.Segment()
	in := l.open()
	v, _ := in.Volume("v")
	p, err := in.Resolve(t.Context(), v, "b", l.Clock)
	if err != nil {
		t.Fatal(err)
	}
	img, err := in.Image(t.Context(), p, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	pl, err := img.Plan(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer pl.Close()
	for range 4 {
		upkeep()
	}
	if err := img.Refresh(t.Context(), img.Catalog(), fail.New(fail.NotFound, "read", "x", "gone")); err != nil {
		t.Fatal(err)
	}
	if _, err = pl.Each(t.Context(), twin.Run{}, func(*extent.Extent, []byte) error { return nil }); err != nil {
		t.Fatalf("the point is kept, and the hydration fails: %v", err)
	}
}

// TestRefreshedOnAnotherBranch: while a point is read, a fence goes back behind it, and garbage collection
// takes an object that is needed. The log's other history, which has the same LSNs, is not read on from.
func TestRefreshedOnAnotherBranch(t *testing.T) {
	l := newTestLog(t, false)
	l.Frame(l.Write("v", 0, []byte{1}))
	l.Segment()
	l.catalog()
	from := l.Here()
	l.Frame(l.Write("v", 4096, []byte{2}))
	l.Segment()
	in := l.open()
	v, _ := in.Volume("v")
	p, err := in.Resolve(t.Context(), v, "", l.Clock)
	if err != nil {
		t.Fatal(err)
	}
	img, err := in.Image(t.Context(), p, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	l.GoBack(from)
	l.Frame(l.Write("v", 8192, []byte{3}))
	l.Segment()
	l.catalog()
	err = img.Refresh(t.Context(), img.Catalog(), fail.New(fail.NotFound, "read", "x", "gone"))
	if !fail.Is(err, fail.NotFound) {
		t.Errorf("the point of another history: %v", err)
	}
}
