package agent

import (
	"context"
	"time"
)

const (
	// Each append costs the journal an fdatasync. Frames that come faster than
	// busyGap (a client that flushes every write) would make it compete with the
	// WAL's for the disk, so they wait for each other up to paceTime.
	busyGap  = 500 * time.Microsecond
	paceTime = 10 * time.Millisecond
)

// urgent reports whether a flush waits for the journal's word.
func (a *Agent) urgent() bool { return a.waiting.Load() > 0 }

// pacer decides how long frames wait for each other.
type pacer struct {
	last, lastSent time.Time
	gap            time.Duration // smoothed time between frames
}

func (p *pacer) frame() {
	now := time.Now()
	p.gap += (min(now.Sub(p.last), 10*busyGap) - p.gap) / 16
	p.last = now
}

func (p *pacer) sent() { p.lastSent = time.Now() }

// wait reports whether it waited, and more frames may be there. It does not wait
// while somebody else waits for the journal.
func (p *pacer) wait(ctx context.Context, a *Agent) bool {
	left := paceTime - time.Since(p.lastSent)
	if p.gap >= busyGap || left <= 0 || a.urgent() {
		return false
	}
	select {
	case <-time.After(left):
	case <-a.wakeUrgent:
	case <-ctx.Done():
	}
	return true
}
