package twin

import (
	"context"
	"slices"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/state"
)

// At is an LSN and its time.
type At struct {
	LSN  uint64    `json:"lsn"`
	Time time.Time `json:"time"` // of the frame that it ends, or lies in
}

// Coarse is a range of LSNs of which only some are points: writes were folded.
type Coarse struct {
	First  At  `json:"first"`
	Last   At  `json:"last"` // a point
	Points int `json:"points"`
}

// Break is a range without points, between two that are: the primary's WAL
// overflowed. Until is nil while the resync has not ended.
type Break struct {
	After At  `json:"after"`
	Until *At `json:"until"`
}

// NamedPoint is a bookmark on a volume's stream.
type NamedPoint struct {
	Name string `json:"name"`
	At
	InLog bool `json:"in_log"` // it can be restored
}

// Points are the recovery points of a volume: single ones (Retained), and every LSN from
// Window to Newest, but for Coarse and Breaks.
type Points struct {
	Volume    string       `json:"volume"`
	Group     string       `json:"group"`
	Ready     bool         `json:"ready"` // else there is none: the initial sync is not complete
	Removed   bool         `json:"removed"`
	First     At           `json:"first"`
	Retained  []At         `json:"kept"`   // before Window
	Window    At           `json:"window"` // from here on every write is one
	Newest    At           `json:"newest"`
	Retention string       `json:"retention"`
	Bookmarks []NamedPoint `json:"bookmarks"`
	Coarse    []Coarse     `json:"coarse"`
	Breaks    []Break      `json:"breaks"`
}

// PointsOf lists a volume's recovery points.
func (l *Log) PointsOf(ctx context.Context, v *state.Volume) Points {
	r, _ := l.RangeOf(v.Stream)
	l.aheadOf(ctx, v, r.LastLSN)
	at := func(lsn uint64) At { return At{lsn, l.timeOf(ctx, v, lsn).UTC()} }
	p := Points{Volume: v.Name, Group: v.Group, Ready: v.Ready && v.FirstLSN <= r.LastLSN, Removed: v.Removed,
		First: at(l.FirstPoint(ctx, v)), Newest: at(r.LastLSN),
		Bookmarks: []NamedPoint{}, Coarse: l.coarse(v.Stream, v.FirstLSN), Breaks: []Break{}}
	p.Retained, p.Window, p.Retention = []At{}, p.First, (*state.Retention)(nil).String()
	if g := l.State.Groups[v.Group]; g != nil {
		p.Retention = g.Retention.String()
	}
	if l.Catalog != nil {
		if first, cut := l.first(v.Stream); cut && first.LSN > v.FirstLSN {
			p.Window = At{first.LSN, time.Unix(0, first.Time).UTC()}
			for _, k := range l.Catalog.Streams[v.Stream].Retained {
				if k.LSN < first.LSN && k.LSN >= v.FirstLSN {
					p.Retained = append(p.Retained, At{k.LSN, time.Unix(0, k.Time).UTC()})
				}
			}
		}
	}
	if st := l.State.Streams[v.Stream]; st != nil {
		for i := range st.Resyncs {
			g := &st.Resyncs[i]
			b := Break{After: at(g.After)}
			if g.Until > 0 && g.Until <= r.LastLSN {
				until := at(g.Until)
				b.Until = &until
			} else {
				p.Newest = b.After
			}
			if g.Until == 0 || g.Until >= v.FirstLSN {
				p.Breaks = append(p.Breaks, b)
			}
		}
	}
	for _, b := range l.State.Bookmarks {
		lsn, on := b.On(v.Stream)
		if b.Group != v.Group || !on {
			continue
		}
		_, err := l.Resolve(ctx, v, b.Name, time.Time{})
		p.Bookmarks = append(p.Bookmarks, NamedPoint{Name: b.Name, At: At{lsn, b.Time.UTC()}, InLog: err == nil})
	}
	slices.SortFunc(p.Bookmarks, func(a, b NamedPoint) int { return a.Time.Compare(b.Time) })
	return p
}

// aheadOf reads the parts of the log in which the points lie that PointsOf names.
func (l *Log) aheadOf(ctx context.Context, v *state.Volume, last uint64) {
	lsns := []uint64{v.FirstLSN, last}
	if st := l.State.Streams[v.Stream]; st != nil {
		for i := range st.Resyncs {
			lsns = append(lsns, st.Resyncs[i].After, st.Resyncs[i].Until)
		}
	}
	for _, b := range l.State.Bookmarks {
		if lsn, on := b.On(v.Stream); on && b.Group == v.Group {
			lsns = append(lsns, lsn)
		}
	}
	var marks []int
	for _, lsn := range lsns {
		if _, retained := l.retainedAt(v.Stream, lsn); !retained && lsn <= last {
			marks = append(marks, l.markAt(v.Stream, lsn))
		}
	}
	l.ahead(ctx, marks)
}

// coarse lists the runs of folds of a stream, from an LSN on.
func (l *Log) coarse(id change.StreamID, from uint64) []Coarse {
	all := []catalog.Coarse{}
	if l.Catalog != nil && l.Catalog.Streams[id] != nil {
		all = append(all, l.Catalog.Streams[id].Coarse...)
	}
	out := []Coarse{}
	for _, c := range append(all, l.Coarse(id)...) {
		if c.LastLSN >= from {
			out = append(out, Coarse{At{c.FirstLSN, time.Unix(0, c.FirstTime).UTC()},
				At{c.LastLSN, time.Unix(0, c.LastTime).UTC()}, c.Points})
		}
	}
	return out
}

// Coarse lists the runs of folds of a stream behind the catalog.
func (l *Log) Coarse(id change.StreamID) (out []catalog.Coarse) {
	open := false
	for _, f := range l.Frames[id] {
		e := f.entry()
		if e.Kind != segment.FoldEntry {
			open = false
			continue
		}
		if k := len(out) - 1; open && out[k].LastLSN+1 == e.FirstLSN {
			out[k].LastLSN, out[k].LastTime, out[k].Points = e.LastLSN, e.LastTime, out[k].Points+1
			continue
		}
		out, open = append(out, catalog.Coarse{FirstLSN: e.FirstLSN, LastLSN: e.LastLSN, FirstTime: e.FirstTime,
			LastTime: e.LastTime, Points: 1}), true
	}
	return out
}
