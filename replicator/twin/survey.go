package twin

import (
	"context"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
)

// survey finds what there is to examine, and reads the footers. What is missing may be
// what garbage collection let go of meanwhile: then there is a newer catalog, and what
// that says is gone is not missing.
func survey(ctx context.Context, s objstore.Store) (*examiner, []*Object, error) {
	numbers, err := catalog.List(ctx, s)
	for err == nil {
		x, objects, err := surveyAt(ctx, s, numbers)
		if err != nil || !anyMissing(objects) {
			return x, objects, err
		}
		newer, err := catalog.List(ctx, s)
		if err != nil || !later(newer, numbers) {
			return x, objects, err
		}
		numbers = newer
	}
	return nil, nil, err
}

func anyMissing(objects []*Object) bool {
	for _, o := range objects {
		if o.Standing == Missing || fail.Is(o.Err, fail.NotFound) {
			return true
		}
	}
	return false
}

// surveyAt is survey by the newest of some catalogs that can be read, and of which no
// fence has made a dead branch.
func surveyAt(ctx context.Context, s objstore.Store, numbers []uint64) (*examiner, []*Object, error) {
	for i := len(numbers) - 1; ; i-- {
		x := &examiner{store: s, floor: 1, state: state.New(),
			points: map[change.StreamID]change.Point{}, parts: map[change.StreamID]*StreamPart{}}
		x.totals.Standings, x.totals.Types = map[string]int{}, map[string]int{}
		var c *catalog.Catalog
		if i >= 0 {
			var err error
			if c, err = catalog.Load(ctx, s, numbers[i]); ofObject(err) {
				continue
			}
			if err == nil {
				err = x.begin(c)
			}
			if err != nil {
				return nil, nil, err
			}
		}
		all, err := x.positions(ctx)
		if err != nil {
			return nil, nil, err
		}
		objects, err := x.footers(ctx, all)
		if err != nil || c == nil || !deadBranch(c, objects) {
			return x, objects, err
		}
	}
}

// deadBranch reports whether a fence behind a catalog goes on before its end.
func deadBranch(c *catalog.Catalog, objects []*Object) bool {
	end := c.End()
	for _, o := range objects {
		x := o.Index
		if x == nil || x.Type != segment.Fence || o.Position < end.Position {
			continue
		}
		if x.FirstIndex <= end.Index && x.Token.Compare(end.Token) > 0 {
			return true
		}
	}
	return false
}

// begin starts at a catalog's floor, where it has one. What the commands from there up
// to its end have made is in its control state, which they cannot be applied to: they
// are, from the end on.
func (x *examiner) begin(c *catalog.Catalog) (err error) {
	x.catalog = c.Number
	m := &c.ReadPoints[0]
	if m.Position <= 1 {
		return nil
	}
	x.floor, x.from, x.blind = m.Position, m, c.End().Position
	clear(x.points)
	for id := range c.Streams {
		if at := c.PointAt(0, id); at.LSN > 0 {
			x.points[id] = at.Point
		}
	}
	x.state, err = c.LoadState()
	return err
}

// gone reports whether an object is not there any more and need not be: garbage
// collection has moved the floor beyond it since. Then chains and commands go on from
// the newest catalog's floor.
func (x *examiner) gone(ctx context.Context, o *Object) (bool, error) {
	if !o.absent {
		return false, nil
	}
	if o.Position < x.floor {
		return true, nil
	}
	numbers, err := catalog.List(ctx, x.store)
	for i := len(numbers) - 1; i >= 0 && err == nil && numbers[i] > x.catalog; i-- {
		var c *catalog.Catalog
		if c, err = catalog.Load(ctx, x.store, numbers[i]); ofObject(err) {
			err = nil
			continue
		}
		if err == nil && c.ReadPoints[0].Position > o.Position {
			x.lost = false
			return true, x.begin(c)
		}
		break
	}
	return false, err
}
