package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	s.spillMu.Lock() // what the journal is told must not move
	defer s.spillMu.Unlock()
	if to, gap := s.gap(at); gap {
		req := change.Resync{Stream: s.conf.ID, From: at.Committed, To: to}
		if err := ses.ask(change.MsgResync, req, change.MsgAttached, at); err != nil {
			return 0, err
		}
		if at.Error == nil {
			s.a.opts.Logger.Warn("resync begins: the log has no point until it ends", "group", s.conf.Group, "after_lsn", req.From.LSN, "from_lsn", to.LSN+1)
		}
	}
	from, err := s.attach(at)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	s.ship.copies = ses.copies
	o := s.overflow
	whole := o != nil && !o.ended && !at.Unsound
	start := o != nil && !o.ended && at.Unsound && !o.copying && s.suspended == nil // else the next start with its backing
	if start {
		o.copying = true
	}
	gen := 0
	if o != nil {
		gen = o.gen
	}
	start = start && !s.resyncs
	s.resyncs = s.resyncs || start
	s.mu.Unlock()
	switch {
	case whole: // the journal had it all: only its word was lost
		err = s.endOverflow(gen)
	case start:
		s.a.spawnCall(s.resyncLoop)
	}
	return from, err
}

// gap reports whether the journal stands at a point whose successors were dropped,
// and where the stream goes on.
func (s *stream) gap(at *change.Attached) (to change.Point, gap bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.overflow
	if at.Error != nil || o == nil || at.Committed.LSN >= o.upto.LSN || !slices.Contains(o.known, at.Committed) {
		return to, false // attach says what is wrong, if anything is
	}
	return o.upto, true
}

// errAgain ends a resync that an overflow has overtaken.
var errAgain = fail.New(fail.Retry, "resync", "", "the WAL overflowed again")

// resyncLoop copies what changed, and says so, until there is nothing to do. One that
// fails is tried again; one that an overflow has overtaken begins anew when a session
// has closed the new gap.
func (s *stream) resyncLoop(ctx context.Context) {
	for wait := resyncRetry; ; {
		s.mu.Lock()
		o := s.overflow
		if o == nil || o.ended || !o.copying || ctx.Err() != nil {
			s.resyncs = false
			s.mu.Unlock()
			return
		}
		gen := o.gen
		s.mu.Unlock()
		err := s.copyChanged(ctx, gen)
		if err == nil {
			err = s.finishResync(ctx, gen)
		}
		if err == nil || errors.Is(err, errAgain) || ctx.Err() != nil {
			wait = resyncRetry
			continue
		}
		s.mu.Lock()
		o.err = err
		s.mu.Unlock()
		s.a.opts.Logger.Error("resync failed; it is tried again", "group", s.conf.Group, "err", err, "in", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		wait = min(2*wait, maxResyncRetry)
	}
}

// current returns the overflow if it is still the one of gen.
func (s *stream) current(gen int) (*overflow, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.overflow == nil || s.overflow.gen != gen {
		return nil, errAgain
	}
	return s.overflow, nil
}

func (s *stream) copyChanged(ctx context.Context, gen int) error {
	o, err := s.current(gen)
	if err != nil {
		return err
	}
	type work struct {
		v *Volume
		e []Extent
	}
	var todo []work
	total := int64(0)
	for number, m := range o.maps {
		v := s.a.numbered(number)
		if v == nil {
			continue // removed meanwhile
		}
		e, n := m.extents(v.conf.SizeBytes)
		todo, total = append(todo, work{v, e}), total+n
	}
	s.mu.Lock()
	o.copied, o.total, o.err = 0, total, nil
	s.mu.Unlock()
	for _, w := range todo {
		for _, e := range w.e {
			for off := e.Off; off < e.Off+e.Len; off += copyBytes {
				if err := s.roomToCopy(ctx, gen); err != nil {
					return err
				}
				n := min(copyBytes, e.Off+e.Len-off)
				if err := w.v.copyNow(ctx, off, int(n)); err != nil {
					return err
				}
				s.mu.Lock()
				o.copied += n
				s.mu.Unlock()
			}
		}
	}
	return nil
}

// roomToCopy waits while the WAL is filled by others.
func (s *stream) roomToCopy(ctx context.Context, gen int) error {
	for {
		if _, err := s.current(gen); err != nil || s.a.walFill() < copyBelow {
			return err
		}
		s.a.waitTrim(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// errWritten: somebody else wrote to what was being copied.
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
		return v.submitCopy(ctx, guard, []rec{{vol: v, Entry: arena.Entry{Kind: change.Trim, Volume: v.conf.Number, Off: off, Len: uint32(n)}}})
	}
	b.split(off)
	err = v.submitCopy(ctx, guard, b.recs)
	b.recycle()
	return err
}

// submitCopy submits what was read under the guard.
func (v *Volume) submitCopy(ctx context.Context, guard *guarded, recs []rec) error {
	for i := range recs {
		recs[i].copy = guard
	}
	return v.submit(ctx, recs, false, func() {})
}

// guard watches a range for writes until unguard.
func (s *stream) guard(v *Volume, off, n int64) *guarded {
	g := &guarded{vol: v, off: off, end: off + n}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.guarded = g
	return g
}

func (s *stream) unguard(g *guarded) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.guarded == g {
		s.guarded = nil
	}
}

// guarded is a range that a resync is copying.
type guarded struct {
	vol      *Volume
	off, end int64
	hit      bool // somebody else has written to it
}

// watch notes a write to what is guarded, and refuses a copy whose range was written
// to since, or is not guarded any more. Called with mu held, for all records of one
// request before any has its LSN.
func (s *stream) watch(recs []rec) error {
	if own := recs[0].copy; own != nil {
		if own != s.guarded || own.hit {
			return errWritten
		}
		return nil
	}
	if g := s.guarded; g != nil && !g.hit {
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
func (s *stream) finishResync(ctx context.Context, gen int) error {
	if err := s.flush(ctx); err != nil {
		return err
	}
	end := s.lastLSN()
	overtaken := func() bool { return s.overflow == nil || s.overflow.gen != gen }
	err := s.await(ctx, func() bool { return overtaken() || s.ship.committed.LSN >= end })
	for err == nil {
		var o *overflow
		if o, err = s.current(gen); err != nil {
			return err
		}
		s.mu.Lock()
		heard, next := s.ship.sound, s.shipped.Next()
		to := o.upto
		if s.ship.gap != (change.Point{}) { // an older journal does not tell
			to = s.ship.gap
		}
		s.mu.Unlock()
		if heard {
			break
		}
		if ses := s.a.liveSession(); ses != nil { // one that fails is replaced
			_ = ses.conn.Send(uint16(change.MsgResync), change.Encode(change.Resync{Stream: s.conf.ID, To: to, End: end}))
		}
		select {
		case <-next:
		case <-time.After(endRetry):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err != nil {
		return err
	}
	s.spillMu.Lock()
	defer s.spillMu.Unlock()
	return s.endOverflow(gen)
}

// endOverflow forgets the bitmap: the journal has all that it stood for. Status
// shows the overflow until the targets have it too, which a mark in the log tells.
// Called with spillMu held.
func (s *stream) endOverflow(gen int) error {
	o, err := s.current(gen)
	if err != nil {
		return err
	}
	if err := s.forgetOverflow(); err != nil {
		return err
	}
	s.mu.Lock()
	o.ended, o.maps = true, nil
	s.mu.Unlock()
	s.a.opts.Logger.Warn("resync ended: the log holds a point again", "group", s.conf.Group, "bytes", o.total)
	s.a.spawnCall(func(ctx context.Context) {
		lsn, err := s.a.Mark(ctx, s.conf.ID, markResync)
		s.mu.Lock()
		defer s.mu.Unlock()
		if o.mark = lsn; err != nil {
			o.mark = s.nextLSN - 1
			s.a.opts.Logger.Warn("no mark in the log", "group", s.conf.Group, "mark", markResync, "err", err)
		}
		s.settleOverflow()
	})
	return nil
}

// settleOverflow forgets an overflow that has ended once the targets hold its end.
// Called with mu held.
func (s *stream) settleOverflow() {
	if o := s.overflow; o != nil && o.ended && o.mark > 0 && s.ship.durable >= o.mark {
		s.overflow = nil
	}
}

func (a *Agent) liveSession() *session {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.live
}

// NoPoint is why a stream has no recovery point just now, nil where it has.
func (a *Agent) NoPoint(id change.StreamID) error {
	s, err := a.stream("look at", id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.overflow == nil || s.overflow.ended {
		return nil
	}
	return fail.New(fail.Refused, "use", "group "+s.conf.Group, fmt.Sprintf("it is resyncing: its log has no point after LSN %d until that has ended", s.overflow.known[0].LSN)).
		WithHint("`pollux status` shows how far it is")
}
