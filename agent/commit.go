package agent

import (
	"context"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// appendSealed encodes the sealed frames and appends them to the WAL. Called
// with encMu held. When the WAL is full, what did not fit stays sealed. The
// caller sees to the sync.
func (s *stream) appendSealed() error {
	for {
		s.mu.Lock()
		if s.err != nil || len(s.sealed) == 0 {
			err := s.err
			s.mu.Unlock()
			return err
		}
		recs := s.sealed[0]
		lease := s.ship.lease
		s.appending = s.a.wal.Last() + 1 // until refs has the frame, trim must know
		s.mu.Unlock()

		h := change.Header{
			Stream: s.conf.ID, FirstLSN: recs[0].LSN, Prev: s.tail.Hash,
			FirstTime: recs[0].Time, LastTime: recs[len(recs)-1].Time,
			Epoch: lease.Epoch, Lease: lease.Number,
		}
		frame, hash := s.enc.Encode(&h, s.changes(recs))
		wal, err := s.a.wal.Append(frame)
		if err != nil {
			s.mu.Lock()
			s.appending = 0
			s.mu.Unlock()
			return err
		}
		s.tail = change.Point{LSN: h.LastLSN, Hash: hash}

		s.mu.Lock()
		s.sealed[0] = nil
		s.sealed = s.sealed[1:]
		f := appended{frameRef: frameRef{last: h.LastLSN, wal: wal, time: h.FirstTime, at: recs[0].at, bytes: h.PlainBytes},
			first: h.FirstLSN, hash: hash, recs: recs}
		s.inWAL = append(s.inWAL, f)
		s.refs = append(s.refs, f.frameRef)
		s.appending = 0
		s.appendedLSN, s.appendedWAL = f.last, wal
		s.a.count.frames.Add(1)
		s.a.count.plain.Add(int64(h.PlainBytes))
		s.a.count.stored.Add(int64(len(frame)))
		s.broadcast()
		s.mu.Unlock()
	}
}

// changes describes recs to the encoder. Called with encMu held.
func (s *stream) changes(recs []rec) []change.Change {
	s.chg, s.parts = s.chg[:0], s.parts[:0]
	for i := range recs {
		r := &recs[i]
		from := len(s.parts)
		s.parts = s.a.mem.Pieces(s.parts, r.Buf)
		s.chg = append(s.chg, change.Change{Kind: r.Kind, Volume: r.Volume, Off: r.Off, Len: r.Len,
			Data: s.parts[from:len(s.parts):len(s.parts)]})
	}
	return s.chg
}

// publish moves the frames that the WAL holds durably on to the applier and the
// shipper.
func (s *stream) publish() {
	durable := s.a.wal.Durable()
	s.mu.Lock()
	n := 0
	for n < len(s.inWAL) && s.inWAL[n].wal <= durable {
		s.durableLSN = s.inWAL[n].last
		n++
	}
	if n > 0 {
		s.toApply = append(s.toApply, s.inWAL[:n]...)
		s.inWAL = append(s.inWAL[:0], s.inWAL[n:]...)
		s.broadcast()
	}
	s.mu.Unlock()
	if n > 0 {
		wake(s.wakeApply)
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
		case <-s.wakeCommit:
		case <-timer.C:
			s.mu.Lock()
			if time.Since(s.openSince) >= s.a.opts.Linger {
				s.seal()
			}
			s.mu.Unlock()
		}
		s.encMu.Lock()
		err := s.appendSealed()
		s.encMu.Unlock()
		wake(s.wakeSync)
		s.noteFull(err)
		if fail.Is(err, fail.Full) {
			s.a.waitTrim(ctx)
			wake(s.wakeCommit)
			continue
		}
		if err != nil {
			_ = s.walFailed(ctx, err)
			return
		}
		s.mu.Lock()
		if s.lingers = len(s.open) > 0; s.lingers {
			timer.Reset(s.a.opts.Linger - time.Since(s.openSince))
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
	first := s.fullErr == nil && err != nil
	s.fullErr = err
	s.mu.Unlock()
	if first {
		s.a.opts.Logger.Error("the WAL takes no more; writers wait", "group", s.conf.Group, "err", err, "hint", fail.HintOf(err))
	}
}

// syncLoop makes appended frames durable when no flush does.
func (s *stream) syncLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wakeSync:
		}
		s.mu.Lock()
		wal, done := s.appendedWAL, len(s.inWAL) == 0
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

// sealForRoom is called when writers wait for memory.
func (s *stream) sealForRoom() {
	s.mu.Lock()
	s.seal()
	s.mu.Unlock()
	wake(s.wakeCommit)
	wake(s.wakeRoom)
}
