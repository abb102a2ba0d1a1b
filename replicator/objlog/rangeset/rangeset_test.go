package rangeset

import (
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pollux-dr/pollux/internal/seed"
)

type run struct{ Off, Len int64 }

func addNew(c *Set, off, n int64) (runs []run) {
	c.AddNew(off, n, func(off, n int64) { runs = append(runs, run{off, n}) })
	return runs
}

func TestSet(t *testing.T) {
	const far = int64(1) << 50
	for _, tt := range []struct {
		name  string
		first []run
		then  run
		want  []run
	}{
		{"nothing before", nil, run{0, 10}, []run{{0, 10}}},
		{"whole Granules", nil, run{4096, 3 * 4096}, []run{{4096, 3 * 4096}}},
		{"unaligned", nil, run{100, 10000}, []run{{100, 10000}}},
		{"the same", []run{{4096, 4096}}, run{4096, 4096}, nil},
		{"the same, unaligned", []run{{5, 9000}}, run{5, 9000}, nil},
		{"around", []run{{4096, 4096}}, run{0, 3 * 4096}, []run{{0, 4096}, {8192, 4096}}},
		{"around, unaligned", []run{{4000, 200}}, run{3900, 400}, []run{{3900, 100}, {4200, 100}}},
		{"one byte", []run{{7, 1}}, run{0, 4096}, []run{{0, 7}, {8, 4088}}},
		{"pieces that fill a Granule", []run{{0, 2048}, {2048, 2048}}, run{0, 8192}, []run{{4096, 4096}}},
		{"across leaves", []run{{leafGranules * Granule, Granule}}, run{leafGranules*Granule - 10, Granule + 20},
			[]run{{leafGranules*Granule - 10, 10}, {leafGranules*Granule + Granule, 10}}},
		{"far away", []run{{far, 100}}, run{far - 50, 200}, []run{{far - 50, 50}, {far + 100, 50}}},
		{"nothing", []run{{0, 10}}, run{5, 0}, nil},
	} {
		c := New()
		for _, r := range tt.first {
			addNew(c, r.Off, r.Len)
		}
		if diff := cmp.Diff(tt.want, addNew(c, tt.then.Off, tt.then.Len)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// TestSetModel: random ranges against a byte map. Runs are in order, do not
// touch, and each byte is reported once.
func TestSetModel(t *testing.T) {
	const size = 5 * Granule
	seed := seed.New(t)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		c, seen := New(), make([]bool, size)
		for range 30 {
			off := r.Int64N(size)
			n := r.Int64N(size - off)
			switch r.IntN(4) {
			case 0:
				off, n = off/Granule*Granule, n/Granule*Granule
			case 1:
				off, n = off/Sector*Sector, n/Sector*Sector
			}
			last := int64(-1)
			c.AddNew(off, n, func(at, k int64) {
				if k <= 0 || at <= last || at < off || at+k > off+n {
					t.Fatalf("run %d+%d in %d+%d after %d", at, k, off, n, last)
				}
				for i := at; i < at+k; i++ {
					if seen[i] {
						t.Fatalf("byte %d again", i)
					}
					seen[i] = true
				}
				last = at + k
			})
			for i := off; i < off+n; i++ {
				if !seen[i] {
					t.Fatalf("byte %d of %d+%d was not reported", i, off, n)
				}
			}
		}
		full := true
		for _, s := range seen {
			full = full && s
		}
		if l := c.leaves[0]; full && len(l.part) > 0 {
			t.Fatalf("%d masks left of a covered volume", len(l.part))
		}
	}
}

// TestCoverLarge: a discard of a whole device costs next to nothing, again and again,
// and what was in it before is not reported.
func TestCoverLarge(t *testing.T) {
	c := New()
	addNew(c, 5*leafBytes+100, 10)
	addNew(c, 7*leafBytes, leafBytes)
	want := []run{{0, 5*leafBytes + 100}, {5*leafBytes + 110, 2*leafBytes - 110},
		{8 * leafBytes, (1 << 44) - 8*leafBytes}}
	if diff := cmp.Diff(want, addNew(c, 0, 1<<44)); diff != "" { // 16 TiB
		t.Error(diff)
	}
	for range 20 {
		if again := addNew(c, 4096, 1<<44-8192); again != nil {
			t.Fatalf("again %v", again)
		}
	}
	for _, l := range c.leaves {
		if !l.whole() || l.bits != nil || l.part != nil {
			t.Fatal("a leaf that is whole keeps memory")
		}
	}
	const end = int64(1) << 62
	if diff := cmp.Diff([]run{{end - 10, 10}}, addNew(c, end-10, 10)); diff != "" {
		t.Error(diff)
	}
}
