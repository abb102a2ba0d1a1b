package agent

import (
	"context"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// frameRef is what memory keeps of a frame until the journal released it.
type frameRef struct {
	last  uint64 // LSN
	wal   uint64 // index in the agent's WAL
	time  int64  // of its first record, ns
	at    int64  // the same by clock.SinceStart: what lag is measured by
	bytes uint32 // plain
}

// appended is a frame that is in the WAL, perhaps not yet durable.
type appended struct {
	frameRef
	first uint64
	hash  change.Hash
	recs  []rec
}

// walState is what a stream has in the agent's WAL. Guarded by stream.mu.
type walState struct {
	refs      []frameRef // what trim has left there, oldest first
	undurable []appended // appended, and not synced yet

	appendedLSN   uint64 // newest one there
	appendedIndex uint64 // the WAL's index of its frame
	durableLSN    uint64 // newest one that is durable there
	appending     uint64 // no lower index is about to be used by this stream; 0: none is
	fullErr       error  // why the WAL takes no more, nil while it does

	wakeCommit, wakeSync chan struct{} // of commitLoop and syncLoop
}

// append takes a frame that was written to the WAL, and may not be durable yet.
func (w *walState) append(f appended) {
	w.undurable = append(w.undurable, f)
	w.refs = append(w.refs, f.frameRef)
	w.appending = 0
	w.appendedLSN, w.appendedIndex = f.last, f.wal
}

// appendSealed encodes the sealed frames and appends them to the WAL. Called
// with enc.mu held. When the WAL is full, what did not fit stays sealed. The
// caller sees to the sync.
func (s *stream) appendSealed() error {
	for {
		s.mu.Lock()
		if s.progress.err != nil || len(s.order.sealed) == 0 {
			err := s.progress.err
			s.mu.Unlock()
			return err
		}
		recs := s.order.sealed[0]
		lease := s.ship.lease
		s.wal.appending = s.a.wal.Last() + 1 // until refs has the frame, trim must know
		s.mu.Unlock()

		h := change.Header{
			Stream: s.conf.ID, FirstLSN: recs[0].LSN, Prev: s.enc.tail.Hash,
			FirstTime: recs[0].Time, LastTime: recs[len(recs)-1].Time,
			Epoch: lease.Epoch, Lease: lease.Number,
		}
		frame, hash := s.enc.frames.Encode(&h, s.describe(recs))
		wal, err := s.a.wal.Append(frame)
		if err != nil {
			s.mu.Lock()
			s.wal.appending = 0
			s.mu.Unlock()
			return err
		}
		s.enc.tail = change.Point{LSN: h.LastLSN, Hash: hash}

		s.mu.Lock()
		s.order.appended()
		ref := frameRef{last: h.LastLSN, wal: wal, time: h.FirstTime, at: recs[0].at, bytes: h.PlainBytes}
		s.wal.append(appended{frameRef: ref, first: h.FirstLSN, hash: hash, recs: recs})
		s.a.count.frames.Add(1)
		s.a.count.plain.Add(int64(h.PlainBytes))
		s.a.count.stored.Add(int64(len(frame)))
		s.progress.broadcast()
		s.mu.Unlock()
	}
}

// publish moves the frames that the WAL holds durably on to the applier and the
// shipper.
func (s *stream) publish() {
	durable := s.a.wal.Durable()
	w := &s.wal
	s.mu.Lock()
	n := 0
	for n < len(w.undurable) && w.undurable[n].wal <= durable {
		w.durableLSN = w.undurable[n].last
		n++
	}
	if n > 0 {
		s.apply.pending = append(s.apply.pending, w.undurable[:n]...)
		w.undurable = append(w.undurable[:0], w.undurable[n:]...)
		s.progress.broadcast()
	}
	s.mu.Unlock()
	if n > 0 {
		wake(s.apply.wake)
	}
}

// flush makes every acknowledged write durable on this host.
func (s *stream) flush(ctx context.Context) error { return s.flushTo(ctx, s.lastLSN()) }

// flushTo makes every record up to lsn durable. The caller's own goroutine does
// the work when nobody else is at it: a hand-over would cost as much as the
// encoding.
func (s *stream) flushTo(ctx context.Context, lsn uint64) error {
	for {
		s.mu.Lock()
		if s.wal.durableLSN >= lsn || s.progress.err != nil {
			err := s.progress.err
			if s.wal.durableLSN >= lsn {
				err = nil
			}
			if len(s.wal.undurable) > 0 {
				wake(s.wal.wakeSync) // this call may have appended more than it waited for
			}
			s.mu.Unlock()
			return err
		}
		if o := &s.order; len(o.open) > 0 && o.open[0].LSN <= lsn {
			o.seal()
		}
		inWAL, wal := s.wal.appendedLSN >= lsn, s.wal.appendedIndex
		s.mu.Unlock()

		if inWAL {
			if err := s.a.wal.Sync(ctx, wal); err != nil {
				wake(s.wal.wakeSync) // others may wait for it
				return s.walFailed(ctx, err)
			}
			s.publish()
			continue
		}
		if s.enc.mu.TryLock() {
			err := s.appendSealed()
			s.enc.mu.Unlock()
			if err == nil {
				continue
			}
			if !fail.Is(err, fail.Full) {
				return s.walFailed(ctx, err)
			}
		}
		wake(s.wal.wakeCommit)
		err := s.await(ctx, func() bool { return s.wal.appendedLSN >= lsn || s.wal.durableLSN >= lsn })
		if err != nil {
			return err
		}
	}
}

// commitLoop seals and appends what no flush does: full frames, and those whose
// linger is over.
func (s *stream) commitLoop(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wal.wakeCommit:
		case <-timer.C:
			s.mu.Lock()
			if time.Since(s.order.openSince) >= s.a.opts.Linger {
				s.order.seal()
			}
			s.mu.Unlock()
		}
		s.enc.mu.Lock()
		err := s.appendSealed()
		s.enc.mu.Unlock()
		wake(s.wal.wakeSync)
		s.noteFull(err)
		if fail.Is(err, fail.Full) {
			s.a.waitTrim(ctx)
			wake(s.wal.wakeCommit)
			continue
		}
		if err != nil {
			_ = s.walFailed(ctx, err)
			return
		}
		s.mu.Lock()
		if s.order.lingers = len(s.order.open) > 0; s.order.lingers {
			timer.Reset(s.a.opts.Linger - time.Since(s.order.openSince))
		}
		s.mu.Unlock()
	}
}

// noteFull records why frames cannot be appended, and that they can again.
func (s *stream) noteFull(err error) {
	if err != nil && !fail.Is(err, fail.Full) {
		return
	}
	s.mu.Lock()
	first := s.wal.fullErr == nil && err != nil
	s.wal.fullErr = err
	s.mu.Unlock()
	if first {
		s.a.opts.Logger.Error("the WAL takes no more; writers wait",
			"group", s.conf.Group, "err", err, "hint", fail.HintOf(err))
	}
}

// syncLoop makes appended frames durable when no flush does.
func (s *stream) syncLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wal.wakeSync:
		}
		s.mu.Lock()
		wal, done := s.wal.appendedIndex, len(s.wal.undurable) == 0
		s.mu.Unlock()
		if done {
			continue
		}
		if err := s.a.wal.Sync(ctx, wal); err != nil {
			if s.walFailed(ctx, err) != nil {
				return
			}
		}
		s.publish()
	}
}

// walFailed ends the stream, and the agent with it, unless ctx just ended: a
// log that failed to sync acknowledges nothing any more.
func (s *stream) walFailed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fail.Wrap(fail.Retry, "flush", "group "+s.conf.Group, ctx.Err())
	}
	s.close(err)
	s.a.fatal(err)
	return err
}
