package agent

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/wal"
)

// Idle is what an agent that does not run has left on its disk, read without changing anything.
type Idle struct {
	Agent   string
	Journal string // UUID of one on other hosts; "" of the one in this process
	Streams []StreamConf
	Volumes []VolumeConf
	// WALErr is why the WAL tells nothing: it is gone, or damaged. nil where it is whole.
	WALErr error

	a       *Agent // never opened: it knows the paths
	wal     *wal.Log
	streams map[change.StreamID]*idleStream
}

// idleStream is what there is of one stream.
type idleStream struct {
	saved    checkpoint
	frames   []idleFrame // in the WAL, oldest first
	overflow *overflowFile
	spilled  *spilledFile
}

// idleFrame is a frame of the WAL.
type idleFrame struct {
	first, last change.Point // the first one lies before the frame
	index       uint64
}

// Beyond is what an agent wrote behind a point of a stream.
type Beyond struct {
	End      change.Point // the last that it has of the stream
	From, To time.Time    // of the frames behind the point, as far as the WAL has them
	// Extents are what it wrote to each volume, by number: in order, and not overlapping.
	Extents map[uint32][]Extent
	// Rounded: some of them come from a bitmap, and are rounded outward.
	Rounded bool
}

// ReadIdle reads the state directory of an agent. Close ends it. Errors: fail.NotFound where there
// is no agent, fail.Damaged, fail.Unsupported.
func ReadIdle(fs vfs.FS, dir string) (*Idle, error) {
	a := &Agent{opts: Options{StateDir: dir, FS: fs}}
	var m manifest
	found, err := loadMeta(fs, a.manifestPath(), &m)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fail.New(fail.NotFound, "read", dir, "there is no agent's state")
	}
	d := &Idle{Agent: m.Agent, Journal: m.Journal, Streams: m.Streams, Volumes: m.Volumes, a: a,
		streams: map[change.StreamID]*idleStream{}}
	for i := range m.Streams {
		if err := d.readStream(fs, m.Streams[i].ID); err != nil {
			return nil, err
		}
	}
	d.WALErr = d.readWAL(fs)
	return d, nil
}

// Close ends the reading.
func (d *Idle) Close() error {
	if d.wal == nil {
		return nil
	}
	return d.wal.Close()
}

func (d *Idle) readStream(fs vfs.FS, id change.StreamID) error {
	s := &idleStream{overflow: &overflowFile{}, spilled: &spilledFile{}}
	d.streams[id] = s
	if _, err := loadMeta(fs, d.a.checkpointPath(id), &s.saved); err != nil {
		return err
	}
	found, err := loadMeta(fs, d.a.overflowPath(id), s.overflow)
	if err != nil {
		return err
	}
	if !found || len(s.overflow.Known) == 0 {
		s.overflow = nil
	}
	if found, err = loadMeta(fs, d.a.spilledPath(id), s.spilled); err != nil || !found {
		s.spilled = nil // a damaged one only saves work
	}
	return nil
}

// readWAL notes where the frames of the streams are. It reads headers, not what lies in them.
func (d *Idle) readWAL(fs vfs.FS) (err error) {
	dir := d.a.walDir()
	if names, err := fs.List(dir); oserror.IsNotExist(err) || err == nil && len(names) == 0 {
		return fail.New(fail.NotFound, "read", dir, "the WAL is gone")
	}
	if d.wal, err = wal.Open(wal.Options{FS: fs, Dir: dir, ReadOnly: true}); err != nil {
		return err
	}
	if d.wal.Last() == 0 && d.wrote() {
		return fail.New(fail.NotFound, "read", dir, "the WAL is empty, as if it were new, and the checkpoints are not")
	}
	var b []byte
	for i := d.wal.First(); i <= d.wal.Last(); i++ {
		if b, err = d.wal.Read(i, b); err != nil {
			return err
		}
		h, hash, err := change.ParseHeader(b)
		if err != nil {
			return fail.At("read", fmt.Sprintf("WAL entry %d in %s", i, dir), err)
		}
		s := d.streams[h.Stream]
		if s == nil {
			continue // its last volume was removed
		}
		f := idleFrame{first: change.Point{LSN: h.FirstLSN - 1, Hash: h.Prev},
			last: change.Point{LSN: h.LastLSN, Hash: hash}, index: i}
		if n := len(s.frames); n > 0 && s.frames[n-1].last != f.first {
			return fail.New(fail.Damaged, "read", fmt.Sprintf("WAL entry %d in %s", i, dir),
				fmt.Sprintf("it follows %v, and the one before ends at %v", f.first, s.frames[n-1].last))
		}
		s.frames = append(s.frames, f)
	}
	return d.checkWAL(dir)
}

// wrote reports whether any stream ever got anything into the WAL.
func (d *Idle) wrote() bool {
	for _, s := range d.streams {
		if s.saved.Applied.LSN > 0 {
			return true
		}
	}
	return false
}

// checkWAL holds the WAL against the checkpoints: it must not end before what the backings have.
func (d *Idle) checkWAL(dir string) error {
	for id, s := range d.streams {
		applied := s.saved.Applied
		if n := len(s.frames); n > 0 && (s.frames[n-1].last.LSN < applied.LSN || s.frames[0].first.LSN > applied.LSN) {
			return fail.New(fail.Damaged, "read", dir, fmt.Sprintf("stream %s goes from LSN %d to %d in it, and the "+
				"backings have LSN %d", id, s.frames[0].first.LSN+1, s.frames[n-1].last.LSN, applied.LSN))
		}
	}
	return nil
}

// Epoch is the highest under which the agent had a lease.
func (d *Idle) Epoch() (epoch uint64) {
	for _, s := range d.streams {
		epoch = max(epoch, s.saved.Lease.Epoch)
	}
	return epoch
}

// End is the last point that a stream has here.
func (d *Idle) End(id change.StreamID) change.Point {
	s := d.streams[id]
	if s == nil {
		return change.Point{}
	}
	if n := len(s.frames); n > 0 {
		return s.frames[n-1].last
	}
	return s.saved.Applied
}

// Holds reports whether a point lies on the history of a stream, as far as that is known here. A
// point of another history is fail.Fenced, one of which nothing is known fail.NotFound.
func (d *Idle) Holds(id change.StreamID, p change.Point) error {
	s := d.streams[id]
	if s == nil {
		return fail.New(fail.NotFound, "look for", "stream "+id.String(), "this agent has no such stream")
	}
	known := []change.Point{s.saved.Applied, s.saved.Committed}
	if s.overflow != nil {
		known = append(append(known, s.overflow.Known...), s.overflow.Upto)
	}
	for _, f := range s.frames {
		if p.LSN > f.first.LSN && p.LSN < f.last.LSN {
			return otherHistory(p, f.last)
		}
		known = append(known, f.first, f.last)
	}
	for _, k := range known {
		switch {
		case k.LSN != p.LSN || k == (change.Point{}):
		case k == p:
			return nil
		default:
			return otherHistory(p, k)
		}
	}
	if p.LSN == 0 && p == (change.Point{}) {
		return nil
	}
	return fail.New(fail.NotFound, "look for", "stream "+id.String(),
		fmt.Sprintf("nothing here says what was at LSN %d", p.LSN))
}

func otherHistory(theirs, ours change.Point) error {
	return fail.New(fail.Fenced, "compare", "the histories", fmt.Sprintf("the log has %v, and this host %v: they are "+
		"not the same before the journal went on elsewhere", theirs, ours))
}

// Beyond lists what was written to a stream's volumes behind a point that Holds. Errors:
// fail.NotFound where neither the WAL nor a bitmap reaches back that far, fail.Damaged.
func (d *Idle) Beyond(id change.StreamID, at change.Point) (*Beyond, error) {
	if d.WALErr != nil {
		return nil, d.WALErr
	}
	if err := d.Holds(id, at); err != nil {
		return nil, err
	}
	s := d.streams[id]
	c := collector{d: d, stream: id, least: 1 << 16, out: Beyond{End: d.End(id), Extents: map[uint32][]Extent{}}}
	complete, err := c.bitmaps(s, at.LSN)
	if err != nil {
		return nil, err
	}
	first := c.out.End.LSN + 1
	if len(s.frames) > 0 {
		first = s.frames[0].first.LSN + 1
	}
	if first > complete+1 {
		return nil, fail.New(fail.NotFound, "list changes of", "stream "+id.String(),
			fmt.Sprintf("the WAL goes back to LSN %d, not to %d", first, at.LSN+1))
	}
	for _, f := range s.frames {
		if f.last.LSN > at.LSN {
			if err := c.frame(f.index); err != nil {
				return nil, err
			}
		}
	}
	for n := range c.out.Extents {
		c.out.Extents[n] = union(c.out.Extents[n])
	}
	return &c.out, nil
}

// collector gathers extents.
type collector struct {
	d      *Idle
	stream change.StreamID
	least  int // how many extents it takes until they are made one where they overlap
	out    Beyond
	frames change.Frame
	raw    []byte
}

func (c *collector) volume(number uint32) *VolumeConf {
	for i := range c.d.Volumes {
		if v := &c.d.Volumes[i]; v.Number == number && v.Stream == c.stream {
			return v
		}
	}
	return nil
}

func (c *collector) add(number uint32, off, n int64) {
	v := c.volume(number)
	if v == nil {
		return // it was removed
	}
	if n = min(n, v.SizeBytes-off); n > 0 {
		c.out.Extents[number] = append(c.out.Extents[number], Extent{off, n})
	}
	if len(c.out.Extents[number]) >= 2*c.least { // what was overwritten again and again is there once
		c.out.Extents[number] = union(c.out.Extents[number])
		c.least = max(c.least, len(c.out.Extents[number]))
	}
}

// bitmaps adds what has left the WAL, and returns the LSN up to which all is known with that.
func (c *collector) bitmaps(s *idleStream, after uint64) (complete uint64, err error) {
	complete = after
	if m := s.spilled; m != nil && m.After <= complete && m.Upto > complete {
		if err := c.bits(c.d.a.spilledPath(c.stream), m.Volumes); err != nil {
			return 0, err
		}
		complete = m.Upto
	}
	if m := s.overflow; m != nil && m.Known[0].LSN <= complete && m.Upto.LSN > complete {
		if err := c.bits(c.d.a.overflowPath(c.stream), m.Volumes); err != nil {
			return 0, err
		}
		complete = m.Upto.LSN
	}
	return complete, nil
}

func (c *collector) bits(path string, volumes []volumeBits) error {
	maps, err := unpackMaps(path, volumes)
	if err != nil {
		return err
	}
	for number, m := range maps {
		v := c.volume(number)
		if v == nil {
			continue
		}
		extents, _ := m.extents(v.SizeBytes)
		for _, e := range extents {
			c.add(number, e.Off, e.Len)
		}
		c.out.Rounded = c.out.Rounded || len(extents) > 0
	}
	return nil
}

func (c *collector) frame(index uint64) (err error) {
	if c.raw, err = c.d.wal.Read(index, c.raw); err != nil {
		return err
	}
	f := &c.frames
	if err := f.Reset(c.raw); err != nil {
		return fail.At("read", fmt.Sprintf("WAL entry %d in %s", index, c.d.a.walDir()), err)
	}
	if c.out.From.IsZero() {
		c.out.From = time.Unix(0, f.FirstTime).UTC()
	}
	c.out.To = time.Unix(0, f.LastTime).UTC()
	for i := range f.Records {
		if r := &f.Records[i]; r.Kind != change.Mark {
			c.add(r.Volume, r.Off, int64(r.Len))
		}
	}
	return nil
}

// union sorts extents, and makes one of those that touch each other.
func union(in []Extent) []Extent {
	slices.SortFunc(in, func(a, b Extent) int { return cmp.Compare(a.Off, b.Off) })
	out := in[:0]
	for _, e := range in {
		if k := len(out) - 1; k >= 0 && out[k].Off+out[k].Len >= e.Off {
			out[k].Len = max(out[k].Len, e.Off+e.Len-out[k].Off)
			continue
		}
		out = append(out, e)
	}
	return out
}
