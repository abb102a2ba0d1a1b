package catalog

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// layered is a volume of which layer i has what changed in the points of has[i].
type layered struct {
	Volume
	has []map[uint64]bool
}

// add appends a layer behind point n that stands for some of the newest ones before it.
func (v *layered) add(r *rand.Rand, n, from uint64) {
	l, has := Layer{From: from, To: n, Whole: len(v.Layers) == 0}, map[uint64]bool{n: true}
	chain := v.Chain(n)
	for _, y := range chain[:r.IntN(len(chain)+1)] {
		l.From, l.Whole = min(l.From, y.From), y.Whole
		i := slices.IndexFunc(v.Layers, func(x Layer) bool { return x.To == y.To })
		for p := range v.has[i] {
			has[p] = true
		}
	}
	v.Layers, v.has = append(v.Layers, l), append(v.has, has)
}

// merge makes one of layers i to j-1, as retention does.
func (v *layered) merge(i, j int) {
	for k := i; k < j-1; k++ {
		v.Layers[j-1].From = min(v.Layers[j-1].From, v.Layers[k].From)
		v.Layers[j-1].Whole = v.Layers[j-1].Whole || v.Layers[k].Whole
		for p := range v.has[k] {
			v.has[j-1][p] = true
		}
	}
	v.Layers, v.has = slices.Delete(v.Layers, i, j-1), slices.Delete(v.has, i, j-1)
}

// TestChain: whatever layers stand for others, and whatever retention merged, those of a
// point have all that changed before it, and nothing of what changed behind it.
func TestChain(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 0))
		v, changed := &layered{}, []uint64{}
		for n := uint64(1); n <= 40; n++ {
			if r.IntN(4) == 0 {
				continue // the volume did not change
			}
			v.add(r, n, n-1)
			changed = append(changed, n)
			if len(v.Layers) > 2 && r.IntN(5) == 0 {
				i := r.IntN(len(v.Layers) - 1)
				v.merge(i, i+2+r.IntN(min(3, len(v.Layers)-i-1)))
			}
		}
		for i := range v.Layers {
			got := map[uint64]bool{}
			for _, l := range v.Chain(v.Layers[i].To) {
				for p := range v.has[slices.IndexFunc(v.Layers, func(x Layer) bool { return x.To == l.To })] {
					got[p] = true
				}
			}
			for _, p := range changed {
				if got[p] != (p <= v.Layers[i].To) {
					t.Fatalf("seed %d: the layers of point %d have what changed at %d: %v; %+v", seed, v.Layers[i].To,
						p, got[p], v.Layers)
				}
			}
		}
	}
}
