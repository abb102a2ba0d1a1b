package agent

import (
	"context"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// Parking is a time in which all I/O of an agent's volumes waits, reads too: what is acknowledged
// by then is in the WAL, and nothing is acknowledged until it ends.
type Parking struct {
	a     *Agent
	holds []*Hold
	over  chan struct{} // closed when it has ended
	// Points are the LSNs of the marks behind which nothing was acknowledged, by stream.
	Points map[change.StreamID]uint64
}

// Park makes all I/O wait. It ends by itself after limit, unless Keep was called before. Errors:
// fail.Retry where the writers of a group are held for something else, or a group has no recovery
// point just now.
func (a *Agent) Park(ctx context.Context, name string, limit time.Duration) (*Parking, error) {
	p := &Parking{a: a, over: make(chan struct{}), Points: map[change.StreamID]uint64{}}
	if !a.parked.CompareAndSwap(nil, p) {
		return nil, fail.New(fail.Retry, "park", "agent "+a.opts.Name, "its volumes are parked already")
	}
	for _, s := range a.snapshotStreams() {
		h, lsn, err := a.Hold(ctx, s.conf.ID, name, limit)
		if err != nil {
			p.Release()
			return nil, err
		}
		p.holds, p.Points[s.conf.ID] = append(p.holds, h), lsn
	}
	for _, h := range p.holds { // the end of one is the end of all
		a.spawn(func(ctx context.Context) {
			select {
			case <-h.Over():
				p.Release()
			case <-ctx.Done():
			}
		})
	}
	return p, nil
}

// Keep has it last until Release, and reports whether it has lasted until now. It is called once.
func (p *Parking) Keep() bool {
	for _, h := range p.holds {
		if !h.timer.Stop() { // it has ended, or is about to
			return false
		}
	}
	return true
}

// Release lets I/O go on. It returns for how long it waited. It may be called again.
func (p *Parking) Release() (held time.Duration) {
	if p.a.parked.CompareAndSwap(p, nil) {
		close(p.over)
	}
	for _, h := range p.holds {
		took, _ := h.Release()
		held = max(held, took)
	}
	return held
}

// unparked blocks a read while the volumes are parked.
func (v *Volume) unparked(ctx context.Context) error {
	p := v.s.a.parked.Load()
	if p == nil {
		return nil
	}
	select {
	case <-p.over:
		return nil
	case <-ctx.Done():
		return fail.Wrap(fail.Retry, "read", "volume "+v.conf.Name, ctx.Err())
	}
}
