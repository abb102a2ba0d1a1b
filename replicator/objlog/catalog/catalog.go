package catalog

import (
	"encoding/json"
	"slices"
	"sort"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/state"
)

// Catalog is what is known of a log up to a position.
type Catalog struct {
	Number  uint64    `json:"number"`
	Journal uuid.UUID `json:"journal"`
	Created time.Time `json:"created"`
	// State is the control state, as package state saves it.
	State map[string]json.RawMessage `json:"state"`
	// ReadPoints are where the log can be read from, oldest first; the last one is what the
	// catalog covers. Objects below the first one's position may be gone.
	ReadPoints []ReadPoint                 `json:"marks"`
	Streams    map[change.StreamID]*Stream `json:"streams"`
	// Packs are what blocks of older objects were moved into.
	Packs []Pack `json:"packs,omitempty"`
	// Fences are all of the log.
	Fences []Fence `json:"fences,omitempty"`
	// Dead are objects that nothing needs any more, and since when.
	Dead map[string]time.Time `json:"dead,omitempty"`
	// Locked are the rounds of extending dates that have not run out, oldest first.
	Locked []Locked `json:"locked,omitempty"`
}

// Locked is a round in which everything that was needed was kept from deletion. What
// was made since carries the date of its own creation, not an earlier one.
type Locked struct {
	At    time.Time     `json:"at"`
	Until time.Time     `json:"until"`
	For   time.Duration `json:"for"` // ns, the rule then
	Mode  string        `json:"mode"`
}

// Pack is an object of package pack.
type Pack struct {
	Number uint64 `json:"number"`
	Bytes  int64  `json:"bytes"`
	// Moved are the objects, of the log or packs, whose live bytes it has.
	Moved []objlog.ObjectID `json:"moved"`
}

// Fence is one of the log. The writer that it fenced might still try the positions from
// From up to it: they are kept, for ever if that writer does not check its tail.
type Fence struct {
	Position uint64 `json:"position"`
	From     uint64 `json:"from"`
	// ChecksTail: the writer that it fenced does.
	ChecksTail bool `json:"checks_tail,omitempty"`
	// Passed is when the store had a catalog that has passed the fence, by the store's
	// clock; zero before.
	Passed time.Time `json:"passed,omitzero"`
}

// ReadPoint is a place in the log from which on it can be read.
type ReadPoint struct {
	Position uint64        `json:"position"` // of the next object
	Index    uint64        `json:"index"`    // the last journal index before it
	Token    segment.Token `json:"token"`    // in force there
	Durable  uint64        `json:"durable"`  // the position that the last segment before it stated
	Time     time.Time     `json:"time"`     // when it was made
	// ChecksTail: the writer of the token does.
	ChecksTail bool `json:"checks_tail,omitempty"`
	// Streams are those that have moved since the mark before.
	Streams map[change.StreamID]At `json:"streams,omitempty"`
}

// At is the end of a stream's frame.
type At struct {
	change.Point
	Time int64 `json:"time"` // ns since 1970, by the agent's clock
	// Written is when the journal wrote the object that holds it, by the journal's clock;
	// 0 in catalogs of earlier releases.
	Written int64 `json:"written,omitempty"`
}

// Taken is when the journal had it, as far as is known.
func (a *At) Taken() time.Time {
	if a.Written != 0 {
		return time.Unix(0, a.Written)
	}
	return time.Unix(0, a.Time)
}

// Stream is what a catalog has of a stream.
type Stream struct {
	// Retained are LSNs at which a layer of each of its volumes ends, oldest first: points
	// that need no frames.
	Retained []RetainedPoint    `json:"kept"`
	Coarse   []Coarse           `json:"coarse,omitempty"`
	Volumes  map[uint32]*Volume `json:"volumes"` // by number
}

// Clone is a copy that can be added to.
func (s *Stream) Clone() *Stream {
	out := &Stream{Retained: slices.Clone(s.Retained), Coarse: slices.Clone(s.Coarse), Volumes: map[uint32]*Volume{}}
	for n, v := range s.Volumes {
		out.Volumes[n] = &Volume{Layers: slices.Clone(v.Layers)}
	}
	return out
}

// Coarse is a range of LSNs of which only some are points: writes were folded.
type Coarse struct {
	FirstLSN  uint64 `json:"first_lsn"`
	LastLSN   uint64 `json:"last_lsn"` // a point
	FirstTime int64  `json:"first_time"`
	LastTime  int64  `json:"last_time"`
	Points    int    `json:"points"`
}

// RetainedPoint is a point at which layers end.
type RetainedPoint struct {
	At
	Bookmark string `json:"bookmark,omitempty"`
}

// Volume is a volume's map.
type Volume struct {
	Layers []Layer `json:"layers"` // oldest first
}

// Layer is what changed of a volume between two LSNs, or with Whole all that it had
// at the second.
type Layer struct {
	Whole   bool               `json:"whole,omitempty"`
	From    uint64             `json:"from"`
	To      uint64             `json:"to"`
	Objects []extent.MapObject `json:"parts"` // none: nothing changed
}

// Extents is how many a layer has.
func (l *Layer) Extents() (n int64) {
	for i := range l.Objects {
		n += l.Objects[i].Extents
	}
	return n
}

// End is the last mark.
func (c *Catalog) End() *ReadPoint { return &c.ReadPoints[len(c.ReadPoints)-1] }

// Passed reports whether the log has passed a position: those may be freed that nothing
// needs. Of the others, each is as its first writer left it.
func (c *Catalog) Passed(position uint64) bool {
	end := c.End()
	return position < c.ReadPoints[0].Position && position+1 < min(end.Durable, end.Position)
}

// PointAt returns where a stream stood at a mark.
func (c *Catalog) PointAt(mark int, id change.StreamID) At {
	for ; mark >= 0; mark-- {
		if at, ok := c.ReadPoints[mark].Streams[id]; ok {
			return at
		}
	}
	return At{}
}

// ReadPointBefore returns the last one at which a stream had not yet passed an LSN, -1
// where all of them are behind it.
func (c *Catalog) ReadPointBefore(id change.StreamID, lsn uint64) int {
	return sort.Search(len(c.ReadPoints), func(i int) bool { return c.PointAt(i, id).LSN >= lsn }) - 1
}

// ReadPointBeforeTime returns the last one at which the stream's last frame had ended at or
// before t, -1 where there is none.
func (c *Catalog) ReadPointBeforeTime(id change.StreamID, t time.Time) int {
	return sort.Search(len(c.ReadPoints), func(i int) bool { return c.PointAt(i, id).Time > t.UnixNano() }) - 1
}

// RetainedAt returns the newest retained point of a stream at or before an LSN.
func (c *Catalog) RetainedAt(id change.StreamID, lsn uint64) (RetainedPoint, bool) {
	s := c.Streams[id]
	if s == nil {
		return RetainedPoint{}, false
	}
	n := sort.Search(len(s.Retained), func(i int) bool { return s.Retained[i].LSN > lsn })
	if n == 0 {
		return RetainedPoint{}, false
	}
	return s.Retained[n-1], true
}

// LayersAt returns the layers of a volume that make up its map at a retained point, newest
// first.
func (c *Catalog) LayersAt(id change.StreamID, volume uint32, lsn uint64) []*Layer {
	s := c.Streams[id]
	if s == nil || s.Volumes[volume] == nil {
		return nil
	}
	return s.Volumes[volume].Chain(lsn)
}

// Chain returns the layers that make up the volume's map at a retained point, newest first.
//
// A layer has all that changed behind From up to To, and may begin before the ones that
// precede it, which it then stands for: behind it comes the first that ends at or after its
// beginning, else, where nothing changed between the two, the one before it. What two of
// them have of the same range is in the newer one as it was last.
func (v *Volume) Chain(lsn uint64) (out []*Layer) {
	i := sort.Search(len(v.Layers), func(i int) bool { return v.Layers[i].To > lsn }) - 1
	for i >= 0 {
		l := &v.Layers[i]
		out = append(out, l)
		if l.Whole {
			break
		}
		first := sort.Search(i, func(k int) bool { return v.Layers[k].To >= l.From })
		i = min(first, i-1)
	}
	return out
}

// SetState takes a control state into the catalog.
func (c *Catalog) SetState(s *state.State) {
	c.State = map[string]json.RawMessage{}
	for _, key := range s.Keys() {
		c.State[key] = s.Save(key)
	}
}

// LoadState returns the control state, a copy of its own.
func (c *Catalog) LoadState() (*state.State, error) {
	s := state.New()
	for key, b := range c.State {
		if err := s.Load(key, b); err != nil {
			return nil, err
		}
	}
	return s, nil
}
