package twosites

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/pollux-dr/pollux/control/api"
)

// Lag is the distribution of the lag that an agent reported, in seconds.
type Lag struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// Watch samples a group's status during a load. The zero value of its fields but Group will do.
type Watch struct {
	Group string
	// Show, if set, is told of the group once a second.
	Show func(since time.Duration, g *api.GroupStatus)

	mu      sync.Mutex
	lags    []float64
	durable uint64
	shipped int64
}

const samplePeriod = 20 * time.Millisecond

// Run samples until ctx ends.
func (w *Watch) Run(ctx context.Context, h *Host) {
	begin, shown := time.Now(), time.Now()
	tick := time.NewTicker(samplePeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		st, err := h.Status(ctx)
		if err != nil {
			continue
		}
		i := slices.IndexFunc(st.Groups, func(g api.GroupStatus) bool { return g.Name == w.Group })
		if i < 0 {
			continue
		}
		g := &st.Groups[i]
		w.mu.Lock()
		w.lags = append(w.lags, g.LagSeconds)
		w.durable = max(w.durable, g.DurableLSN)
		for _, t := range st.Targets {
			w.shipped = max(w.shipped, t.ShippedBytes)
		}
		w.mu.Unlock()
		if now := time.Now(); w.Show != nil && now.Sub(shown) >= time.Second {
			shown = now
			w.Show(now.Sub(begin), g)
		}
	}
}

// Result is what was seen: the lag, the last LSN that was reported durable, and the bytes of all
// objects.
func (w *Watch) Result() (lag Lag, durable uint64, shipped int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.lags) == 0 {
		return Lag{}, w.durable, w.shipped
	}
	slices.Sort(w.lags)
	at := func(q float64) float64 { return w.lags[int(q*float64(len(w.lags)-1))] }
	return Lag{P50: at(0.5), P99: at(0.99), Max: at(1)}, w.durable, w.shipped
}
