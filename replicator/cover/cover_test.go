package cover

import (
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type run struct{ Off, Len int64 }

func settled(c *Cover, off, n int64) (runs []run) {
	c.Settle(off, n, func(off, n int64) { runs = append(runs, run{off, n}) })
	return runs
}

func TestCover(t *testing.T) {
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
			settled(c, r.Off, r.Len)
		}
		if diff := cmp.Diff(tt.want, settled(c, tt.then.Off, tt.then.Len)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// TestCoverModel: random settles against a byte map. Runs are in order, do not
// touch, and each byte is reported once.
func TestCoverModel(t *testing.T) {
	const size = 5 * Granule
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		c, seen := New(), make([]bool, size)
		for range 30 {
			off := r.Int64N(size)
			n := r.Int64N(size - off)
			if r.IntN(3) == 0 {
				off, n = off/Granule*Granule, n/Granule*Granule
			}
			last := int64(-1)
			c.Settle(off, n, func(at, k int64) {
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
		if full && len(c.partial) > 0 {
			t.Fatalf("%d masks left of a covered volume", len(c.partial))
		}
	}
}
