package agent

import (
	"fmt"
	"path/filepath"
	"slices"
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
	// maxKnown bounds the points at which the journal is recognised. They are those
	// of frames that were on their way when it was lost: few.
	maxKnown = 1 << 14
)

// overflow is what is left of frames that a stream dropped before the journal had
// them: which blocks they changed. It lasts until a resync has ended. The bitmaps
// are durable before a frame is dropped.
type overflow struct {
	upto  change.Point   // newest frame that was dropped; the WAL goes on behind it
	known []change.Point // where the journal may stand, oldest first
	since int64          // time of the first record that was dropped, ns
	at    int64          // the same by clock.SinceStart
	maps  map[uint32]*dirtyMap
	gen   int // number of drops

	copying       bool  // a resync is at it
	copied, total int64 // bytes of it
	err           error // why the resync does not get on
	ended         bool  // the journal has ResyncEnd; the rest waits for the targets
	mark          uint64
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
	if !s.spillMu.TryLock() { // a session is just finding out where the journal stands
		return nil
	}
	defer s.spillMu.Unlock()
	drop, next := s.spillable(now)
	if len(drop) == 0 {
		return nil
	}
	err := s.drop(drop, next)
	s.mu.Lock()
	first := s.overflow == nil || s.overflow.ended
	if err == nil {
		s.overflow = next
	}
	s.dropping = 0
	s.mu.Unlock()
	if err == nil && first {
		s.a.opts.Logger.Error("the WAL overflowed while the journal takes nothing: frames are dropped, only which blocks changed is kept, and the log has no point until a resync has ended", "group", s.conf.Group,
			"after_lsn", next.known[0].LSN, "err", s.a.shipError())
	}
	return err
}

// drop enters frames into an overflow and makes that durable. Whatever of them the
// journal may have been sent is where it may stand; no more is sent from here on.
func (s *stream) drop(frames []frameRef, o *overflow) error {
	s.mu.Lock()
	s.dropping = frames[len(frames)-1].last
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
// entered into: a new one that nobody else has yet. Called with spillMu held.
func (s *stream) spillable(now time.Time) ([]frameRef, *overflow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	copies := s.ship.copies || !s.a.opts.Reference
	if s.conf.Overflow != OverflowBitmap || (s.conf.Ack != AckLocal && s.conf.Ack != "") || s.suspended != nil || s.backErr != nil || !copies ||
		now.Sub(s.ship.moved) < s.a.opts.SpillAfter {
		return nil, nil
	}
	for _, r := range s.refs { // an idle stream's journal takes nothing either
		if r.last > s.ship.committed.LSN && time.Duration(clock.SinceStart()-r.at) < s.a.opts.SpillAfter && (s.overflow == nil || s.overflow.ended) {
			return nil, nil
		} else if r.last > s.ship.committed.LSN {
			break
		}
	}
	var can []frameRef
	for _, r := range s.refs {
		if r.last > s.ckpt.Applied.LSN {
			break
		}
		if r.last > s.ship.committed.LSN && (s.overflow == nil || r.last > s.overflow.upto.LSN) {
			can = append(can, r)
		}
	}
	if len(can) == 0 || (s.overflow != nil && len(s.overflow.known) >= maxKnown-2 && s.ship.mayHave > s.overflow.upto.LSN) {
		return nil, nil
	}
	next := &overflow{known: []change.Point{s.ship.committed}, since: can[0].time, at: can[0].at, maps: map[uint32]*dirtyMap{}}
	if o := s.overflow; o != nil && !o.ended {
		*next = *o
		next.known, next.maps = slices.Clone(o.known), cloneMaps(o.maps)
		if o.upto.LSN < s.ship.committed.LSN { // a resync got further meanwhile
			next.known = append(next.known, s.ship.committed)
		}
	}
	next.gen++
	next.copying, next.copied, next.total, next.err = false, 0, 0, nil
	return can[:(len(can)+1)/2], next
}

func (s *stream) saveOverflow(o *overflow) error {
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
	o := &overflow{upto: f.Upto, known: f.Known, since: f.Since, at: s.a.whenWas(f.Since), gen: 1}
	if o.maps, err = unpackMaps(path, f.Volumes); err != nil {
		return err
	}
	s.overflow = o
	return nil
}

// forget ends an overflow, on disk too. Called with spillMu held.
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

// overflowStatus is nil where there is none. Called with mu held.
func (s *stream) overflowStatus() *Overflow {
	o := s.overflow
	if o == nil {
		return nil
	}
	out := &Overflow{After: o.known[0].LSN, Since: time.Unix(0, o.since), Bytes: o.total, Copying: o.copying || o.ended, CopiedBytes: o.copied, Err: o.err}
	if out.Bytes == 0 {
		for _, m := range o.maps {
			out.Bytes += m.marked()
		}
	}
	return out
}

// remote is the newest LSN of which the required targets hold a point. Called with
// mu held.
func (s *stream) remote() uint64 {
	if s.overflow != nil {
		return min(s.ship.durable, s.overflow.known[0].LSN)
	}
	return s.ship.durable
}
