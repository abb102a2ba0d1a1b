package agent

import (
	"context"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

const (
	// throttleFrom is the fill of the WAL at which writers are slowed.
	throttleFrom = 0.80
	// throttleMax is the delay of one write just before the WAL is full.
	throttleMax = 20 * time.Millisecond
)

// walFill is how much of the WAL's budget is used, 0 to 1.
func (a *Agent) walFill() float64 {
	st := a.wal.Stats()
	if st.BudgetBytes <= 0 {
		return 0
	}
	return float64(st.LiveBytes) / float64(st.BudgetBytes)
}

// admit slows a writer while the WAL runs full, so that writers feel a brake
// before the wall; at the wall they wait for memory, without limit.
func (s *stream) admit(ctx context.Context) error {
	if !s.a.slow.Load() {
		return nil
	}
	over := (s.a.walFill() - throttleFrom) / (1 - throttleFrom)
	if over <= 0 {
		return nil
	}
	select {
	case <-time.After(time.Duration(min(over, 1) * float64(throttleMax))):
		return nil
	case <-ctx.Done():
		return fail.Wrap(fail.Retry, "write", "group "+s.conf.Group, ctx.Err())
	}
}

// watchFill keeps the flag that admit looks at, so that the write path does not
// ask the WAL each time. It also trims, because acknowledgements come between
// checkpoints.
func (a *Agent) watchFill(ctx context.Context) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		fill := a.walFill()
		a.slow.Store(fill > throttleFrom)
		if fill > 0.5 {
			wake(a.wakeCheckpoint)
		} else if a.wal.Stats().LiveBytes > a.opts.WALSegmentBytes {
			a.trim() // segments that come back early need not be made
		}
	}
}
