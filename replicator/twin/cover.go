package twin

// granule is the unit of the coverage map; smaller writes take a slower way.
const granule = 4096

const leafGranules = 1 << 15

// cover remembers which bytes of a volume are settled, so that a log can be
// applied newest first and each byte be written once. Its memory is one bit per
// 4 KiB that was ever written, and a mask for each granule that is settled in
// part.
type cover struct {
	leaves  map[int64]*[leafGranules / 64]uint64
	partial map[int64]*[granule]bool
}

func newCover() *cover {
	return &cover{leaves: map[int64]*[leafGranules / 64]uint64{}, partial: map[int64]*[granule]bool{}}
}

func (c *cover) full(g int64) bool {
	leaf := c.leaves[g/leafGranules]
	return leaf != nil && leaf[g%leafGranules/64]&(1<<(g%64)) != 0
}

func (c *cover) setFull(g int64) {
	leaf := c.leaves[g/leafGranules]
	if leaf == nil {
		leaf = new([leafGranules / 64]uint64)
		c.leaves[g/leafGranules] = leaf
	}
	leaf[g%leafGranules/64] |= 1 << (g % 64)
}

// settle marks [off, off+n) and calls fn for the runs that were not settled
// before, in ascending order.
func (c *cover) settle(off, n int64, fn func(off, n int64)) {
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
		g := pos / granule
		end := min(off+n, (g+1)*granule)
		if !c.full(g) {
			mask := c.partial[g]
			switch {
			case mask == nil && end-pos == granule:
				c.setFull(g)
				emit(pos, granule)
			default:
				c.settlePart(g, mask, pos, end, emit)
			}
		}
		pos = end
	}
	if length > 0 {
		fn(start, length)
	}
}

func (c *cover) settlePart(g int64, mask *[granule]bool, pos, end int64, emit func(at, k int64)) {
	if mask == nil {
		mask = new([granule]bool)
		c.partial[g] = mask
	}
	base := g * granule
	for i := pos - base; i < end-base; i++ {
		if !mask[i] {
			mask[i] = true
			emit(base+i, 1)
		}
	}
	for _, set := range mask {
		if !set {
			return
		}
	}
	delete(c.partial, g)
	c.setFull(g)
}
