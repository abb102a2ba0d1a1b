package agent

import (
	"context"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
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
	s.ckptErr = err
	s.mu.Unlock()
	if err != nil && s.ckptTold.due(time.Now()) {
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
		if err := s.spill(time.Now()); err != nil && s.spillTold.due(time.Now()) {
			a.opts.Logger.Error("no room can be made in the WAL; it will be tried again", "group", s.conf.Group, "err", err)
		}
	}
	return true
}

// checkpoint makes what was applied durable in the backings and then says so on
// disk. The order matters: the WAL is trimmed by what this file says.
func (s *stream) checkpoint() error {
	s.ckptMu.Lock()
	defer s.ckptMu.Unlock()
	if err := s.checkBackings(); err != nil {
		return err
	}
	s.mu.Lock()
	applied, lease, now := s.appliedPoint, s.ship.lease, s.lastTime
	committed, gone := s.ship.committed, s.evictedLag.summary()
	same := applied == s.ckpt.Applied && committed == s.ckpt.Committed && lease == s.ckpt.Lease && (gone == nil) == (s.ckpt.Gone == nil)
	s.appliedBytes = 0
	s.mu.Unlock()
	if same {
		return nil
	}
	if applied != s.ckpt.Applied {
		if err := s.syncBackings(); err != nil {
			return err
		}
	}
	next := checkpoint{Version: metaVersion, Applied: applied, Committed: committed, Lease: lease, Time: now, Gone: gone}
	if err := saveMeta(s.a.opts.FS, s.a.checkpointPath(s.conf.ID), next); err != nil {
		return err
	}
	s.mu.Lock()
	s.ckpt = next
	s.mu.Unlock()
	return nil
}

// checkBackings looks for backings that were cut while they are served. The WAL
// keeps what was written since the last checkpoint.
func (s *stream) checkBackings() error {
	s.mu.Lock()
	err := s.backErr // a file that is long again holds zeros in the middle
	s.mu.Unlock()
	if err != nil {
		return err
	}
	for _, v := range s.a.volumesOf(s) {
		if err = v.back.Whole(); err != nil {
			err = fail.At("check backing of", v.conf.Name, err)
			break
		}
	}
	if err != nil {
		s.mu.Lock()
		s.backErr = err
		s.broadcast()
		s.mu.Unlock()
	}
	return err
}

// trim frees the WAL below what any stream still needs: frames that are not
// applied and synced, or that the journal has not released.
func (a *Agent) trim() {
	first := a.wal.Durable() + 1
	roomy := a.roomy() // keep what the targets lack, for the change map's sake
	for _, s := range a.snapshotStreams() {
		s.mu.Lock()
		done := min(s.ship.released, s.ckpt.Applied.LSN)
		if roomy {
			done = min(done, s.ship.durable)
		}
		if d := s.overflow.dropped; d != nil {
			done = max(done, d.upto.LSN) // the bitmap has it
		}
		if s.suspended != nil || s.backErr != nil {
			done = 0 // an image that is restored now will need it: see AcceptBacking
		}
		n := 0
		for n < len(s.refs) && s.refs[n].last <= done {
			if s.refs[n].last > s.ship.durable {
				s.evictedLag.add(&s.refs[n])
			}
			n++
		}
		s.refs = s.refs[n:]
		if len(s.refs) > 0 {
			first = min(first, s.refs[0].wal)
		} else if s.appending > 0 {
			first = min(first, s.appending)
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

// acked takes the journal's word for what it no longer needs.
func (s *stream) acked(ack *change.Ack) {
	s.mu.Lock()
	if ack.Committed.LSN >= s.ship.committed.LSN { // else it is older than what Attached said
		if s.ship.committed != ack.Committed {
			s.ship.moved = time.Now()
		}
		s.ship.committed, s.ship.consistent = ack.Committed, !ack.Unsound
	}
	s.ship.voters = ack.Voters
	afterAll := s.overflow.afterAll(&s.ship)
	s.ship.released = max(s.ship.released, ack.Released)
	s.ship.durable = max(s.ship.durable, ack.Durable)
	s.evictedLag.drop(s.ship.durable)
	s.overflow.settle(s.ship.durable)
	s.broadcast()
	s.mu.Unlock()
	s.shipped.Broadcast()
	s.restoreAck()
	if afterAll {
		s.a.mu.Lock()
		s.a.restartSessions()
		s.a.mu.Unlock()
	}
}
