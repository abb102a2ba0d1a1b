package gc

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// TestNewestCatalogLost damages or removes the newest catalog after any run: by the one
// before it all points that are kept are there, and gc deletes nothing until it is back.
func TestNewestCatalogLost(t *testing.T) {
	l := retained(t, false)
	bookmarks := map[string]uint64{}
	for i := range 40 {
		l.Random(l.r, 1+l.r.IntN(14))
		if l.r.IntN(6) == 0 {
			name := fmt.Sprint("b", i)
			l.Bookmark(name)
			bookmarks[name] = l.Point.LSN
			l.Segment()
		}
		l.horizon()
		o := l.options()
		o.Grace = 0
		for range 1 + l.r.IntN(2) {
			if _, err := Collect(t.Context(), l.Store, o); err != nil {
				t.Fatal(err)
			}
		}
		path := filepath.Join(l.dir, catalog.Name(l.open().Catalog.Number))
		was, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b := append([]byte(nil), was...)
		b[len(b)/2] ^= 0xff
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		in, err := twin.Open(t.Context(), l.Store, nil)
		if err != nil || in.CatalogDamage == nil {
			t.Fatal(err)
		}
		l.check(in, l.promised(bookmarks))
		if _, err := Collect(t.Context(), l.Store, o); !fail.Is(err, fail.Damaged) {
			t.Fatalf("gc with a damaged catalog: %v", err)
		}
		if err := os.WriteFile(path, was, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNeededMissing takes away any object that the newest catalog needs. gc says which,
// and deletes nothing.
func TestNeededMissing(t *testing.T) {
	l := retained(t, false)
	for range 25 {
		l.Random(l.r, 12)
		l.horizon()
		l.collect()
	}
	c := l.open().Catalog
	tried := 0
	var names []string
	if err := l.Store.List(t.Context(), "", "", func(i objstore.Info) error {
		names = append(names, i.Name)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		pos, isLog := objlog.PositionOf(name)
		_, dead := c.Dead[name]
		if dead || strings.HasPrefix(name, "catalog/") || isLog &&
			(pos < c.ReadPoints[0].Position || pos+1 >= c.End().Position) {
			continue
		}
		tried++
		path := filepath.Join(l.dir, name)
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
		o := l.options()
		o.Grace = 0
		_, err := Collect(t.Context(), l.Store, o)
		if !fail.Is(err, fail.Damaged) && !fail.Is(err, fail.NotFound) || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
		if err := os.Rename(path+".away", path); err != nil {
			t.Fatal(err)
		}
	}
	if tried < 10 {
		t.Errorf("%d objects are needed", tried)
	}
	l.check(l.open(), l.promised(nil))
}
