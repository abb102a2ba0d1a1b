package agent

import (
	"path/filepath"

	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// spilledChanges is the durable rest of the change map: what frames changed that the journal
// has, that some required target lacks, and that left the WAL for want of room.
type spilledChanges struct {
	after uint64 // complete from here on
	upto  uint64
	maps  map[uint32]*dirtyMap
}

// chartFile is a chart on disk.
type chartFile struct {
	Version int          `json:"version"`
	After   uint64       `json:"after"`
	Upto    uint64       `json:"upto"`
	Volumes []volumeBits `json:"volumes"`
}

func (a *Agent) chartPath(id change.StreamID) string {
	return filepath.Join(a.opts.StateDir, "changes-"+id.String()+".json")
}

// roomy reports whether the WAL has room for what only the change map needs it for.
func (a *Agent) roomy() bool {
	st := a.wal.Stats()
	return st.LiveBytes < st.BudgetBytes/2
}

// chartAll enters into the change map what trim is about to drop. One that cannot be
// written is given up: the WAL must have room, and the map only saves work later.
func (a *Agent) chartAll() {
	for _, s := range a.snapshotStreams() {
		if err := s.chartNext(!a.roomy()); err != nil {
			a.opts.Logger.Warn("the change map is incomplete", "group", s.conf.Group, "err", err)
			s.setChart(nil)
		}
	}
}

func (s *stream) setChart(c *spilledChanges) {
	s.mu.Lock()
	s.charted = c
	s.mu.Unlock()
}

// chartNext enters what comes next, if it is to leave the WAL, and forgets the chart
// once the targets have all of it.
func (s *stream) chartNext(leaving bool) error {
	s.mu.Lock()
	old, durableLSN, done := s.charted, s.ship.durable, min(s.ship.released, s.ckpt.Applied.LSN)
	from := durableLSN
	if old != nil {
		from = max(from, old.upto)
	}
	var frames []frameRef
	for _, r := range s.refs {
		if leaving && s.suspended == nil && s.backErr == nil && r.last > from && r.last <= done {
			frames = append(frames, r)
		}
	}
	s.mu.Unlock()
	if old != nil && old.upto <= durableLSN {
		s.setChart(nil)
		if err := atomicfile.Remove(s.a.opts.FS, s.a.chartPath(s.conf.ID)); err != nil {
			return fail.Wrap(fail.Denied, "remove", s.a.chartPath(s.conf.ID), err)
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
	out := chartFile{Version: metaVersion, After: next.after, Upto: next.upto, Volumes: packMaps(next.maps)}
	if err := saveMeta(s.a.opts.FS, s.a.chartPath(s.conf.ID), out); err != nil {
		return err
	}
	s.setChart(next)
	return nil
}

// loadChart reads what an earlier run has left. A damaged one is none: it only saves
// work.
func (s *stream) loadChart() {
	path := s.a.chartPath(s.conf.ID)
	var f chartFile
	found, err := loadMeta(s.a.opts.FS, path, &f)
	var maps map[uint32]*dirtyMap
	if err == nil && found {
		maps, err = unpackMaps(path, f.Volumes)
	}
	if err != nil {
		s.a.opts.Logger.Warn("the change map is incomplete", "group", s.conf.Group, "err", err)
	}
	if err == nil && found {
		s.charted = &spilledChanges{after: f.After, upto: f.Upto, maps: maps}
	}
}

// charts adds what the chart has of a volume to a map of what came after an LSN, and
// returns the LSN up to which it is complete; after where it has nothing to add. Called
// with mu held.
func (s *stream) charts(m *dirtyMap, v *VolumeConf, after uint64) uint64 {
	c := s.charted
	if c == nil || c.after > after || c.upto <= after {
		return after
	}
	m.union(c.maps[v.Number], v.SizeBytes)
	return c.upto
}
