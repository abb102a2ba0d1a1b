package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/pollux-dr/pollux/replicator/objstore"
)

// Floor is what a bare PUT takes.
type Floor struct {
	P50     float64 `json:"p50"`
	P99     float64 `json:"p99"`
	Max     float64 `json:"max"`
	Objects int     `json:"objects"`
}

const (
	// maxFloorPuts and floorTime bound the floor's sample: p99 of a thousand is
	// as good as it needs to be.
	maxFloorPuts = 2000
	floorTime    = 20 * time.Second
	warmUpPuts   = 20
)

// floor creates objects of the given sizes, one at a time over one warm
// connection, through the client that the agent uses. No lag can be shorter: a
// write's data must at least get there.
func (s *session) floor(ctx context.Context, sizes []int64) (Floor, error) {
	st, err := s.open(ctx, s.prefix("floor"), 1)
	if err != nil {
		return Floor{}, err
	}
	defer st.Close()
	collect()
	r := random(s.o.Seed, "floor", 0)
	sample := sampleSizes(sizes, maxFloorPuts, r)
	if len(sample) == 0 {
		return Floor{}, nil
	}
	// The first ones pay for the connection and for the server's own start.
	for i := range warmUpPuts {
		if err := st.Create(ctx, fmt.Sprintf("warm/%04d", i), s.body(r, sample[i%len(sample)])); err != nil {
			return Floor{}, err
		}
	}
	var took []float64
	over := time.Now().Add(floorTime)
	for i, n := range sample {
		body := s.body(r, n)
		begin := time.Now()
		if err := st.Create(ctx, fmt.Sprintf("put/%06d", i), body); err != nil {
			return Floor{}, err
		}
		took = append(took, ms(time.Since(begin)))
		if time.Now().After(over) {
			break
		}
	}
	d := distribution(took)
	return Floor{P50: d.P50, P99: d.P99, Max: d.Max, Objects: len(took)}, nil
}

// body is content of n bytes; it repeats where n is more than the corpus has.
func (s *session) body(r *rand.Rand, n int64) []byte {
	return s.data.pick(r, int(min(n, int64(len(s.data.data)))))
}

// sampleSizes picks at most n of the sizes, each at most once, in random order.
func sampleSizes(sizes []int64, n int, r *rand.Rand) []int64 {
	out := slices.Clone(sizes)
	r.Shuffle(len(out), func(i, k int) { out[i], out[k] = out[k], out[i] })
	return out[:min(n, len(out))]
}

func (s *session) objectSizes(ctx context.Context, url, prefix string) ([]int64, error) {
	objects, err := s.objects(ctx, url, prefix)
	sizes := make([]int64, len(objects))
	for i := range objects {
		sizes[i] = objects[i].Bytes
	}
	return sizes, err
}

// objects lists a prefix of the store in the order of names.
func (s *session) objects(ctx context.Context, url, prefix string) ([]objstore.Info, error) {
	st, err := s.open(ctx, url, 2)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	var out []objstore.Info
	err = st.List(ctx, prefix, "", func(i objstore.Info) error {
		out = append(out, i)
		return nil
	})
	return out, err
}

func sizePercentiles(sizes []int64) (p50, p99 float64) {
	v := make([]float64, len(sizes))
	for i, n := range sizes {
		v[i] = float64(n)
	}
	d := distribution(v)
	return d.P50, d.P99
}
