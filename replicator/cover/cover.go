package cover

// Granule is the unit of the map in bytes; what does not fill one takes a slower
// way.
const Granule = 4096

const leafGranules = 1 << 15

// Cover is the settled part of one volume. Its memory is one bit per Granule that
// was ever settled, and one per byte of each Granule that is settled in part.
type Cover struct {
	leaves  map[int64]*[leafGranules / 64]uint64
	partial map[int64]*mask
}

// mask has a bit for each byte of a Granule.
type mask [Granule / 64]uint64

// New returns a Cover with nothing settled.
func New() *Cover {
	return &Cover{leaves: map[int64]*[leafGranules / 64]uint64{}, partial: map[int64]*mask{}}
}

func (c *Cover) full(g int64) bool {
	leaf := c.leaves[g/leafGranules]
	return leaf != nil && leaf[g%leafGranules/64]&(1<<(g%64)) != 0
}

func (c *Cover) setFull(g int64) {
	leaf := c.leaves[g/leafGranules]
	if leaf == nil {
		leaf = new([leafGranules / 64]uint64)
		c.leaves[g/leafGranules] = leaf
	}
	leaf[g%leafGranules/64] |= 1 << (g % 64)
}

// Settle marks [off, off+n) and calls fn for the runs that were not settled
// before, in ascending order.
func (c *Cover) Settle(off, n int64, fn func(off, n int64)) {
	start, length := int64(0), int64(0)
	emit := func(at, k int64) {
		if length > 0 && start+length == at {
			length += k
			return
		}
		if length > 0 {
			fn(start, length)
		}
		start, length = at, k
	}
	for pos := off; pos < off+n; {
		g := pos / Granule
		end := min(off+n, (g+1)*Granule)
		if !c.full(g) {
			m := c.partial[g]
			switch {
			case m == nil && end-pos == Granule:
				c.setFull(g)
				emit(pos, Granule)
			default:
				c.settlePart(g, m, pos, end, emit)
			}
		}
		pos = end
	}
	if length > 0 {
		fn(start, length)
	}
}

func (c *Cover) settlePart(g int64, m *mask, pos, end int64, emit func(at, k int64)) {
	if m == nil {
		m = new(mask)
		c.partial[g] = m
	}
	base := g * Granule
	for i := pos - base; i < end-base; i++ {
		if m[i/64]&(1<<(i%64)) == 0 {
			m[i/64] |= 1 << (i % 64)
			emit(base+i, 1)
		}
	}
	for _, word := range m {
		if word != ^uint64(0) {
			return
		}
	}
	delete(c.partial, g)
	c.setFull(g)
}
