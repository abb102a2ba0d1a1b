package agent

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pollux-dr/pollux/agent/arena"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/notify"
)

// rec is an acknowledged write on its way through the stages.
type rec struct {
	arena.Entry
	slot arena.SlotID
	vol  *Volume    // nil for marks
	copy *copyGuard // of what a resync read; nil: a client's
	at   int64      // when it was acknowledged, by clock.SinceStart
}

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

// stream is this agent's part of one consistency group: one order of writes.
//
// A record passes: open frame -> sealed -> appended (in the WAL) -> durable ->
// applied. mu guards all of it and is held briefly; encMu is held while frames
// are encoded and appended, so that their order in the WAL is theirs.
type stream struct {
	a    *Agent
	conf StreamConf
	// suspended is why nothing of this group is served or applied in this run: a
	// backing could not be opened. Set before the agent starts.
	suspended error

	mu        sync.Mutex
	initial   *InitialSync // while one of its volumes has one
	nextLSN   uint64
	lastTime  int64
	open      []rec
	openBytes int
	openSince time.Time // when the open frame got its first record
	lingers   bool      // commitLoop will look at the open frame by itself
	sealed    [][]rec
	inWAL     []appended // appended, not durable yet
	toApply   []appended // durable, not applied yet
	refs      []frameRef // in the WAL and not yet released by the journal
	spare     [][]rec    // emptied batches for reuse

	appendedLSN, durableLSN, appliedLSN uint64
	appendedWAL                         uint64
	appliedPoint                        change.Point
	appliedBytes                        int64 // since the last checkpoint
	progress                            chan struct{}
	waiters                             int
	shipped                             notify.Notifier // after the journal's word
	err                                 error           // the log is poisoned or the agent closed
	backErr                             error           // a backing was cut under us
	syncErr                             error           // a sync of a backing failed: see mend
	applyErr                            error           // why applying is delayed, nil while it goes well
	ckptErr                             error           // the last checkpoint failed
	fullErr                             error           // why the WAL takes no more, nil while it does

	encMu sync.Mutex
	enc   change.Encoder
	tail  change.Point // the newest frame in the WAL
	chg   []change.Change
	parts [][]byte

	wakeCommit, wakeSync, wakeApply, wakeRoom chan struct{}

	appending uint64 // no lower WAL index is about to be used by this stream; 0: none is

	hold     *Hold // writers wait; nil: they do not
	overflow overflowState
	spilled  *spilledChanges

	unsynced atomic.Bool  // syncErr is set
	backMu   sync.RWMutex // held for reading by reads of the backings

	ship                shipState
	ack                 ackState
	evictedLag          lagMarks // of frames that left the WAL before the targets had them
	ckptTold, spillTold lastTold // of the checkpoint loop

	ckptMu sync.Mutex // one checkpoint at a time
	ckpt   checkpoint // what is on disk
}

func newStream(a *Agent, conf StreamConf) *stream {
	s := &stream{a: a, conf: conf, progress: make(chan struct{}), nextLSN: 1,
		wakeCommit: make(chan struct{}, 1), wakeSync: make(chan struct{}, 1), wakeApply: make(chan struct{}, 1), wakeRoom: make(chan struct{}, 1)}
	s.enc.Codec = a.opts.codec()
	return s
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// submit acknowledges recs, whose payloads are complete: they get consecutive
// LSNs, and from here on they outlive the process. It returns the last LSN.
func (s *stream) submit(recs []rec) (uint64, error) {
	now, at := s.a.opts.Now().UnixNano(), clock.SinceStart()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	if s.suspended != nil {
		return 0, fail.At("write", "group "+s.conf.Group, s.suspended)
	}
	if v := recs[0].vol; v != nil && v.removed {
		return 0, fail.New(fail.NotFound, "write", v.conf.Name, "the volume was removed")
	}
	if s.hold != nil && recs[0].Kind != change.Mark {
		return 0, errHeld
	}
	if err := s.overflow.watch(recs); err != nil {
		return 0, err
	}
	now = max(now, s.lastTime)
	s.lastTime = now
	for i := range recs {
		r := &recs[i]
		r.LSN, r.Stream, r.Time, r.at = s.nextLSN, s.conf.Number, now, at
		s.a.mem.Commit(r.slot, &r.Entry)
		s.nextLSN++
		s.enqueue(r)
	}
	return s.nextLSN - 1, nil
}

// enqueue puts a committed record into the open frame and the overlay. Called
// with mu held.
func (s *stream) enqueue(r *rec) {
	if len(s.open) > 0 && (s.openBytes+r.Buf.Len > sealBytes || len(s.open) >= sealRecords) {
		s.seal()
		wake(s.wakeCommit)
	}
	if len(s.open) == 0 {
		s.openSince = time.Now()
		if !s.lingers {
			s.lingers = true
			wake(s.wakeCommit) // starts the linger
		}
	}
	s.open = append(s.open, *r)
	s.openBytes += r.Buf.Len
	if r.vol != nil {
		r.vol.overlay.Insert(r.LSN, r.Off, int64(r.Len), r.Buf)
	}
}

// seal ends the open frame. Called with mu held.
func (s *stream) seal() {
	if len(s.open) == 0 {
		return
	}
	s.sealed = append(s.sealed, s.open)
	s.open = nil
	if n := len(s.spare); n > 0 {
		s.open, s.spare = s.spare[n-1], s.spare[:n-1]
	}
	s.openBytes = 0
}

// broadcast wakes everyone who waits for progress. Called with mu held.
func (s *stream) broadcast() {
	if s.waiters > 0 {
		close(s.progress)
		s.progress = make(chan struct{})
	}
}

// await blocks until done (called with mu held) says so, the stream fails, or
// ctx ends.
func (s *stream) await(ctx context.Context, done func() bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !done() {
		if s.err != nil {
			return s.err
		}
		c := s.progress
		s.waiters++
		s.mu.Unlock()
		var err error
		select {
		case <-c:
		case <-ctx.Done():
			err = fail.Wrap(fail.Retry, "wait for", "group "+s.conf.Group, ctx.Err())
		}
		s.mu.Lock()
		s.waiters--
		if err != nil {
			return err
		}
	}
	return nil
}

// flush makes every acknowledged write durable on this host.
func (s *stream) flush(ctx context.Context) error { return s.flushTo(ctx, s.lastLSN()) }

func (s *stream) lastLSN() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nextLSN - 1
}

// flushTo makes every record up to lsn durable. The caller's own goroutine does
// the work when nobody else is at it: a hand-over would cost as much as the
// encoding.
func (s *stream) flushTo(ctx context.Context, lsn uint64) error {
	for {
		s.mu.Lock()
		if s.durableLSN >= lsn || s.err != nil {
			err := s.err
			if s.durableLSN >= lsn {
				err = nil
			}
			if len(s.inWAL) > 0 {
				wake(s.wakeSync) // this call may have appended more than it waited for
			}
			s.mu.Unlock()
			return err
		}
		if len(s.open) > 0 && s.open[0].LSN <= lsn {
			s.seal()
		}
		inWAL, wal := s.appendedLSN >= lsn, s.appendedWAL
		s.mu.Unlock()

		if inWAL {
			if err := s.a.wal.Sync(ctx, wal); err != nil {
				wake(s.wakeSync) // others may wait for it
				return s.walFailed(ctx, err)
			}
			s.publish()
			continue
		}
		if s.encMu.TryLock() {
			err := s.appendSealed()
			s.encMu.Unlock()
			if err == nil {
				continue
			}
			if !fail.Is(err, fail.Full) {
				return s.walFailed(ctx, err)
			}
		}
		wake(s.wakeCommit)
		err := s.await(ctx, func() bool { return s.appendedLSN >= lsn || s.durableLSN >= lsn })
		if err != nil {
			return err
		}
	}
}

func (s *stream) paused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conf.Paused
}

// close makes every later call fail with err.
func (s *stream) close(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	s.waiters++ // closes the channel even when nobody waits yet
	s.broadcast()
	s.waiters--
	s.mu.Unlock()
	s.shipped.Broadcast()
}

// oldest returns when the oldest record after lsn was acknowledged. Called with mu
// held.
func (s *stream) oldest(lsn uint64) (at int64, ok bool) {
	for i := range s.evictedLag {
		if s.evictedLag[i].Last > lsn {
			return s.evictedLag[i].at, true
		}
	}
	for _, r := range s.refs {
		if r.last > lsn {
			return r.at, true
		}
	}
	for _, b := range s.sealed {
		return b[0].at, true
	}
	if len(s.open) > 0 {
		return s.open[0].at, true
	}
	return 0, false
}

// whenWas turns what an earlier process wrote down into clock.SinceStart's time: below 0.
func (a *Agent) whenWas(t int64) int64 {
	return clock.SinceStart() - max(0, a.opts.Now().UnixNano()-t)
}

// lag is the age of the oldest acknowledged write that is not durable in the
// remote store.
func (s *stream) lag() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.oldest(s.ship.durable)
	if d := s.overflow.dropped; d != nil && (!ok || d.at < at) {
		at, ok = d.at, true
	}
	if !ok {
		return 0
	}
	return time.Duration(clock.SinceStart() - at)
}
