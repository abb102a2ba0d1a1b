package agent

import (
	"time"

	"github.com/pollux-dr/pollux/agent/arena"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
)

// rec is an acknowledged write on its way through the stages.
type rec struct {
	arena.Entry
	slot arena.SlotID
	vol  *Volume    // nil for marks
	copy *copyGuard // of what a resync read; nil: a client's
	at   int64      // when it was acknowledged, by clock.SinceStart
}

// orderState is where records get their LSNs, and the frames that they wait in before
// those go into the WAL. Guarded by stream.mu.
type orderState struct {
	nextLSN   uint64
	lastTime  int64 // of the newest record, ns; later ones are not earlier
	hold      *Hold // writers wait; nil: they do not
	open      []rec
	openBytes int
	openSince time.Time // when the open frame got its first record
	lingers   bool      // commitLoop will look at the open frame by itself
	sealed    [][]rec   // frames that are complete, oldest first
	spare     [][]rec   // emptied frames for reuse
}

// seal ends the open frame.
func (o *orderState) seal() {
	if len(o.open) == 0 {
		return
	}
	o.sealed = append(o.sealed, o.open)
	o.open = nil
	if n := len(o.spare); n > 0 {
		o.open, o.spare = o.spare[n-1], o.spare[:n-1]
	}
	o.openBytes = 0
}

// appended takes the oldest sealed frame away: the WAL has it.
func (o *orderState) appended() {
	o.sealed[0] = nil
	o.sealed = o.sealed[1:]
}

// reuse keeps a few frames whose records the backings have, for those to come.
func (o *orderState) reuse(recs []rec) {
	if len(o.spare) < 8 && cap(recs) <= 2*sealRecords {
		clear(recs)
		o.spare = append(o.spare, recs[:0])
	}
}

// bytes counts the payloads that are not in the WAL yet.
func (o *orderState) bytes() int64 {
	n := int64(o.openBytes)
	for _, batch := range o.sealed {
		for i := range batch {
			n += int64(batch[i].Buf.Len)
		}
	}
	return n
}

// oldest returns when the oldest record that is not in the WAL yet was acknowledged.
func (o *orderState) oldest() (at int64, ok bool) {
	switch {
	case len(o.sealed) > 0:
		return o.sealed[0][0].at, true
	case len(o.open) > 0:
		return o.open[0].at, true
	}
	return 0, false
}

// submit acknowledges recs, whose payloads are complete: they get consecutive
// LSNs, and from here on they outlive the process. It returns the last LSN.
func (s *stream) submit(recs []rec) (uint64, error) {
	now, at := s.a.opts.Now().UnixNano(), clock.SinceStart()
	o := &s.order
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refuses(recs); err != nil {
		return 0, err
	}
	now = max(now, o.lastTime)
	o.lastTime = now
	for i := range recs {
		r := &recs[i]
		r.LSN, r.Stream, r.Time, r.at = o.nextLSN, s.conf.Number, now, at
		s.a.mem.Commit(r.slot, &r.Entry)
		o.nextLSN++
		s.enqueue(r)
	}
	return o.nextLSN - 1, nil
}

// refuses is why recs get no LSNs, nil where they may have some. Called with mu held,
// once for all records of a request.
func (s *stream) refuses(recs []rec) error {
	if s.progress.err != nil {
		return s.progress.err
	}
	if s.suspended != nil {
		return fail.At("write", "group "+s.conf.Group, s.suspended)
	}
	if v := recs[0].vol; v != nil && v.removed {
		return fail.New(fail.NotFound, "write", v.conf.Name, "the volume was removed")
	}
	if s.order.hold != nil && recs[0].Kind != change.Mark {
		return errHeld
	}
	return s.overflow.watch(recs)
}

// enqueue puts a committed record into the open frame and the overlay. Called
// with mu held.
func (s *stream) enqueue(r *rec) {
	o := &s.order
	if len(o.open) > 0 && (o.openBytes+r.Buf.Len > sealBytes || len(o.open) >= sealRecords) {
		o.seal()
		wake(s.wal.wakeCommit)
	}
	if len(o.open) == 0 {
		o.openSince = time.Now()
		if !o.lingers {
			o.lingers = true
			wake(s.wal.wakeCommit) // starts the linger
		}
	}
	o.open = append(o.open, *r)
	o.openBytes += r.Buf.Len
	if r.vol != nil {
		r.vol.overlay.Insert(r.LSN, r.Off, int64(r.Len), r.Buf)
	}
}

// sealForRoom is called when writers wait for memory.
func (s *stream) sealForRoom() {
	s.mu.Lock()
	s.order.seal()
	s.mu.Unlock()
	wake(s.wal.wakeCommit)
	wake(s.apply.wakeRoom)
}

func (s *stream) lastLSN() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.order.nextLSN - 1
}
