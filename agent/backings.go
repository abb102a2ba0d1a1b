package agent

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/pollux-dr/pollux/agent/backing"
	"github.com/pollux-dr/pollux/internal/fail"
)

// A sync of a backing that failed says that some of what was written since the last
// one may be lost, and the next one will not say it again: the kernel takes the pages
// for clean, and may drop them. So from then on nothing that the backings were given
// since the last checkpoint counts. The checkpoint stays, the WAL keeps all that came
// after it, reads of the backings wait, and the applier writes it to them anew, syncs
// them, and reads it back, until that succeeds.

// backingsState is what is wrong with a stream's backings. The errors are guarded by
// stream.mu.
type backingsState struct {
	cutErr   error       // one was cut under us
	syncErr  error       // a sync of one failed, and mend has not succeeded yet
	unsynced atomic.Bool // syncErr is set

	// mu is held for reading by reads of the backings, and for writing to let those end
	// that were under way when a sync failed.
	mu sync.RWMutex
}

// checkBackings looks for backings that were cut while they are served. The WAL
// keeps what was written since the last checkpoint.
func (s *stream) checkBackings() error {
	s.mu.Lock()
	err := s.backings.cutErr // a file that is long again holds zeros in the middle
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
		s.backings.cutErr = err
		s.progress.broadcast()
		s.mu.Unlock()
	}
	return err
}

// syncBackings makes durable what was applied. Called with ckpt.mu held.
func (s *stream) syncBackings() error {
	s.mu.Lock()
	err := s.backings.syncErr
	s.mu.Unlock()
	if err != nil {
		return err
	}
	for _, v := range s.a.volumesOf(s) {
		if err := v.back.Sync(); err != nil {
			return s.syncFailed(v, err)
		}
	}
	return nil
}

// SyncBacking makes durable what a backing was given, by whomever: for a backing that is
// written to by others beside the agent. When it fails, the agent writes again what it had
// written, as after a checkpoint that failed. Errors: fail.Retry where no volume has the
// backing, or its group is suspended.
func (a *Agent) SyncBacking(b backing.Backing) error {
	var v *Volume
	a.mu.Lock()
	for _, o := range a.volumes {
		if o.back == b {
			v = o
		}
	}
	a.mu.Unlock()
	if v == nil {
		return fail.New(fail.Retry, "sync", "backing", "no volume has it now")
	}
	s := v.s
	if s.suspended != nil {
		return fail.New(fail.Retry, "sync backing of", v.conf.Name, "its group is suspended: "+s.suspended.Error())
	}
	s.ckpt.mu.Lock()
	defer s.ckpt.mu.Unlock()
	s.mu.Lock()
	err := s.backings.syncErr
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if err := b.Sync(); err != nil {
		return s.syncFailed(v, err)
	}
	return nil
}

// syncFailed makes reads wait until the applier has mended the backings.
func (s *stream) syncFailed(v *Volume, err error) error {
	e := &fail.Error{Kind: fail.KindOf(err), Op: "make durable what was applied to", Object: v.conf.Name, Err: err}
	err = e.WithHint("writes collect in the WAL, and reads of the backing wait; " +
		"both go on by themselves when its disk has room and works")
	s.mu.Lock()
	s.backings.syncErr = err
	s.backings.unsynced.Store(true)
	s.mu.Unlock()
	s.a.opts.Logger.Error("the group is suspended: what its backings got since the last checkpoint is written again",
		"group", s.conf.Group, "err", err)
	wake(s.apply.wake)
	return err
}

// rlockBackings takes backings.mu for reading once the backings hold all that was applied.
func (s *stream) rlockBackings(ctx context.Context) error {
	for {
		if !s.backings.unsynced.Load() {
			s.backings.mu.RLock()
			if !s.backings.unsynced.Load() {
				return nil
			}
			s.backings.mu.RUnlock()
		}
		b := &s.backings
		if err := s.await(ctx, func() bool { return b.syncErr == nil || b.cutErr != nil }); err != nil {
			return err
		}
		s.mu.Lock()
		err := s.backings.cutErr
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
}
