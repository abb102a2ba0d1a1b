package gc

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/seed"
	"github.com/pollux-dr/pollux/replicator/logtest"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type memory []byte

func (m memory) WriteAt(b []byte, off int64) (int, error) { return copy(m[off:], b), nil }

// testLog is a log in a directory, with two volumes.
type testLog struct {
	*logtest.Log
	t   *testing.T
	dir string
	r   *rand.Rand
	// lock is what the store is asked for, with each object.
	lock objstore.LockRule
}

// memoryDir is a directory whose syncs cost nothing, where the machine has such.
func memoryDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "pollux-gc-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func newTestLog(t *testing.T, folding bool) *testLog {
	seed := seed.New(t)
	dir := memoryDir(t)
	s, err := objstore.Open(t.Context(), "file://"+dir, objstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	l := &testLog{Log: logtest.New(t, s), t: t, dir: dir, r: rand.New(rand.NewPCG(seed, 0))}
	l.Folding, l.Keeping = folding, true
	l.Codec = []change.Codec{change.CodecNone, change.CodecS2}[l.r.IntN(2)]
	l.Volume("v", 300<<10)
	l.Volume("w", 100<<10)
	return l
}

func (l *testLog) open() *twin.Log {
	l.t.Helper()
	out, err := twin.Open(l.t.Context(), l.Store, nil)
	if err != nil || out.Damage != nil {
		l.t.Fatal(err, out)
	}
	return out
}

func (l *testLog) catalog() Cataloged {
	l.t.Helper()
	c, err := Catalog(l.t.Context(), l.Store, Options{Now: func() time.Time { return l.Clock }})
	if err != nil {
		l.t.Fatal(err)
	}
	return c
}

// check restores every point that the model has, by LSN, and some by time.
func (l *testLog) check(in *twin.Log, points []uint64) {
	l.t.Helper()
	for _, lsn := range points {
		for name, want := range l.History[lsn] {
			v, err := in.Volume(name)
			if err != nil {
				l.t.Fatal(err)
			}
			at := fmt.Sprint(lsn)
			if l.r.IntN(3) == 0 && l.Exact[lsn] && l.Skew == 0 { // else times are ambiguous
				at = l.Times[lsn].Add(time.Duration(l.r.Int64N(int64(l.Step) - 1))).Format(time.RFC3339Nano)
			}
			p, err := in.Resolve(l.t.Context(), v, at, l.Clock)
			if err != nil || p.LSN != lsn {
				l.t.Fatalf("--at %s, LSN %d of %d: %+v, %v", at, lsn, l.Point.LSN, p, err)
			}
			img := make(memory, v.SizeBytes)
			if _, err := in.Restore(l.t.Context(), p, img); err != nil {
				l.t.Fatalf("%s at %s: %v", name, at, err)
			}
			if !bytes.Equal(img, want) {
				l.t.Fatalf("%s at LSN %d of %d differs", name, lsn, l.Point.LSN)
			}
		}
	}
}

// spot is check for a run of many rounds, in each of which most points are those of the last one: a
// quarter of them, the first and the last.
func (l *testLog) spot(in *twin.Log, points []uint64) {
	l.t.Helper()
	var some []uint64
	for i, lsn := range points {
		if i == 0 || i == len(points)-1 || l.r.IntN(4) == 0 {
			some = append(some, lsn)
		}
	}
	l.check(in, some)
}

func (l *testLog) all() []uint64 { return slices.Sorted(maps.Keys(l.History)) }

// TestCatalogs: with any catalogs in between, every point is what it was.
func TestCatalogs(t *testing.T) {
	for round := range 4 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			t.Parallel()
			l := newTestLog(t, round%2 == 1)
			for i := range 8 {
				l.Random(l.r, 1+l.r.IntN(12))
				if l.r.IntN(3) == 0 {
					l.Bookmark(fmt.Sprint("b", i))
					l.Random(l.r, 3)
				}
				if l.r.IntN(2) == 0 {
					c := l.catalog()
					if again := l.catalog(); !c.New || again.New || again.Number != c.Number {
						t.Errorf("%+v, then %+v", c, again)
					}
				}
				if l.r.IntN(4) == 0 {
					l.Fence()
				}
			}
			l.catalog()
			l.Random(l.r, 5)
			in := l.open()
			v, _ := in.Volume("v")
			for _, c := range in.PointsOf(t.Context(), v).Coarse {
				for lsn := c.First.LSN; lsn < c.Last.LSN; lsn++ {
					if c.Points == 1 && l.History[lsn] != nil {
						t.Errorf("LSN %d is said to be folded", lsn)
					}
				}
			}
			if n := len(in.PointsOf(t.Context(), v).Coarse); (n > 0) != l.Folding {
				t.Errorf("%d folded ranges", n)
			}
			if in.Catalog == nil || len(in.Objects) > 8 {
				t.Fatalf("%d objects behind the catalog %v", len(in.Objects), in.Catalog)
			}
			l.check(in, l.all())
			for _, b := range in.State.Bookmarks {
				v, _ := in.Volume("v")
				if p, err := in.Resolve(t.Context(), v, b.Name, l.Clock); err != nil || p.LSN != b.LSN {
					t.Errorf("bookmark %s: %+v, %v", b.Name, p, err)
				}
			}
		})
	}
}

// TestCatalogDamaged: with the newest catalog damaged an older one is used, with all
// of them the whole log; a damaged layer is named, and points without it stay.
func TestCatalogDamaged(t *testing.T) {
	l := newTestLog(t, false)
	for range 3 {
		l.Random(l.r, 10)
		l.catalog()
	}
	l.Random(l.r, 3)
	flip := func(path string) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[12+l.r.IntN(4)] ^= 1 << l.r.IntN(8) // its checksum: a bit of the compressed form may mean nothing
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for number := uint64(2); ; number-- {
		flip(filepath.Join(l.dir, catalog.Name(number)))
		in := l.open()
		if !fail.Is(in.CatalogDamage, fail.Damaged) || !strings.Contains(in.CatalogDamage.Error(), catalog.Name(2)) {
			t.Fatalf("catalog %d damaged: %v", number, in.CatalogDamage)
		}
		if number == 0 {
			if in.Catalog != nil {
				t.Error("a damaged catalog is used")
			}
			l.check(in, l.all())
			break
		}
		if in.Catalog == nil || in.Catalog.Number != number-1 {
			t.Fatalf("catalog %d damaged: %+v", number, in.Catalog)
		}
		l.check(in, l.all())
	}
	// Nothing is made or deleted on the word of what is left.
	if _, err := Collect(t.Context(), l.Store, l.options()); !fail.Is(err, fail.Damaged) {
		t.Errorf("after damage: %v", err)
	}
	for number := range uint64(3) {
		if err := os.Remove(filepath.Join(l.dir, catalog.Name(number))); err != nil {
			t.Fatal(err)
		}
	}
	if c := l.catalog(); !c.New || c.Number != 0 {
		t.Errorf("without catalogs: %+v", c)
	}
	l.check(l.open(), l.all())
	layers, err := filepath.Glob(filepath.Join(l.dir, "map", "*", "*"))
	if err != nil || len(layers) == 0 {
		t.Fatal(err)
	}
	for _, path := range layers {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := extent.MapHeadBytes; i < len(b); i += 5 {
			b[i] ^= 1
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	in := l.open()
	v, _ := in.Volume("v")
	p, err := in.Resolve(t.Context(), v, "", l.Clock)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Restore(t.Context(), p, make(memory, v.SizeBytes)); !fail.Is(err, fail.Damaged) ||
		!strings.Contains(err.Error(), "map/") {
		t.Errorf("damaged layers: %v", err)
	}
	if p, err = in.Resolve(t.Context(), v, "3", l.Clock); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Restore(t.Context(), p, make(memory, v.SizeBytes)); err != nil {
		t.Errorf("a point before all layers: %v", err)
	}
}

// TestBookmarkHash: a catalog knows the hash of a bookmark's frame, and where one of an earlier release
// does not, the log says it all the same: who holds that point is on the log's branch.
func TestBookmarkHash(t *testing.T) {
	l := newTestLog(t, false)
	l.Frame(l.Write("v", 0, []byte{1}))
	l.Bookmark("first")
	first := l.Point
	l.Frame(l.Write("v", 0, []byte{2}))
	l.Bookmark("last")
	l.Segment()
	l.catalog()
	same := func(p change.Point) {
		t.Helper()
		hash, known, err := l.open().HashAt(t.Context(), l.Stream, p.LSN)
		if err != nil || !known || hash != p.Hash {
			t.Errorf("LSN %d: hash %s, %v, %v, want %s", p.LSN, hash, known, err, p.Hash)
		}
	}
	c := l.open().Catalog
	for _, k := range c.Streams[l.Stream].Retained {
		if k.Hash == (change.Hash{}) {
			t.Errorf("bookmark %s at LSN %d has no hash", k.Bookmark, k.LSN)
		}
	}
	same(first)
	same(l.Point)
	for i := range c.Streams[l.Stream].Retained {
		c.Streams[l.Stream].Retained[i].Hash = change.Hash{}
	}
	c.Number++
	if err := catalog.Create(t.Context(), l.Store, c); err != nil {
		t.Fatal(err)
	}
	same(first)
	same(l.Point)
}
