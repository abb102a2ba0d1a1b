package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Policy is what a group's FLUSH promises. The zero value is AckLocal, waiting.
type Policy struct {
	Ack string `json:"ack,omitempty"` // AckLocal, AckJournal, AckRemote
	// OnLoss says what a promise that cannot be kept does: LossWait or LossDegrade.
	OnLoss string `json:"on_ack_loss,omitempty"`
	// Overflow says what a full WAL does: OverflowThrottle or OverflowBitmap.
	Overflow string `json:"overflow,omitempty"`
}

const (
	AckLocal   = "local"   // fdatasync'ed in this host's WAL
	AckJournal = "journal" // committed by a majority of MinVoters or more
	AckRemote  = "remote"  // in every remote target

	LossWait    = "wait"
	LossDegrade = "degrade"

	// MinVoters is how many voters AckJournal needs: of fewer, the loss of one host
	// can lose what was committed.
	MinVoters = 3

	// defaultDegradeAfter is how long a flush waits for a promise that LossDegrade
	// gives up then.
	defaultDegradeAfter = 5 * time.Second

	markDegraded = "ack degraded to local"
	markRestored = "ack restored"
)

// ackState is a stream's promise. Guarded by stream.mu.
type ackState struct {
	flushed  uint64 // newest LSN that a flush was answered for
	waiting  int    // flushes that wait for more than this host
	degraded time.Time
}

// promised reports whether the group's promise holds up to lsn, and whether there
// is one beyond this host. Called with mu held.
func (s *stream) promised(lsn uint64) (kept, stronger bool) {
	switch s.conf.Ack {
	case AckJournal: // before a resync's end the journal lacks what was dropped, whatever it has committed
		committed := s.ship.committed.LSN >= lsn && !s.overflow.resync.phase.open()
		return s.ship.voters >= MinVoters && committed, true
	case AckRemote:
		return s.remote() >= lsn, true
	}
	return true, false
}

// awaitAck makes everything up to lsn what the group's policy promises: durable here,
// and then what more it asks for.
func (s *stream) awaitAck(ctx context.Context, lsn uint64) error {
	if err := s.flushTo(ctx, lsn); err != nil {
		return err
	}
	s.mu.Lock()
	kept, stronger := s.promised(lsn)
	if kept || !stronger || s.givenUp() {
		s.ack.flushed = max(s.ack.flushed, lsn)
		s.mu.Unlock()
		return nil
	}
	s.ack.waiting++
	s.mu.Unlock()
	s.a.waiting.Add(1)
	defer s.a.waiting.Add(-1)
	wake(s.a.wakeUrgent)
	err := s.awaitPromise(ctx, lsn)
	s.mu.Lock()
	s.ack.waiting--
	if err == nil {
		s.ack.flushed = max(s.ack.flushed, lsn)
	}
	s.mu.Unlock()
	return err
}

// givenUp reports whether the promise is degraded just now. Called with mu held.
func (s *stream) givenUp() bool {
	return s.conf.OnLoss == LossDegrade && !s.ack.degraded.IsZero()
}

func (s *stream) awaitPromise(ctx context.Context, lsn uint64) error {
	timer := time.NewTimer(s.a.opts.DegradeAfter)
	defer timer.Stop()
	start := time.Now()
	for {
		next := s.ship.told.Next()
		s.mu.Lock()
		kept, _ := s.promised(lsn)
		given, err := s.givenUp(), s.progress.err
		s.mu.Unlock()
		if kept || given {
			return nil
		}
		if err != nil {
			return err
		}
		if time.Since(start) >= s.a.opts.DegradeAfter && s.degradeAck() { // the policy may have changed since
			continue
		}
		select {
		case <-next:
		case <-timer.C:
		case <-ctx.Done():
			return fail.Wrap(fail.Retry, "flush", "group "+s.conf.Group, ctx.Err())
		}
	}
}

// degradeAck degrades the promise, if the policy is to. It reports whether it did.
func (s *stream) degradeAck() bool {
	s.mu.Lock()
	now := s.conf.OnLoss == LossDegrade && s.ack.degraded.IsZero()
	if now {
		s.ack.degraded = time.Now()
	}
	ack := s.conf.Ack
	s.mu.Unlock()
	if !now {
		return false
	}
	s.a.opts.Logger.Error("the promise of FLUSH cannot be kept and is degraded to local",
		"group", s.conf.Group, "ack", ack, "err", s.a.shipError())
	s.ship.told.Broadcast()
	s.a.spawnCall(func(ctx context.Context) { s.note(ctx, markDegraded) })
	return true
}

// restoreAck restores a degraded promise once it holds for everything that was
// flushed. Called after each word of the journal.
func (s *stream) restoreAck() {
	s.mu.Lock()
	kept, _ := s.promised(s.ack.flushed)
	back := !s.ack.degraded.IsZero() && (kept || s.conf.OnLoss != LossDegrade)
	since := s.ack.degraded
	if back {
		s.ack.degraded = time.Time{}
	}
	s.mu.Unlock()
	if !back {
		return
	}
	s.a.opts.Logger.Warn("the promise of FLUSH is kept again", "group", s.conf.Group, "after", time.Since(since))
	s.a.spawnCall(func(ctx context.Context) { s.note(ctx, markRestored) })
}

// note puts a remark into the stream's order, so that the log itself says when a
// promise did not hold.
func (s *stream) note(ctx context.Context, text string) {
	if _, err := s.a.Mark(ctx, s.conf.ID, text); err != nil {
		s.a.opts.Logger.Warn("no mark in the log", "group", s.conf.Group, "mark", text, "err", err)
	}
}

// spawnCall runs work in the background until the agent ends.
func (a *Agent) spawnCall(work func(ctx context.Context)) {
	ctx, leave, err := a.enter(a.ctx)
	if err != nil {
		return
	}
	go func() {
		defer leave()
		work(ctx)
	}()
}

func (a *Agent) shipError() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.shipErr
}

// EffectiveAck is the promise that holds for every flush that was answered; it is weaker
// than the policy's while that is degraded, or not yet reached after a change.
type EffectiveAck struct {
	Asked    string // the policy's
	Ack      string
	Why      string // "" where it is the policy's
	Waiting  int    // flushes
	Degraded bool
}

// keptNow is the promise that holds. Called with mu held.
func (s *stream) keptNow() EffectiveAck {
	k := EffectiveAck{Ack: s.conf.Ack, Waiting: s.ack.waiting, Degraded: s.givenUp()}
	if k.Ack == "" {
		k.Ack = AckLocal
	}
	k.Asked = k.Ack
	kept, _ := s.promised(s.ack.flushed)
	few := s.conf.Ack == AckJournal && s.ship.voters < MinVoters
	if kept && !k.Degraded && !few && s.ack.waiting == 0 {
		return k
	}
	what := fmt.Sprintf("the journal has committed LSN %d of %d", s.ship.committed.LSN, s.order.nextLSN-1)
	switch {
	case s.conf.Ack == AckRemote:
		what = fmt.Sprintf("the remote targets hold LSN %d of %d", s.ship.remote, s.order.nextLSN-1)
	case few:
		what = fmt.Sprintf("the journal has %d voters, and ack: journal needs %d", s.ship.voters, MinVoters)
	}
	k.Why = what
	switch {
	case k.Degraded:
		since := s.ack.degraded.UTC().Format(time.RFC3339)
		k.Ack, k.Why = AckLocal, fmt.Sprintf("ack: %s is degraded to local since %s: %s", s.conf.Ack, since, what)
	case s.ack.waiting > 0:
		k.Why = fmt.Sprintf("%d flushes wait for ack: %s: %s", s.ack.waiting, s.conf.Ack, what)
	}
	if !kept {
		k.Ack = AckLocal // what was answered before is not there yet
	}
	return k
}
