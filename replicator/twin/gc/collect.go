package gc

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/pack"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// CollectOptions say what a collection may do.
type CollectOptions struct {
	Options
	DryRun bool
	// Grace is how long an object that nothing needs any more stays, for those who read
	// by an older catalog. It must be longer than any run of gc takes.
	Grace time.Duration
	// SparseBelow is the part of an object below which what is needed of it is moved.
	SparseBelow float64
	// Lock is for how long the store shall keep what is needed from deletion, and what
	// the store that is given asks for with each object. Zero is the bucket's own rule.
	Lock objstore.LockRule
}

// DefaultSparseBelow bounds what garbage takes to a quarter of what is needed.
const DefaultSparseBelow = 0.8

// Report is what a collection did, or would do.
type Report struct {
	Catalog   uint64    `json:"catalog"` // the newest
	Position  uint64    `json:"position"`
	Floor     uint64    `json:"floor"`          // objects of the log below are not needed as such
	Dropped   []Dropped `json:"dropped_points"` // that the policies do not keep any more
	Moved     Amount    `json:"moved"`          // sparse objects
	Packs     Amount    `json:"packs"`          // made of them
	Waiting   Amount    `json:"waiting"`        // garbage in its time of grace
	Deleted   Amount    `json:"deleted"`
	Held      Amount    `json:"held"`   // garbage whose date has not come (Object Lock)
	Failed    Amount    `json:"failed"` // could not be deleted
	FailedWhy string    `json:"failed_why,omitempty"`
	Locked    *Locked   `json:"object_lock,omitempty"`
	Names     []Garbage `json:"garbage"` // all of it, by name
	DryRun    bool      `json:"dry_run"`
}

// Amount counts objects.
type Amount struct {
	Objects int   `json:"objects"`
	Bytes   int64 `json:"bytes"`
}

func (a *Amount) add(bytes int64) { a.Objects, a.Bytes = a.Objects+1, a.Bytes+bytes }

// Garbage is an object that nothing needs.
type Garbage struct {
	Name  string    `json:"name"`
	Bytes int64     `json:"bytes"`
	Why   string    `json:"why"`
	Since time.Time `json:"since"` // it is known to be
	Due   bool      `json:"due"`   // its time of grace is over
}

// Collect makes a catalog, drops the points that the policies do not keep, moves what
// is needed of sparse objects, and deletes what nothing has needed for the time of
// grace. Whatever it ends at, a next run goes on. Another run beside it is
// fail.Retry.
func Collect(ctx context.Context, s objstore.Store, o CollectOptions) (*Report, error) {
	o.Options = o.complete()
	if err := o.findRule(ctx, s); err != nil {
		return nil, err
	}
	rep := &Report{DryRun: o.DryRun, Names: []Garbage{}, Dropped: []Dropped{}}
	if !o.DryRun {
		if _, err := Catalog(ctx, s, o.Options); err != nil {
			return nil, err
		}
	}
	answered, err := answers(ctx, s)
	if err != nil {
		return nil, err
	}
	l, err := twin.Open(ctx, s, nil)
	if err != nil {
		return nil, err
	}
	if err := fit(s, l); err != nil {
		return nil, err
	}
	if l.Catalog == nil {
		if o.DryRun {
			return nil, fail.New(fail.NotFound, "collect garbage", s.URL(), "there is no catalog yet").
				WithHint("pollux gc without --dry-run makes one first")
		}
		return nil, fail.New(fail.Retry, "collect garbage", s.URL(), "the catalog that was made is not there").
			WithHint("the store has listed what it held earlier: try again")
	}
	g := &collection{o: &o, store: s, log: l, rep: rep, answers: answered,
		w: &writer{o: o.Options, store: s, log: l, run: uuid.NewString()[:8]}}
	if o.DryRun {
		g.w.store = &pretend{Store: s, made: map[string][]byte{}} // layers that would be made
	}
	return rep, g.run(ctx)
}

// collection is one run.
type collection struct {
	o     *CollectOptions
	store objstore.Store
	log   *twin.Log
	w     *writer
	rep   *Report
	last  time.Time // when the journal wrote last, by its clock

	answers []objstore.Info // to hand-overs, listed before the log was opened
}

func (g *collection) run(ctx context.Context) error {
	var err error
	if g.last, err = g.log.LastTime(ctx); err != nil {
		return err
	}
	old := g.log.Catalog
	// What the log has gained meanwhile is for the next run: state and mark belong together.
	c := copyOf(old)
	c.Number, c.Created = old.Number+1, g.o.Now().UTC()
	p := &pruner{w: g.w, c: c, state: g.log.State, now: earlier(g.o.Now(), g.last)}
	changed, err := p.prune(ctx)
	if err != nil {
		return err
	}
	g.rep.Dropped, g.rep.Floor, g.rep.Position = append(g.rep.Dropped, p.dropped...), c.ReadPoints[0].Position,
		c.End().Position
	r, err := g.w.findRefs(ctx, c)
	if err != nil {
		return err
	}
	defer r.by.Close()
	all, err := g.list(ctx)
	if err != nil {
		return err
	}
	if err := g.present(ctx, c, r, all); err != nil {
		return err
	}
	changed = settleFences(old, c, all, g.o.Now()) || changed
	g.warnUnextended(ctx, c)
	moved, err := g.repack(ctx, c, r, all)
	if err != nil {
		return err
	}
	dead := g.garbage(c, r, all)
	changed = changed || moved || worthNoting(c.Dead, dead)
	c.Dead = dead
	extended, err := g.extend(ctx, c, all)
	if err != nil {
		return err
	}
	now := earlier(g.o.Now(), g.last.Add(clockSlack))
	changed = changed || extended || g.anyDue(old, dead, all, now)
	g.rep.Catalog = old.Number
	if changed && !g.o.DryRun {
		err := catalog.Create(ctx, g.store, c)
		if fail.Is(err, fail.Exists) {
			return fail.New(fail.Retry, "collect garbage", g.store.URL(), "another run has made catalog "+
				catalog.Name(c.Number)).WithHint("run it again later")
		}
		if err != nil {
			return err
		}
		g.rep.Catalog = c.Number
	}
	if err := g.delete(ctx, old, c, all, now); err != nil {
		return err
	}
	return g.deleteAnswers(ctx)
}

// worthNoting reports whether a catalog should be made for what has become garbage, or
// is gone. For a few old catalogs it should not: it would make one more.
func worthNoting(was, is map[string]time.Time) bool {
	const catalogs = 8
	differ := 0
	for _, maps := range [][2]map[string]time.Time{{was, is}, {is, was}} {
		for name := range maps[0] {
			if _, ok := maps[1][name]; ok {
				continue
			}
			if differ++; differ >= catalogs || !strings.HasPrefix(name, "catalog/") {
				return true
			}
		}
	}
	return false
}

// listed are the objects of a log that can become garbage.
type listed struct {
	objects map[string]objstore.Info
	stay    []string  // names of what cannot
	newest  time.Time // when the newest of all was made, by the store's clock
}

func (g *collection) list(ctx context.Context) (*listed, error) {
	all := &listed{objects: map[string]objstore.Info{}}
	for _, prefix := range []string{"log/", "map/", "pack/", "catalog/"} {
		err := g.store.List(ctx, prefix, "", func(i objstore.Info) error {
			all.newest = later(all.newest, i.Modified)
			if prefix == "log/" {
				if pos, ok := objlog.PositionOf(i.Name); !ok {
					return nil // not ours
				} else if pos == 0 || pos >= g.rep.Floor {
					all.stay = append(all.stay, i.Name)
					return nil
				}
			}
			all.objects[i.Name] = i
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// repack moves what is needed of objects of which little is.
func (g *collection) repack(ctx context.Context, c *catalog.Catalog, r *refs, all *listed) (bool, error) {
	sparse := map[objlog.ObjectID]bool{}
	for o, u := range r.live {
		object, there := all.objects[o.Name()]
		var free bool
		if pos, ok := o.Position(); ok {
			free = !protected(c, pos)
		} else { // what layers find through a pack's tables cannot be moved again
			free = !r.through(c, o)
		}
		if there && free && u.runs <= maxRuns && u.stored < g.o.SparseBelow*float64(object.Bytes) {
			sparse[o] = true
			g.rep.Moved.add(object.Bytes)
		}
	}
	if len(sparse) == 0 || g.o.DryRun {
		return false, nil
	}
	p := &packer{w: g.w, c: c}
	err := p.repack(ctx, r, sparse)
	g.rep.Packs = Amount{p.made, p.bytes}
	return true, err
}

// maxRuns bounds the pieces of one object in a pack, whose tables have a line for each.
const maxRuns = 1 << 20

// protected reports whether a fenced writer might try the position, or the present one
// looks for it.
func protected(c *catalog.Catalog, position uint64) bool {
	if !c.Passed(position) {
		return true
	}
	for _, f := range c.Fences {
		if position >= f.From && position <= f.Position {
			return true
		}
	}
	return position == 0
}

// garbage returns what no layer, catalog or writer needs, and since when.
func (g *collection) garbage(c *catalog.Catalog, r *refs, all *listed) map[string]time.Time {
	needed := map[string]bool{catalog.Name(c.Number): true, catalog.Name(c.Number - 1): true}
	for _, s := range c.Streams {
		for _, v := range s.Volumes {
			for i := range v.Layers {
				for _, o := range v.Layers[i].Objects {
					needed[o.Name] = true
				}
			}
		}
	}
	gone := map[objlog.ObjectID]bool{} // moved in this run: the layers refer to where it went
	for i := range c.Packs {
		for _, o := range c.Packs[i].Moved {
			gone[o] = true
		}
	}
	for i := range c.Packs {
		if o := objlog.InPack(c.Packs[i].Number); (r.live[o] != nil && !gone[o]) || r.through(c, o) {
			needed[pack.Name(c.Packs[i].Number)] = true
		}
	}
	fresh := len(g.log.Catalog.Packs) // those made in this run are needed, and counted nowhere yet
	for i := range c.Packs[fresh:] {
		needed[pack.Name(c.Packs[fresh+i].Number)] = true
	}
	old := len(g.log.Catalog.Packs)
	// deleted, and nobody can ask for it
	c.Packs = append(slices.DeleteFunc(slices.Clone(c.Packs[:old]), func(p catalog.Pack) bool {
		_, there := all.objects[pack.Name(p.Number)]
		return !there
	}), c.Packs[old:]...)
	// a clock that is behind takes nothing of the grace
	dead, now := map[string]time.Time{}, later(g.o.Now(), g.last).UTC()
	for name := range all.objects {
		if pos, ok := objlog.PositionOf(name); ok {
			o := objlog.InLog(pos)
			if protected(c, pos) || (r.live[o] != nil && !gone[o]) {
				continue
			}
		} else if needed[name] {
			continue
		}
		since := now
		if was, ok := c.Dead[name]; ok {
			since = earlier(was, now) // a clock that was ahead then holds nothing for long
		}
		dead[name] = since
	}
	return dead
}

// pretend is a store that keeps what is created to itself.
type pretend struct {
	objstore.Store
	made map[string][]byte
}

func (p *pretend) Create(_ context.Context, name string, body []byte) error {
	p.made[name] = slices.Clone(body)
	return nil
}

func (p *pretend) Read(ctx context.Context, name string, off, n int64, buf []byte) ([]byte, error) {
	b, ok := p.made[name]
	if !ok {
		return p.Store.Read(ctx, name, off, n, buf)
	}
	if off < 0 {
		off, n = max(0, int64(len(b))+off), int64(len(b))
	}
	b = b[min(off, int64(len(b))):]
	if n >= 0 {
		b = b[:min(n, int64(len(b)))]
	}
	return append(buf[:0], b...), nil
}
