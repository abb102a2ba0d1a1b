package gc

import (
	"context"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/pack"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// present refuses to go on when an object that is needed is not there: what is made of
// the rest would be taken for all. A list is no snapshot; what it lacks is asked for by
// name, and added, before it counts as missing.
func (g *collection) present(ctx context.Context, c *catalog.Catalog, r *refs, all *listed) error {
	stay := map[string]bool{}
	for _, name := range all.stay {
		stay[name] = true
	}
	has := func(name string) (bool, error) {
		if _, ok := all.objects[name]; ok || stay[name] {
			return true, nil
		}
		n, err := g.store.Size(ctx, name)
		if fail.Is(err, fail.NotFound) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if pos, ok := objlog.PositionOf(name); ok && pos >= g.rep.Floor {
			all.stay, stay[name] = append(all.stay, name), true
		} else {
			all.objects[name] = objstore.Info{Name: name, Bytes: n}
		}
		return true, nil
	}
	need := func(name string) error {
		ok, err := has(name)
		if ok || err != nil {
			return err
		}
		return fail.New(fail.Damaged, "collect garbage", g.store.URL()+"/"+name, "the object is needed, and missing").
			WithHint("bring it back from a version or replica of the bucket (in a bucket with versions, " +
				"delete the marker that hides it); until then nothing is deleted")
	}
	for pos := c.ReadPoints[0].Position; pos < c.End().Position; pos++ {
		if err := need(objlog.ObjectName(pos)); err != nil {
			return err
		}
	}
	for o := range r.live {
		if err := need(o.Name()); err != nil {
			return err
		}
	}
	for i := range c.Packs { // one that nothing is needed of may be gone
		if _, err := has(pack.Name(c.Packs[i].Number)); err != nil {
			return err
		}
	}
	return nil
}
