package gc

import (
	"context"
	"errors"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/catalog"
	"github.com/pollux-dr/pollux/replicator/extent"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/pack"
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
// all of each.
func Check(ctx context.Context, s objstore.Store) (*Checked, error) {
	out := &Checked{Damaged: []Damaged{}}
	numbers, err := catalog.List(ctx, s)
	if err != nil {
		return nil, err
	}
	note := func(name string, err error) error {
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil || (!fail.Is(err, fail.Damaged) && !fail.Is(err, fail.NotFound) && !fail.Is(err, fail.Unsupported)):
			return err
		}
		out.Damaged = append(out.Damaged, Damaged{name, fail.KindOf(err).String(), err.Error()})
		return nil
	}
	var c *catalog.Catalog
	for _, n := range numbers {
		one, err := catalog.Load(ctx, s, n)
		if err == nil {
			c = one
		}
		if err := note(catalog.Name(n), err); err != nil {
			return nil, err
		}
		out.Catalogs++
	}
	if c == nil {
		return out, nil
	}
	for id, st := range c.Streams {
		for number, v := range st.Volumes {
			for i := range v.Layers {
				for k := range v.Layers[i].Parts {
					y, part := &v.Layers[i], &v.Layers[i].Parts[k]
					b, err := s.Read(ctx, part.Name, 0, -1, nil)
					if err == nil {
						err = checkPart(b, part, func(h *extent.LayerHead) bool {
							return h.Volume == number && h.Stream == id && h.To == y.To && h.Whole == y.Whole && h.Journal == c.Journal
						})
						err = fail.At("read", s.URL()+"/"+part.Name, err)
					}
					if err := note(part.Name, err); err != nil {
						return nil, err
					}
					out.Layers, out.Bytes = out.Layers+1, out.Bytes+int64(len(b))
				}
			}
		}
	}
	for i := range c.Packs {
		name := pack.Name(c.Packs[i].Number)
		if _, dead := c.Dead[name]; dead {
			continue
		}
		b, err := s.Read(ctx, name, 0, -1, nil)
		if err == nil {
			_, err = pack.Check(b, c.Packs[i].Number)
			err = fail.At("read", s.URL()+"/"+name, err)
		}
		if err := note(name, err); err != nil {
			return nil, err
		}
		out.Packs, out.Bytes = out.Packs+1, out.Bytes+int64(len(b))
	}
	return out, nil
}

func checkPart(b []byte, part *extent.Part, same func(*extent.LayerHead) bool) error {
	extents := int64(0)
	h, err := extent.WalkLayer(b, func(_ int64, e []extent.Extent) error {
		extents += int64(len(e))
		return nil
	})
	if err == nil && (!same(&h) || extents != part.Extents || int64(len(b)) != part.Bytes) {
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
			if damaged[twin.ObjectName(extents[i].Block.Position)] {
				n += extents[i].Len
			}
		}
		return nil
	})
	return n, err
}
