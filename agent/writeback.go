package agent

import (
	"context"
	"time"
)

const (
	// easeTime is how long the writing out before a checkpoint is spread, and
	// easeSteps over how many pieces. All at once, it would hold up every
	// fdatasync of WAL and journal for as long as the disk takes for it.
	easeTime  = time.Second
	easeSteps = 128
)

// spreadWriteback writes out bit by bit what the next checkpoint will sync, unless somebody
// waits for that one: then it stops at once.
func (a *Agent) spreadWriteback(ctx context.Context) {
	var dirty []*Volume
	for _, s := range a.snapshotStreams() {
		if s.dirty() {
			dirty = append(dirty, a.volumesOf(s)...)
		}
	}
	tick := time.NewTicker(easeTime / easeSteps)
	defer tick.Stop()
	steps := int64(max(1, easeSteps/max(1, len(dirty))))
	for _, v := range dirty {
		step := max(v.conf.SizeBytes/steps, 1<<20)
		for off := int64(0); off < v.conf.SizeBytes; off += step {
			v.back.StartSync(off, min(step, v.conf.SizeBytes-off))
			select {
			case <-ctx.Done():
				return
			case <-a.wakeCheckpoint:
				return
			case <-tick.C:
			}
		}
	}
}

// dirty reports whether anything was applied since the last checkpoint.
func (s *stream) dirty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.apply.applied != s.ckpt.saved.Applied
}
