package gc

import (
	"context"
	"slices"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin/extentmap"
)

// pruner takes out of a catalog what the policies do not keep.
type pruner struct {
	w       *writer
	c       *catalog.Catalog
	state   *state.State
	now     time.Time // by gc's clock or the journal's, whichever is behind
	dropped []Dropped
	needs   map[change.StreamID]uint64
}

// Dropped is a point that is not kept any more.
type Dropped struct {
	Group  string    `json:"group"`
	Stream string    `json:"stream"`
	LSN    uint64    `json:"lsn"`
	Time   time.Time `json:"time"`
}

// prune drops points before the horizons, merges their layers into those of the next
// point that is kept, and moves the floor. It reports whether anything changed.
func (p *pruner) prune(ctx context.Context) (changed bool, err error) {
	p.needs = map[change.StreamID]uint64{}
	for id, s := range p.c.Streams {
		st := p.state.Streams[id]
		if st == nil {
			continue
		}
		g := p.state.Groups[st.Group]
		if g == nil || g.Retention.Forever() {
			continue
		}
		retained, base := p.retain(id, s, g)
		p.needs[id] = base
		s.Coarse = slices.DeleteFunc(s.Coarse, func(c catalog.Coarse) bool { return c.LastLSN <= base })
		if len(retained) == len(s.Retained) {
			continue
		}
		changed = true
		for _, k := range s.Retained {
			if !slices.ContainsFunc(retained, func(o catalog.RetainedPoint) bool { return o.LSN == k.LSN }) {
				p.dropped = append(p.dropped, Dropped{Group: st.Group, Stream: id.String(), LSN: k.LSN,
					Time: time.Unix(0, k.Time).UTC()})
			}
		}
		s.Retained = retained
		for number, v := range s.Volumes {
			if v.Layers, err = p.merge(ctx, id, number, v.Layers, retained); err != nil {
				return false, err
			}
		}
	}
	if floor := p.floor(); floor > 0 {
		first := p.c.ReadPoints[floor]
		first.Streams = map[change.StreamID]catalog.At{} // it has nothing before it to look it up in
		for id := range p.state.Streams {
			if at := p.c.PointAt(floor, id); at.LSN > 0 {
				first.Streams[id] = at
			}
		}
		p.c.ReadPoints = append([]catalog.ReadPoint{first}, p.c.ReadPoints[floor+1:]...)
		changed = true
	}
	return changed, nil
}

// retain returns the points of a stream that stay, and the LSN behind which its frames
// are needed. The journal's horizon and the window must both say that a point may go;
// ages are by the journal's clock, of which the present is what it wrote last.
func (p *pruner) retain(id change.StreamID, s *catalog.Stream, g *state.Group) (
	retained []catalog.RetainedPoint, base uint64) {
	window, taken := p.now.Add(-g.Retention.EveryWrite()), p.taken(s.Retained)
	named := map[uint64]bool{}
	for _, b := range p.state.Bookmarks {
		if lsn, on := b.On(id); on && b.Group == g.Name {
			named[lsn] = true
		}
	}
	last := map[string]uint64{} // of each bucket
	for i, k := range s.Retained {
		if k.LSN > p.state.Streams[id].Horizon || taken[i].After(window) {
			break
		}
		base = k.LSN
		if bucket, ok := g.Retention.Bucket(taken[i], p.now); ok {
			last[bucket] = k.LSN
		}
	}
	for i, k := range s.Retained {
		bucket, _ := g.Retention.Bucket(taken[i], p.now)
		if k.LSN >= base || last[bucket] == k.LSN || named[k.LSN] {
			retained = append(retained, k)
		}
	}
	return retained, base
}

// taken is when the journal had each of a stream's points. Where its clock was ahead of
// the present, the next point says so; where it went back, the points before count: what
// clocks contradict each other about is younger rather than older.
func (p *pruner) taken(points []catalog.RetainedPoint) []time.Time {
	out, next := make([]time.Time, len(points)), p.now
	for i := len(points) - 1; i >= 0; i-- {
		if t := points[i].Taken(); !t.After(p.now) {
			next = t
		}
		out[i] = next
	}
	for i := 1; i < len(out); i++ {
		out[i] = later(out[i], out[i-1])
	}
	return out
}

// floor is the last mark from which on all frames are there that any point needs.
func (p *pruner) floor() (floor int) {
	for i := range p.c.ReadPoints {
		for id := range p.state.Streams {
			if p.c.PointAt(i, id).LSN > p.needs[id] {
				return floor
			}
		}
		floor = i
	}
	return floor
}

// merge makes one layer of those between two retained points.
func (p *pruner) merge(ctx context.Context, id change.StreamID, volume uint32, layers []catalog.Layer,
	retained []catalog.RetainedPoint) (out []catalog.Layer, err error) {
	next := 0
	for i := 0; i < len(layers); {
		for next < len(retained) && retained[next].LSN < layers[i].To {
			next++
		}
		j := i + 1
		for j < len(layers) && next < len(retained) && layers[j].To <= retained[next].LSN {
			j++
		}
		run := layers[i:j]
		i = j
		if len(run) == 1 {
			out = append(out, run[0])
			continue
		}
		merged := catalog.Layer{From: run[0].From, To: run[len(run)-1].To}
		m := &extentmap.Map{Volume: volume, SizeBytes: change.MaxOffset, Moved: p.w.log.Moved}
		for k := range run { // a later one may begin before
			merged.From = min(merged.From, run[k].From)
		}
		for k := len(run) - 1; k >= 0 && !merged.Whole; k-- {
			m.Layers = append(m.Layers, extent.OpenLayer(p.w.store, run[k].Whole, run[k].Objects))
			merged.Whole = run[k].Whole
		}
		head := extent.MapHead{Whole: merged.Whole, Volume: volume, Journal: p.c.Journal, Stream: id, From: merged.From,
			To: merged.To}
		if merged.Objects, err = p.w.mapObjects(ctx, head, m); err != nil {
			return nil, err
		}
		out = append(out, merged)
	}
	return out, nil
}
