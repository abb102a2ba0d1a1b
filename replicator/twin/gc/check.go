package gc

import (
	"context"
	"errors"
	"slices"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/objlog/pack"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// Checked is what Check found beside the log.
type Checked struct {
	Catalogs int       `json:"catalogs"`
	Layers   int       `json:"layers"` // objects
	Packs    int       `json:"packs"`
	Bytes    int64     `json:"bytes"`
	Damaged  []Damaged `json:"damaged"`
}

// Damaged is an object that is damaged or missing.
type Damaged struct {
	Name string `json:"name"`
	Kind string `json:"kind"`
	Text string `json:"text"`
}

// Check reads every catalog, and every layer and pack of the newest one, and checks
// all of each. What garbage collection replaces meanwhile is looked up through the
// catalog that replaced it.
func Check(ctx context.Context, s objstore.Store) (*Checked, error) {
	k := &checker{store: s, out: &Checked{Damaged: []Damaged{}}, seen: map[string]bool{}}
	for again := true; again; {
		c, err := k.catalogs(ctx)
		if err != nil || c == nil {
			return k.out, err
		}
		again, err = k.twin(ctx, c)
		if err != nil {
			return nil, err
		}
	}
	return k.out, nil
}

// checker is one Check.
type checker struct {
	store objstore.Store
	out   *Checked
	seen  map[string]bool // objects
}

// note takes down what is wrong with an object; any other error is returned.
func (k *checker) note(ctx context.Context, name string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil, !fail.Is(err, fail.Damaged) && !fail.Is(err, fail.NotFound) &&
		!fail.Is(err, fail.Unsupported):
		return err
	}
	k.out.Damaged = append(k.out.Damaged, Damaged{name, fail.KindOf(err).String(), err.Error()})
	return nil
}

// catalogs checks those that were not yet, and returns the newest one that is whole.
func (k *checker) catalogs(ctx context.Context) (newest *catalog.Catalog, err error) {
	numbers, err := catalog.List(ctx, k.store)
	for _, n := range slices.Backward(numbers) {
		name := catalog.Name(n)
		if k.seen[name] && newest != nil {
			continue
		}
		c, err := catalog.Load(ctx, k.store, n)
		if fail.Is(err, fail.NotFound) {
			continue // garbage, deleted since it was listed
		}
		if err == nil && newest == nil {
			newest = c
		}
		if k.seen[name] {
			continue
		}
		k.seen[name] = true
		k.out.Catalogs++
		if err := k.note(ctx, name, err); err != nil {
			return nil, err
		}
	}
	return newest, err
}

// twin checks what a catalog refers to. again is true where an object was not found and
// there is a newer catalog by now.
func (k *checker) twin(ctx context.Context, c *catalog.Catalog) (again bool, err error) {
	one := func(name string, limit int64, count *int, check func(b []byte) error) bool {
		if k.seen[name] {
			return true
		}
		var b []byte
		if b, err = objstore.ReadWhole(ctx, k.store, name, limit); err == nil {
			err = fail.At("read", k.store.URL()+"/"+name, check(b))
		}
		if fail.Is(err, fail.NotFound) && ctx.Err() == nil {
			var lerr error
			if again, lerr = k.replaced(ctx, c); lerr != nil || again {
				err = lerr
				return false
			}
		}
		if err = k.note(ctx, name, err); err != nil {
			return false
		}
		k.seen[name] = true
		*count, k.out.Bytes = *count+1, k.out.Bytes+int64(len(b))
		return true
	}
	for id, st := range c.Streams {
		for number, v := range st.Volumes {
			for i := range v.Layers {
				y := &v.Layers[i]
				same := func(h *extent.MapHead) bool {
					return h.Volume == number && h.Stream == id && h.To == y.To && h.Whole == y.Whole &&
						h.Journal == c.Journal
				}
				for j := range y.Objects {
					o := &y.Objects[j]
					if !one(o.Name, extent.MaxMapBytes, &k.out.Layers,
						func(b []byte) error { return checkMap(b, o, same) }) {
						return again, err
					}
				}
			}
		}
	}
	for i := range c.Packs {
		number := c.Packs[i].Number
		if _, dead := c.Dead[pack.Name(number)]; dead {
			continue
		}
		check := func(b []byte) error { _, err := pack.Check(b, number); return err }
		if !one(pack.Name(number), pack.MaxBytes, &k.out.Packs, check) {
			return again, err
		}
	}
	return false, nil
}

// replaced reports whether there is a newer catalog.
func (k *checker) replaced(ctx context.Context, c *catalog.Catalog) (bool, error) {
	numbers, err := catalog.List(ctx, k.store)
	return len(numbers) > 0 && numbers[len(numbers)-1] > c.Number, err
}

func checkMap(b []byte, o *extent.MapObject, same func(*extent.MapHead) bool) error {
	extents := int64(0)
	h, err := extent.WalkMap(b, func(_ int64, e []extent.Extent) error {
		extents += int64(len(e))
		return nil
	})
	if err == nil && (!same(&h) || extents != o.Extents || int64(len(b)) != o.Bytes) {
		err = fail.New(fail.Damaged, "decode map", "at byte 0", "it is not the one that the catalog names")
	}
	return err
}

// Touched is what damaged objects mean for a volume.
type Touched struct {
	Volume string `json:"volume"`
	Group  string `json:"group"`
	// Newest is whether its newest point needs what is damaged, and NewestBytes how much;
	// Error is set where that cannot be found out.
	Newest      bool   `json:"newest"`
	NewestBytes int64  `json:"newest_bytes"`
	Error       string `json:"error,omitempty"`
}

// Touches finds out which volumes' newest points need any of the objects.
func Touches(ctx context.Context, l *twin.Log, damaged map[string]bool, o Options) (out []Touched, err error) {
	for _, v := range state.Sorted(l.State.Volumes, func(v *state.Volume) string { return v.Name }) {
		t := Touched{Volume: v.Name, Group: v.Group}
		p, err := l.Resolve(ctx, v, "", o.complete().Now())
		if err == nil {
			t.NewestBytes, err = needs(ctx, l, p, damaged, o.Dir)
		}
		if ctx.Err() != nil {
			return nil, err
		}
		if t.Newest = t.NewestBytes > 0 || err != nil; err != nil {
			t.Error = err.Error()
		}
		if t.Newest {
			out = append(out, t)
		}
	}
	return out, nil
}

// needs counts the bytes of a point that lie in any of the objects.
func needs(ctx context.Context, l *twin.Log, p twin.Point, damaged map[string]bool, dir string) (n int64, err error) {
	image, err := l.Image(ctx, p, dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, image.Close()) }()
	err = image.Map.Each(ctx, false, func(_ int64, extents []extent.Extent) error {
		for i := range extents {
			if damaged[extents[i].Block.Object.Name()] {
				n += extents[i].Len
			}
		}
		return nil
	})
	return n, err
}
