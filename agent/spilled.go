package agent

import (
	"path/filepath"

	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// spilledChanges is the part of the change map that the WAL no longer holds: what
// frames changed that the journal has and some remote target lacks, and that left the
// WAL for want of room. It is durable.
type spilledChanges struct {
	after uint64 // complete from here on
	upto  uint64
	maps  map[uint32]*dirtyMap
}

// spilledFile is spilledChanges on disk.
type spilledFile struct {
	Version int          `json:"version"`
	After   uint64       `json:"after"`
	Upto    uint64       `json:"upto"`
	Volumes []volumeBits `json:"volumes"`
}

func (a *Agent) spilledPath(id change.StreamID) string {
	return filepath.Join(a.opts.StateDir, "changes-"+id.String()+".json")
}

// roomy reports whether the WAL has room for what only the change map needs it for.
func (a *Agent) roomy() bool {
	st := a.wal.Stats()
	return st.LiveBytes < st.BudgetBytes/2
}

// saveLeaving enters what trim is about to drop into the streams' spilled changes. One
// that cannot be written is given up: the WAL must have room, and the map only saves
// work later.
func (a *Agent) saveLeaving() {
	for _, s := range a.snapshotStreams() {
		if err := s.saveSpilled(!a.roomy()); err != nil {
			a.opts.Logger.Warn("the change map is incomplete", "group", s.conf.Group, "err", err)
			s.setSpilled(nil)
		}
	}
}

func (s *stream) setSpilled(c *spilledChanges) {
	s.mu.Lock()
	s.evicted.changes = c
	s.mu.Unlock()
}

// saveSpilled enters the frames that come next, if they are to leave the WAL. It forgets
// all of it once the targets have that.
func (s *stream) saveSpilled(leaving bool) error {
	s.mu.Lock()
	old, durableLSN, done := s.evicted.changes, s.ship.durable, min(s.ship.released, s.ckpt.saved.Applied.LSN)
	from := durableLSN
	if old != nil {
		from = max(from, old.upto)
	}
	if !leaving || s.suspended != nil || s.backings.cutErr != nil {
		done = 0
	}
	s.evicted.entered = done // trim comes later, and more may be released by then
	var frames []frameRef
	for _, r := range s.wal.refs {
		if r.last > from && r.last <= done {
			frames = append(frames, r)
		}
	}
	s.mu.Unlock()
	if old != nil && old.upto <= durableLSN {
		s.setSpilled(nil)
		if err := atomicfile.Remove(s.a.opts.FS, s.a.spilledPath(s.conf.ID)); err != nil {
			return fail.Wrap(fail.Denied, "remove", s.a.spilledPath(s.conf.ID), err)
		}
		old = nil
	}
	if len(frames) == 0 {
		return nil
	}
	next := &spilledChanges{after: durableLSN, maps: map[uint32]*dirtyMap{}}
	if old != nil {
		next.after, next.maps = old.after, cloneMaps(old.maps)
	}
	var f change.Frame
	var buf []byte
	for i, r := range frames {
		var err error
		if buf, err = s.a.readFrame(r.wal, &f, buf); err != nil {
			return fail.At("enter into the change map", "group "+s.conf.Group, err)
		}
		if i == 0 && f.FirstLSN > from+1 { // what lies between left the WAL before
			next.after, next.maps = f.FirstLSN-1, map[uint32]*dirtyMap{}
		}
		s.a.note(next.maps, &f)
	}
	next.upto = f.LastLSN
	out := spilledFile{Version: metaVersion, After: next.after, Upto: next.upto, Volumes: packMaps(next.maps)}
	if err := saveMeta(s.a.opts.FS, s.a.spilledPath(s.conf.ID), out); err != nil {
		return err
	}
	s.setSpilled(next)
	return nil
}

// loadSpilled reads what an earlier run has left. A damaged one is none: it only saves
// work.
func (s *stream) loadSpilled() {
	path := s.a.spilledPath(s.conf.ID)
	var f spilledFile
	found, err := loadMeta(s.a.opts.FS, path, &f)
	var maps map[uint32]*dirtyMap
	if err == nil && found {
		maps, err = unpackMaps(path, f.Volumes)
	}
	if err != nil {
		s.a.opts.Logger.Warn("the change map is incomplete", "group", s.conf.Group, "err", err)
	}
	if err == nil && found {
		s.evicted.changes = &spilledChanges{after: f.After, upto: f.Upto, maps: maps}
	}
}

// addSpilled adds the spilled changes of a volume to a map of what came after an LSN.
// It returns the LSN up to which the map is complete with that: after itself, where
// there was nothing to add. Called with mu held.
func (s *stream) addSpilled(m *dirtyMap, v *VolumeConf, after uint64) uint64 {
	c := s.evicted.changes
	if c == nil || c.after > after || c.upto <= after {
		return after
	}
	m.union(c.maps[v.Number], v.SizeBytes)
	return c.upto
}
