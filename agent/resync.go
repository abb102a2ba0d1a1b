package agent

import (
	"context"
	"errors"
	"time"

	"github.com/pollux-dr/pollux/agent/arena"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// A resync closes the gap that an overflow left. ResyncBegin tells the journal
// where the stream goes on; then what changed is logged as it is now, among the live
// writes; ResyncEnd says that the log holds a point again.

const (
	copyBytes = 256 << 10
	// copyBelow is the fill of the WAL above which a resync waits.
	copyBelow = 0.5
	// endRetry is how often ResyncEnd is said until the journal has it.
	endRetry   = 2 * time.Second
	markResync = "resync ended"
	// resyncRetry is when a resync that failed is tried again at first, and
	// maxResyncRetry at last.
	resyncRetry    = time.Second
	maxResyncRetry = 30 * time.Second
)

// enter takes the journal's word on where a stream stands into a session. Where the
// stream overflowed since, it closes the gap first. It returns the WAL index to send
// from.
func (ses *session) enter(s *stream, at *change.Attached) (uint64, error) {
	s.overflow.dropMu.Lock()
	defer s.overflow.dropMu.Unlock()
	s.mu.Lock()
	to, gap := s.overflow.gap(at)
	s.mu.Unlock()
	if gap {
		req := change.Resync{Stream: s.conf.ID, From: at.Committed, To: to}
		if err := ses.ask(change.MsgResync, req, change.MsgAttached, at); err != nil {
			return 0, err
		}
		if at.Error == nil {
			s.a.opts.Logger.Warn("resync begins: the log has no point until it ends",
				"group", s.conf.Group, "after_lsn", req.From.LSN, "from_lsn", to.LSN+1)
		}
	}
	from, err := s.attach(at)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	s.ship.copies = ses.copies
	r := &s.overflow.resync
	overflow, ended := r.overflows, !at.Unsound && r.may(pointRegained)
	copies := at.Unsound && s.suspended == nil // else the next start with its backing
	start := copies && r.on(gapAttached) && r.hire()
	s.mu.Unlock()
	switch {
	case ended: // the journal had it all: only its word was lost
		err = s.endOverflow(overflow)
	case start:
		s.a.spawnCall(s.resyncLoop)
	}
	return from, err
}

// errAgain ends the copying for an overflow that another one has overtaken, or that a
// session has ended.
var errAgain = fail.New(fail.Retry, "resync", "", "the WAL overflowed again")

// resyncLoop copies what changed, and says so, until there is nothing to do. One that
// fails is tried again; one that an overflow has overtaken begins anew when a session
// has closed the new gap.
func (s *stream) resyncLoop(ctx context.Context) {
	for wait := resyncRetry; ; {
		s.mu.Lock()
		overflow, ok := s.overflow.resync.work(ctx.Err() != nil)
		s.mu.Unlock()
		if !ok {
			return
		}
		err := s.copyChanged(ctx, overflow)
		if err == nil {
			err = s.finishResync(ctx, overflow)
		}
		if err == nil || errors.Is(err, errAgain) || ctx.Err() != nil {
			wait = resyncRetry
			continue
		}
		s.mu.Lock()
		if s.overflow.resync.onFor(overflow, resyncFailed) {
			s.overflow.dropped.err = err
		}
		s.mu.Unlock()
		s.a.opts.Logger.Error("resync failed; it is tried again", "group", s.conf.Group, "err", err, "in", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		wait = min(2*wait, maxResyncRetry)
	}
}

// resyncOf calls work, with mu held, while there is a resync of the overflow of that
// number to do.
func (s *stream) resyncOf(overflow int, work func(*droppedFrames)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.overflow.resync.overtaken(overflow) {
		return errAgain
	}
	work(s.overflow.dropped)
	return nil
}

// copyChanged logs what the bitmap has, as it is now.
func (s *stream) copyChanged(ctx context.Context, overflow int) error {
	var maps map[uint32]*dirtyMap
	if err := s.resyncOf(overflow, func(d *droppedFrames) { maps = d.maps }); err != nil {
		return err
	}
	type work struct {
		v *Volume
		e []Extent
	}
	var todo []work
	total := int64(0)
	for number, m := range maps {
		v := s.a.numbered(number)
		if v == nil {
			continue // removed meanwhile
		}
		e, n := m.extents(v.conf.SizeBytes)
		todo, total = append(todo, work{v, e}), total+n
	}
	err := s.resyncOf(overflow, func(d *droppedFrames) { d.copied, d.total, d.err = 0, total, nil })
	if err != nil {
		return err
	}
	for _, w := range todo {
		for _, e := range w.e {
			for off := e.Off; off < e.Off+e.Len; off += copyBytes {
				if err := s.roomToCopy(ctx, overflow); err != nil {
					return err
				}
				n := min(copyBytes, e.Off+e.Len-off)
				if err := w.v.copyNow(ctx, off, int(n)); err != nil {
					return err
				}
				if err := s.resyncOf(overflow, func(d *droppedFrames) { d.copied += n }); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// roomToCopy waits while the WAL is filled by others.
func (s *stream) roomToCopy(ctx context.Context, overflow int) error {
	for {
		err := s.resyncOf(overflow, func(*droppedFrames) {})
		if err != nil || s.a.walFill() < copyBelow {
			return err
		}
		s.a.waitTrim(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// errWritten refuses a copy when somebody else has written to its range meanwhile.
var errWritten = fail.New(fail.Retry, "copy", "", "written meanwhile")

// copyNow logs n bytes of the volume as they are now. It begins again where a
// client writes to them between its reading and its place in the order.
func (v *Volume) copyNow(ctx context.Context, off int64, n int) error {
	for tries := 0; ; tries++ {
		err := v.copyOnce(ctx, off, n)
		if !errors.Is(err, errWritten) {
			return err
		}
		if tries%16 == 15 {
			time.Sleep(time.Millisecond) // a very hot place
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (v *Volume) copyOnce(ctx context.Context, off int64, n int) error {
	bb, err := v.Prepare(ctx, n)
	if err != nil {
		return err
	}
	b := bb.(*buffer)
	guard := v.s.guard(v, off, int64(n))
	defer v.s.unguard(guard)
	pos, zero := off, true
	for _, p := range b.pieces {
		if err := v.ReadAt(ctx, p, pos); err != nil {
			b.Release()
			return err
		}
		zero = zero && allZero(p)
		pos += int64(len(p))
	}
	if zero {
		b.Release()
		trim := arena.Entry{Kind: change.Trim, Volume: v.conf.Number, Off: off, Len: uint32(n)}
		return v.submitCopy(ctx, guard, []rec{{vol: v, Entry: trim}})
	}
	b.split(off)
	err = v.submitCopy(ctx, guard, b.recs)
	b.recycle()
	return err
}

// submitCopy submits what was read under the guard.
func (v *Volume) submitCopy(ctx context.Context, guard *copyGuard, recs []rec) error {
	for i := range recs {
		recs[i].copy = guard
	}
	return v.submit(ctx, recs, false, func() {})
}

// guard watches a range for writes until unguard.
func (s *stream) guard(v *Volume, off, n int64) *copyGuard {
	g := &copyGuard{vol: v, off: off, end: off + n}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.overflow.copying = g
	return g
}

func (s *stream) unguard(g *copyGuard) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.overflow.copying == g {
		s.overflow.copying = nil
	}
}

// copyGuard is a range that a resync is copying.
type copyGuard struct {
	vol      *Volume
	off, end int64
	hit      bool // somebody else has written to it
}

// watch notes a write to what is being copied, and refuses a copy whose range was
// written to since, or is not guarded any more. Called with mu held, for all records of
// one request before any has its LSN.
func (o *overflowState) watch(recs []rec) error {
	if own := recs[0].copy; own != nil {
		if own != o.copying || own.hit {
			return errWritten
		}
		return nil
	}
	if g := o.copying; g != nil && !g.hit {
		for i := range recs {
			if r := &recs[i]; r.vol == g.vol && r.Off < g.end && r.Off+int64(r.Len) > g.off {
				g.hit = true
			}
		}
	}
	return nil
}

// finishResync waits until the journal has the copies, ends the resync there, and
// then keeps saying so until it has heard it.
func (s *stream) finishResync(ctx context.Context, overflow int) error {
	s.mu.Lock()
	ok := s.overflow.resync.onFor(overflow, copiesLogged)
	s.mu.Unlock()
	if !ok {
		return errAgain
	}
	if err := s.flush(ctx); err != nil {
		return err
	}
	end := s.lastLSN()
	err := s.await(ctx, func() bool {
		return s.overflow.resync.overtaken(overflow) || s.ship.committed.LSN >= end
	})
	if err != nil {
		return err
	}
	for heard := false; !heard; {
		var next <-chan struct{}
		var to change.Point
		err := s.resyncOf(overflow, func(d *droppedFrames) {
			heard, next, to = s.ship.consistent, s.ship.told.Next(), d.upto
			if s.ship.gap != (change.Point{}) { // an older journal does not tell
				to = s.ship.gap
			}
		})
		if err != nil {
			return err
		}
		if heard {
			break
		}
		if ses := s.a.liveSession(); ses != nil { // one that fails is replaced
			_ = ses.conn.Send(uint16(change.MsgResync),
				change.Encode(change.Resync{Stream: s.conf.ID, To: to, End: end}))
		}
		select {
		case <-next:
		case <-time.After(endRetry):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.overflow.dropMu.Lock()
	defer s.overflow.dropMu.Unlock()
	return s.endOverflow(overflow)
}

// endOverflow forgets the bitmap: the journal has all that it stood for. Status
// shows the overflow until the targets have it too, which a mark in the log tells.
// Called with dropMu held.
func (s *stream) endOverflow(overflow int) error {
	s.mu.Lock()
	r, d := &s.overflow.resync, s.overflow.dropped
	ok := overflow == r.overflows && r.may(pointRegained)
	s.mu.Unlock()
	if !ok {
		return errAgain
	}
	if err := s.forgetOverflow(); err != nil {
		return err
	}
	s.mu.Lock()
	r.on(pointRegained) // still possible: only holders of dropMu drop frames or end a resync
	d.maps = nil
	s.mu.Unlock()
	s.a.opts.Logger.Warn("resync ended: the log holds a point again", "group", s.conf.Group, "bytes", d.total)
	s.a.spawnCall(func(ctx context.Context) {
		lsn, err := s.a.Mark(ctx, s.conf.ID, markResync)
		s.mu.Lock()
		defer s.mu.Unlock()
		if err != nil {
			lsn = s.order.nextLSN - 1
			s.a.opts.Logger.Warn("no mark in the log", "group", s.conf.Group, "mark", markResync, "err", err)
		}
		if r.onFor(overflow, endMarked) {
			d.mark = lsn
			s.overflow.settle(s.ship.durable)
		}
	})
	return nil
}

func (a *Agent) liveSession() *session {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.live
}
