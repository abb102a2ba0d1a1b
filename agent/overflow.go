package agent

import (
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
)

const (
	OverflowThrottle = "throttle" // writers are slowed, then wait
	OverflowBitmap   = "bitmap"   // only which blocks changed is kept

	// spillFrom is the fill of the WAL at which a stream with OverflowBitmap drops
	// frames, before its writers are slowed.
	spillFrom = 0.75
	// defaultSpillAfter is for how long the journal must not have taken anything.
	defaultSpillAfter = 5 * time.Second
	// maxKnown bounds the points at which the journal is recognised. They are the ends of
	// the frames that were on their way when it was lost, and those are few.
	maxKnown = 1 << 14
)

// overflowState is what a stream has of an overflow and of the resync that ends it.
// Guarded by stream.mu, apart from dropMu and told.
type overflowState struct {
	resync  resyncState
	dropped *droppedFrames // nil exactly in the phase resyncNone
	// dropping: frames up to here are being dropped; they must not be sent.
	dropping uint64
	copying  *copyGuard // the range that the resync is copying

	told lastTold // of drops that failed, in the agent's log; the checkpoint loop's own

	// dropMu is held while frames are dropped, and while a session begins or a resync
	// ends: what the journal is told must not move meanwhile. It is taken before mu.
	dropMu sync.Mutex
}

// droppedFrames is what is left of frames that a stream dropped before the journal had
// them: which blocks they changed. It lasts until the resync's end is in the targets.
// The bitmaps are durable before a frame is dropped, and are not changed any more.
type droppedFrames struct {
	upto  change.Point         // newest frame that was dropped; the WAL goes on behind it
	known []change.Point       // where the journal may stand, oldest first
	since int64                // time of the first record that was dropped, ns
	at    int64                // the same by clock.SinceStart
	maps  map[uint32]*dirtyMap // by volume number; nil when the journal has the resync's end

	copied, total int64  // bytes of the resync
	err           error  // why the resync does not get on
	mark          uint64 // LSN of the mark that says that it ended
}

// take sets what is left of the frames that were dropped just now.
func (o *overflowState) take(d *droppedFrames, e resyncEvent) {
	if o.resync.on(e) {
		o.dropped = d
	}
}

// holds reports whether the frame after lsn is not to be sent, because it was dropped
// or is just being dropped.
func (o *overflowState) holds(lsn uint64) bool {
	return lsn+1 <= o.dropping || (o.resync.phase.open() && lsn+1 <= o.dropped.upto.LSN)
}

// afterAll reports whether the journal has taken all that was dropped after all. A new
// session ends the overflow then, or, where its log has a gap from before, the resync of that.
func (o *overflowState) afterAll(ship *shipState) bool {
	return o.resync.phase == resyncDropped && ship.committed.LSN >= o.dropped.upto.LSN
}

// gap reports whether the journal stands at a point whose successors were dropped,
// and where the stream goes on.
func (o *overflowState) gap(at *change.Attached) (to change.Point, gap bool) {
	if at.Error != nil || !o.resync.phase.open() || at.Committed.LSN >= o.dropped.upto.LSN ||
		!slices.Contains(o.dropped.known, at.Committed) {
		return to, false // attach says what is wrong, if anything is
	}
	return o.dropped.upto, true
}

// settle forgets an overflow once the targets hold the mark of its end.
func (o *overflowState) settle(durable uint64) {
	if o.resync.phase == resyncMarked && durable >= o.dropped.mark && o.resync.on(endDurable) {
		o.dropped = nil
	}
}

// overflowFile is an overflow on disk.
type overflowFile struct {
	Version int            `json:"version"`
	Upto    change.Point   `json:"upto"`
	Known   []change.Point `json:"known"`
	Since   int64          `json:"since"`
	Volumes []volumeBits   `json:"volumes"`
}

func (a *Agent) overflowPath(id change.StreamID) string {
	return filepath.Join(a.opts.StateDir, "overflow-"+id.String()+".json")
}

// spill makes room in the WAL where the journal takes nothing and the group's policy
// is OverflowBitmap: frames that the backings hold, and that the journal does not
// have, are entered into the bitmap, and then trim may drop them.
func (s *stream) spill(now time.Time) error {
	if !s.overflow.dropMu.TryLock() { // a session is just finding out where the journal stands
		return nil
	}
	defer s.overflow.dropMu.Unlock()
	drop, next := s.spillable(now)
	if len(drop) == 0 {
		return nil
	}
	err := s.drop(drop, next)
	s.mu.Lock()
	first := !s.overflow.resync.phase.open()
	if err == nil {
		s.overflow.take(next, framesDropped)
	}
	s.overflow.dropping = 0
	s.mu.Unlock()
	if err == nil && first {
		s.a.opts.Logger.Error("the WAL overflowed while the journal takes nothing: frames are dropped, "+
			"only which blocks changed is kept, and the log has no point until a resync has ended",
			"group", s.conf.Group, "after_lsn", next.known[0].LSN, "err", s.a.shipError())
	}
	return err
}

// drop enters frames into an overflow and makes that durable. Whatever of them the
// journal may have been sent is where it may stand; no more is sent from here on.
func (s *stream) drop(frames []frameRef, o *droppedFrames) error {
	s.mu.Lock()
	s.overflow.dropping = frames[len(frames)-1].last
	sent := s.ship.mayHave
	s.mu.Unlock()
	var f change.Frame
	var buf []byte
	for i, r := range frames {
		var err error
		if buf, err = s.a.readFrame(r.wal, &f, buf); err != nil {
			return fail.At("make room for", "group "+s.conf.Group, err)
		}
		here := change.Point{LSN: f.LastLSN, Hash: f.Hash}
		if before := (change.Point{LSN: f.FirstLSN - 1, Hash: f.Prev}); i == 0 && !slices.Contains(o.known, before) {
			o.known = append(o.known, before)
		}
		if here.LSN <= sent {
			if len(o.known) >= maxKnown {
				break // without its point the journal could not be recognised there
			}
			o.known = append(o.known, here)
		}
		o.upto = here
		s.a.note(o.maps, &f)
	}
	return s.saveOverflow(o)
}

// spillable returns the frames to drop, and the overflow that they are to be
// entered into: a new one that nobody else has yet. Called with dropMu held.
func (s *stream) spillable(now time.Time) ([]frameRef, *droppedFrames) {
	s.mu.Lock()
	defer s.mu.Unlock()
	open, old := s.overflow.resync.phase.open(), s.overflow.dropped
	if !s.mayDrop() || now.Sub(s.ship.moved) < s.a.opts.SpillAfter {
		return nil, nil
	}
	if !open { // an idle stream's journal takes nothing either
		i := slices.IndexFunc(s.wal.refs, func(r frameRef) bool { return r.last > s.ship.committed.LSN })
		if i >= 0 && time.Duration(clock.SinceStart()-s.wal.refs[i].at) < s.a.opts.SpillAfter {
			return nil, nil
		}
	}
	var can []frameRef
	for _, r := range s.wal.refs {
		if r.last > s.ckpt.saved.Applied.LSN {
			break
		}
		if r.last > s.ship.committed.LSN && (old == nil || r.last > old.upto.LSN) {
			can = append(can, r)
		}
	}
	if len(can) == 0 || (old != nil && len(old.known) >= maxKnown-2 && s.ship.mayHave > old.upto.LSN) {
		return nil, nil
	}
	next := &droppedFrames{known: []change.Point{s.ship.committed}, since: can[0].time, at: can[0].at,
		maps: map[uint32]*dirtyMap{}}
	if open {
		next.since, next.at = old.since, old.at
		next.upto, next.known, next.maps = old.upto, slices.Clone(old.known), cloneMaps(old.maps)
		if old.upto.LSN < s.ship.committed.LSN { // a resync got further meanwhile
			next.known = append(next.known, s.ship.committed)
		}
	}
	return can[:(len(can)+1)/2], next
}

// mayDrop reports whether the group's policy and state let frames be dropped at all.
// Called with mu held.
func (s *stream) mayDrop() bool {
	local := s.conf.Ack == AckLocal || s.conf.Ack == ""
	copies := s.ship.copies || !s.a.opts.Reference // else the journal reads them from the WAL
	return s.conf.Overflow == OverflowBitmap && local && copies && s.suspended == nil && s.backings.cutErr == nil
}

func (s *stream) saveOverflow(o *droppedFrames) error {
	f := overflowFile{Version: metaVersion, Upto: o.upto, Known: o.known, Since: o.since, Volumes: packMaps(o.maps)}
	return saveMeta(s.a.opts.FS, s.a.overflowPath(s.conf.ID), f)
}

// loadOverflow reads what an earlier run has left, if anything.
func (s *stream) loadOverflow() error {
	path := s.a.overflowPath(s.conf.ID)
	var f overflowFile
	found, err := loadMeta(s.a.opts.FS, path, &f)
	if err != nil || !found {
		return err
	}
	if len(f.Known) == 0 || len(f.Known) > maxKnown+1 {
		return badBits(path, fmt.Sprintf("%d points", len(f.Known)))
	}
	o := &droppedFrames{upto: f.Upto, known: f.Known, since: f.Since, at: s.a.whenWas(f.Since)}
	if o.maps, err = unpackMaps(path, f.Volumes); err != nil {
		return err
	}
	s.overflow.take(o, bitmapFound)
	return nil
}

// forgetOverflow removes the durable bitmap. Called with dropMu held.
func (s *stream) forgetOverflow() error {
	path := s.a.overflowPath(s.conf.ID)
	return fail.Wrap(fail.Denied, "remove", path, atomicfile.Remove(s.a.opts.FS, path))
}

// Overflow is what a stream's status says of one.
type Overflow struct {
	After       uint64 // the newest point that the log still has
	Since       time.Time
	Bytes       int64 // that changed
	Copying     bool  // a resync runs
	CopiedBytes int64
	Err         error // why a resync does not get on
}

// status is nil where there is no overflow.
func (o *overflowState) status() *Overflow {
	d := o.dropped
	if d == nil {
		return nil
	}
	out := &Overflow{After: d.known[0].LSN, Since: time.Unix(0, d.since), Bytes: d.total,
		Copying: o.resync.phase != resyncDropped, CopiedBytes: d.copied, Err: d.err}
	if out.Bytes == 0 {
		for _, m := range d.maps {
			out.Bytes += m.marked()
		}
	}
	return out
}

// NoPoint is why a stream has no recovery point just now, nil where it has.
func (a *Agent) NoPoint(id change.StreamID) error {
	s, err := a.stream("look at", id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.noPoint()
}

// noPoint is NoPoint's answer. Called with mu held.
func (s *stream) noPoint() error {
	if !s.overflow.resync.phase.open() {
		return nil
	}
	why := fmt.Sprintf("it is resyncing: its log has no point after LSN %d until that has ended",
		s.overflow.dropped.known[0].LSN)
	return fail.New(fail.Refused, "use", "group "+s.conf.Group, why).WithHint("`pollux status` shows how far it is")
}

// remote is the newest LSN of which the remote targets hold a point. Called with
// mu held.
func (s *stream) remote() uint64 {
	if d := s.overflow.dropped; d != nil {
		return min(s.ship.remote, d.known[0].LSN)
	}
	return s.ship.remote
}
