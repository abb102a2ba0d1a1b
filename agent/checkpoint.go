package agent

import (
	"context"
	"sync"
	"time"
)

// checkpointLoop syncs the backings now and then, so that the WAL can be
// trimmed and a restart has little to apply again.
func (a *Agent) checkpointLoop(ctx context.Context) {
	tick := time.NewTicker(a.opts.CheckpointInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			a.spreadWriteback(ctx)
		case <-a.wakeCheckpoint:
		}
		for _, s := range a.snapshotStreams() {
			s.noteCheckpoint(s.checkpoint())
		}
		a.saveLeaving()
		a.trim()
		if a.spillAll() {
			a.trim()
		}
	}
}

// tellEvery is how often the log says what is wrong still: a full disk is tried again
// many times a second.
const tellEvery = time.Minute

// lastTold is when the log said last that something fails.
type lastTold struct{ at time.Time }

func (l *lastTold) due(now time.Time) bool {
	if !l.at.IsZero() && now.Sub(l.at) < tellEvery {
		return false
	}
	l.at = now
	return true
}

// noteCheckpoint records for the status why the last checkpoint failed, without which the
// WAL is not trimmed, or that it did not.
func (s *stream) noteCheckpoint(err error) {
	s.mu.Lock()
	s.ckpt.err = err
	s.mu.Unlock()
	if err != nil && s.ckpt.told.due(time.Now()) {
		s.a.opts.Logger.Error("checkpoint failed; it will be tried again", "group", s.conf.Group, "err", err)
	}
}

// spillAll makes room in a WAL that stays full. It reports whether there may be
// some.
func (a *Agent) spillAll() bool {
	if a.walFill() < spillFrom {
		return false
	}
	for _, s := range a.snapshotStreams() {
		if err := s.spill(time.Now()); err != nil && s.overflow.told.due(time.Now()) {
			a.opts.Logger.Error("no room can be made in the WAL; it will be tried again",
				"group", s.conf.Group, "err", err)
		}
	}
	return true
}

// checkpointState is what is known to be durable in a stream's backings. Guarded by
// stream.mu, apart from mu and told.
type checkpointState struct {
	saved checkpoint // what the file says; changed under mu and stream.mu, so either may read it
	err   error      // why the last one failed, nil where it did not

	mu   sync.Mutex // one checkpoint or mending at a time; it is held over syncs of the backings
	told lastTold   // of err in the agent's log; the checkpoint loop's own
}

// checkpoint makes what was applied durable in the backings and then says so on
// disk. The order matters: the WAL is trimmed by what this file says.
func (s *stream) checkpoint() error {
	s.ckpt.mu.Lock()
	defer s.ckpt.mu.Unlock()
	if err := s.checkBackings(); err != nil {
		return err
	}
	s.mu.Lock()
	applied, lease, now := s.apply.applied, s.ship.lease, s.order.lastTime
	committed, gone := s.ship.committed, s.evicted.lag.summary()
	last := &s.ckpt.saved
	same := applied == last.Applied && committed == last.Committed && lease == last.Lease &&
		(gone == nil) == (last.Gone == nil)
	s.apply.bytes = 0
	s.mu.Unlock()
	if same {
		return nil
	}
	if applied != last.Applied {
		if err := s.syncBackings(); err != nil {
			return err
		}
	}
	next := checkpoint{Version: metaVersion, Applied: applied, Committed: committed,
		Lease: lease, Time: now, Gone: gone}
	if err := saveMeta(s.a.opts.FS, s.a.checkpointPath(s.conf.ID), next); err != nil {
		return err
	}
	s.mu.Lock()
	s.ckpt.saved = next
	s.mu.Unlock()
	return nil
}

// trim frees the WAL below what any stream still needs: frames that are not
// applied and synced, or that the journal has not released.
func (a *Agent) trim() {
	first := a.wal.Durable() + 1
	for _, s := range a.snapshotStreams() {
		s.mu.Lock()
		done := min(s.ship.released, s.ckpt.saved.Applied.LSN)
		done = min(done, max(s.ship.durable, s.evicted.entered)) // nothing that the change map lacks
		if d := s.overflow.dropped; d != nil {
			done = max(done, d.upto.LSN) // the bitmap has it
		}
		if s.suspended != nil || s.backings.cutErr != nil {
			done = 0 // an image that is restored now will need it: see AcceptBacking
		}
		n := 0
		for n < len(s.wal.refs) && s.wal.refs[n].last <= done {
			if s.wal.refs[n].last > s.ship.durable {
				s.evicted.lag.add(&s.wal.refs[n])
			}
			n++
		}
		s.wal.refs = s.wal.refs[n:]
		if len(s.wal.refs) > 0 {
			first = min(first, s.wal.refs[0].wal)
		} else if s.wal.appending > 0 {
			first = min(first, s.wal.appending)
		}
		s.mu.Unlock()
	}
	if first <= a.wal.First() {
		return
	}
	if err := a.wal.TruncateFront(first); err != nil {
		a.opts.Logger.Error("trimming the WAL failed", "err", err)
		return
	}
	a.trimmed.Broadcast()
}
