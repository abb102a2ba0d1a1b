package gc

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sort"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/extentmap"
)

// Options are what a run needs. Zero values take defaults.
type Options struct {
	// Dir is for what memory should not hold; "" is the place for temporary files.
	Dir    string
	Now    func() time.Time
	Logger *slog.Logger
}

func (o Options) complete() Options {
	if o.Now == nil {
		o.Now = clock.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Cataloged is what Catalog did.
type Cataloged struct {
	Number   uint64 `json:"number"`   // of the newest catalog
	Position uint64 `json:"position"` // that it covers
	New      bool   `json:"new"`      // it was made now; else nothing was new
	Layers   int    `json:"layers"`   // made
	Bytes    int64  `json:"bytes"`    // of layers made
}

// Catalog makes a catalog of a log as it stands. Where the log has not moved since the
// newest one, there is nothing to do. Another run that is faster is no error: its
// catalog is as good.
func Catalog(ctx context.Context, s objstore.Store, o Options) (Cataloged, error) {
	o = o.complete()
	l, err := twin.Open(ctx, s, nil)
	if err != nil {
		return Cataloged{}, err
	}
	if err := fit(s, l); err != nil {
		return Cataloged{}, err
	}
	w := &writer{o: o, store: s, log: l, run: uuid.NewString()[:8]}
	mark := l.ReadPoint(o.Now())
	if old := l.Catalog; old != nil && old.End().Position == mark.Position && l.CatalogDamage == nil {
		return Cataloged{Number: old.Number, Position: mark.Position}, nil
	}
	c := w.next(mark)
	if l.CatalogDamage != nil { // newer ones speak of a dead branch
		numbers, err := catalog.List(ctx, s)
		if err != nil {
			return Cataloged{}, err
		}
		c.Number = numbers[len(numbers)-1] + 1
	}
	if err := w.layers(ctx, c, &mark); err != nil {
		return Cataloged{}, err
	}
	err = catalog.Create(ctx, s, c)
	if fail.Is(err, fail.Exists) {
		o.Logger.Info("another run made the catalog", "number", c.Number)
		return Cataloged{Number: c.Number}, nil
	}
	return Cataloged{Number: c.Number, Position: mark.Position, New: err == nil, Layers: w.made, Bytes: w.bytes}, err
}

// fit refuses to build on a log that is not whole, or on an older catalog than there
// is: what only the one that cannot be read refers to would be taken for garbage.
func fit(s objstore.Store, l *twin.Log) error {
	err := l.Damage
	for _, broken := range l.Broken { // what lies behind it would be taken for garbage
		if err == nil {
			err = broken
		}
	}
	if err == nil && !twin.IsBranch(l.CatalogDamage) {
		err = l.CatalogDamage
	}
	if err == nil {
		return nil
	}
	return (&fail.Error{Kind: fail.KindOf(err), Op: "make a catalog of", Object: s.URL(), Err: err}).
		WithHint("bring the object back from a version or replica of the bucket (pollux verify names all that is " +
			"damaged); until then nothing is cataloged and nothing deleted")
}

// writer makes one catalog.
type writer struct {
	o     Options
	store objstore.Store
	log   *twin.Log
	run   string // makes the names of its objects its own
	made  int
	bytes int64
}

// next is the catalog behind the one that was read, with the new mark. Its number is
// the next one, so that of two runs that have read the same one wins.
func (w *writer) next(mark catalog.ReadPoint) *catalog.Catalog {
	c := &catalog.Catalog{Journal: w.log.Identity.Journal, Streams: map[change.StreamID]*catalog.Stream{},
		ReadPoints: []catalog.ReadPoint{{Position: 1}}} // behind the identity
	if old := w.log.Catalog; old != nil {
		c = copyOf(old)
		c.Number++
	}
	c.Created = w.o.Now().UTC()
	if mark.Position > c.End().Position {
		c.ReadPoints = append(c.ReadPoints, mark)
	}
	c.Fences = append(c.Fences, w.log.Fences()...)
	c.SetState(w.log.State)
	return c
}

// copyOf is a catalog that can be changed.
func copyOf(old *catalog.Catalog) *catalog.Catalog {
	c := *old
	c.ReadPoints, c.Packs, c.Fences, c.Dead, c.Locked = slices.Clone(old.ReadPoints), slices.Clone(old.Packs),
		slices.Clone(old.Fences), maps.Clone(old.Dead), slices.Clone(old.Locked)
	c.Streams = map[change.StreamID]*catalog.Stream{}
	for id, s := range old.Streams {
		c.Streams[id] = s.Clone()
	}
	return &c
}

// layers adds, for each stream that has moved, layers up to the mark, and up to each
// bookmark on the way.
func (w *writer) layers(ctx context.Context, c *catalog.Catalog, mark *catalog.ReadPoint) error {
	if err := w.late(ctx, c); err != nil {
		return err
	}
	for id, end := range mark.Streams {
		s := c.Streams[id]
		if s == nil {
			s = &catalog.Stream{Volumes: map[uint32]*catalog.Volume{}}
			c.Streams[id] = s
		}
		s.Coarse = append(s.Coarse, w.log.Coarse(id)...)
		from := uint64(0)
		if n := len(s.Retained); n > 0 {
			from = s.Retained[n-1].LSN
		}
		for _, k := range w.stops(ctx, id, from, end) {
			if err := w.stop(ctx, c, id, s, from, k); err != nil {
				return err
			}
			from = k.LSN
		}
	}
	return nil
}

// late adds layers up to bookmarks that were set behind the catalog, at points before
// it: the mark was in the log sooner than its name.
func (w *writer) late(ctx context.Context, c *catalog.Catalog) error {
	for id, s := range c.Streams {
		for _, b := range w.log.State.Bookmarks {
			lsn, on := b.On(id)
			n := sort.Search(len(s.Retained), func(i int) bool { return s.Retained[i].LSN >= lsn })
			if !on || n == len(s.Retained) || s.Retained[n].LSN == lsn || !w.log.Consistent(ctx, id, lsn) {
				continue
			}
			from := uint64(0)
			if n > 0 {
				from = s.Retained[n-1].LSN
			}
			k := catalog.RetainedPoint{At: w.log.When(ctx, id, lsn), Bookmark: b.Name}
			if err := w.insert(ctx, c, id, s, from, k, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// insert makes a retained point of one between two: the layers behind it stay as they are,
// for they have all that changed since the point before it.
func (w *writer) insert(ctx context.Context, c *catalog.Catalog, id change.StreamID, s *catalog.Stream, from uint64,
	to catalog.RetainedPoint, place int) error {
	sorter, err := w.log.Changed(ctx, id, from, to.LSN, w.o.Dir)
	if err != nil {
		return err
	}
	defer sorter.Close()
	for _, v := range w.log.State.Volumes {
		if v.Stream != id {
			continue
		}
		vol := s.Volumes[v.Number]
		if vol == nil {
			vol = &catalog.Volume{}
			s.Volumes[v.Number] = vol
		}
		at := sort.Search(len(vol.Layers), func(i int) bool { return vol.Layers[i].To > to.LSN })
		y := catalog.Layer{Whole: at == 0, From: from, To: to.LSN}
		m := &extentmap.Map{Volume: v.Number, SizeBytes: v.SizeBytes, Recent: sorter, Moved: w.log.Moved}
		y.Objects, err = w.mapObjects(ctx,
			extent.MapHead{Whole: y.Whole, Volume: v.Number, Journal: c.Journal, Stream: id, From: from, To: to.LSN,
				LastWrite: to.Time}, m)
		if err != nil {
			return err
		}
		if len(y.Objects) > 0 {
			vol.Layers = slices.Insert(vol.Layers, at, y)
		}
	}
	s.Retained = slices.Insert(s.Retained, place, to)
	return nil
}

// stops are the points at which layers end: bookmarks that are recovery points, and
// the end.
func (w *writer) stops(ctx context.Context, id change.StreamID, from uint64, end catalog.At) (
	stops []catalog.RetainedPoint) {
	for _, b := range w.log.State.Bookmarks {
		if lsn, on := b.On(id); on && lsn > from && lsn <= end.LSN && w.log.Consistent(ctx, id, lsn) {
			stops = append(stops, catalog.RetainedPoint{At: w.log.When(ctx, id, lsn), Bookmark: b.Name})
		}
	}
	if end.LSN > from && w.log.Consistent(ctx, id, end.LSN) {
		stops = append(stops, catalog.RetainedPoint{At: end})
	}
	slices.SortStableFunc(stops, func(a, b catalog.RetainedPoint) int { return cmp.Compare(a.LSN, b.LSN) })
	// the bookmark's comes first
	return slices.CompactFunc(stops, func(a, b catalog.RetainedPoint) bool { return a.LSN == b.LSN })
}

// stop makes the layers of all of a stream's volumes between two LSNs.
func (w *writer) stop(ctx context.Context, c *catalog.Catalog, id change.StreamID, s *catalog.Stream, from uint64,
	to catalog.RetainedPoint) error {
	sorter, err := w.log.Changed(ctx, id, from, to.LSN, w.o.Dir)
	if err != nil {
		return err
	}
	defer sorter.Close()
	for _, v := range state.Sorted(w.log.State.Volumes, func(v *state.Volume) string { return v.Name }) {
		if v.Stream != id {
			continue
		}
		m := &extentmap.Map{Volume: v.Number, SizeBytes: v.SizeBytes, Recent: sorter, Moved: w.log.Moved}
		if _, any, err := m.Next(ctx, 0); err != nil || !any {
			if err != nil {
				return err
			}
			continue
		}
		vol := s.Volumes[v.Number]
		if vol == nil {
			vol = &catalog.Volume{}
			s.Volumes[v.Number] = vol
		}
		layer, err := w.layer(ctx, c, id, v, vol, m, from, to)
		if err != nil {
			return err
		}
		vol.Layers = append(vol.Layers, layer)
	}
	s.Retained = append(s.Retained, to)
	return nil
}

// layer makes what changed of a volume. It takes along what the newest layers before it
// have, down to the last one that is not twice as large as all that is above it: so a point
// is found through a number of layers that grows with the logarithm of the extents, however
// many catalogs were made, and each extent is written again as seldom. The points of the
// layers that it stands for keep those.
func (w *writer) layer(ctx context.Context, c *catalog.Catalog, id change.StreamID, v *state.Volume,
	vol *catalog.Volume, m *extentmap.Map, from uint64, to catalog.RetainedPoint) (catalog.Layer, error) {
	out := catalog.Layer{Whole: len(vol.Layers) == 0, From: from, To: to.LSN}
	chain, above, take := vol.Chain(to.LSN), m.Recent.Count, 0
	for i, y := range chain {
		if y.Extents() < 2*above {
			take = i + 1
		}
		above += y.Extents()
	}
	for _, y := range chain[:take] {
		m.Layers = append(m.Layers, extent.OpenLayer(w.store, y.Whole, y.Objects))
		out.From, out.Whole = min(out.From, y.From), y.Whole
	}
	var err error
	out.Objects, err = w.mapObjects(ctx, extent.MapHead{Whole: out.Whole, Volume: v.Number, Journal: c.Journal,
		Stream: id,
		From:   out.From, To: to.LSN, LastWrite: to.Time}, m)
	return out, err
}

// mapObjects stores a map, leaf by leaf.
func (w *writer) mapObjects(ctx context.Context, h extent.MapHead, m *extentmap.Map) ([]extent.MapObject, error) {
	b := &extent.MapBuilder{Head: h, Put: func(ctx context.Context, p *extent.MapObject, body []byte) error {
		p.Name = fmt.Sprintf("map/%010d/%020d-%s-%d", h.Volume, h.To, w.run, w.made)
		w.made++
		w.bytes += int64(len(body))
		return w.store.Create(ctx, p.Name, body)
	}}
	err := m.Each(ctx, !h.Whole, func(leaf int64, extents []extent.Extent) error { return b.Add(ctx, leaf, extents) })
	if err == nil {
		err = b.Finish(ctx)
	}
	return b.Objects, err
}
