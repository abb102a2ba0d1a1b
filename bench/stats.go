package bench

import (
	"math"
	"slices"
)

// Dist is a distribution in milliseconds.
type Dist struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// distribution sorts its argument.
func distribution(ms []float64) Dist {
	slices.Sort(ms)
	return Dist{P50: percentile(ms, 50), P99: percentile(ms, 99), Max: percentile(ms, 100)}
}

// percentile of sorted values by nearest rank: a value that was really seen. It
// is 0 for none.
func percentile(sorted []float64, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	k := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(k, 1), len(sorted))-1]
}

// median of values in any order; of an even number, the mean of the middle two.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Clone(values)
	slices.Sort(s)
	n := len(s)
	if n%2 == 1 {
		return s[n/2]
	}
	return (s[n/2-1] + s[n/2]) / 2
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// column is one field of every round.
func column[T any](rounds []T, field func(*T) float64) []float64 {
	out := make([]float64, len(rounds))
	for i := range rounds {
		out[i] = field(&rounds[i])
	}
	return out
}
