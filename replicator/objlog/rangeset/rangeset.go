package rangeset

// Granule is the unit of the set in bytes, Sector that of a granule of which a part is in
// the set; what is no multiple of either takes a slower way.
const (
	Granule = 4096
	Sector  = 512
)

const (
	leafGranules = 1 << 15
	leafBytes    = leafGranules * Granule
)

// Set has ranges of one volume's bytes. Its memory is one bit per Granule for each leaf of
// 128 MiB of which some, but not all, is in the set, and some bytes for each Granule of which
// a part is.
type Set struct{ leaves map[int64]*leaf }

// leaf is a run of granules. One that is in the set as a whole has nothing but n.
type leaf struct {
	n    int // granules that are in the set as a whole
	bits []uint64
	part map[int64]*part // of granules, by number in the volume
}

// part is a granule of which a part is in the set: sectors, or, once that is not enough,
// bytes.
type part struct {
	sectors uint8
	bytes   *[Granule / 64]uint64
}

// New returns an empty Set.
func New() *Set { return &Set{leaves: map[int64]*leaf{}} }

func (l *leaf) whole() bool { return l.n == leafGranules }

func (l *leaf) full(g int64) bool {
	i := g % leafGranules
	return l.whole() || l.bits != nil && l.bits[i/64]&(1<<(i%64)) != 0
}

func (l *leaf) setFull(g int64) {
	if l.bits == nil {
		l.bits = make([]uint64, leafGranules/64)
	}
	i := g % leafGranules
	l.bits[i/64] |= 1 << (i % 64)
	delete(l.part, g)
	if l.n++; l.whole() {
		*l = leaf{n: leafGranules}
	}
}

// AddNew adds [off, off+n) and calls fn for the runs of it that were not in the set yet,
// in ascending order. off+n must not overflow.
func (s *Set) AddNew(off, n int64, fn func(off, n int64)) {
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
	for pos, end := off, off+n; pos < end; {
		key := pos / leafBytes
		stop := end
		if end-key*leafBytes > leafBytes {
			stop = (key + 1) * leafBytes
		}
		l := s.leaves[key]
		if l == nil {
			l = &leaf{}
			s.leaves[key] = l
		}
		switch {
		case l.whole():
		case l.n == 0 && len(l.part) == 0 && stop-pos == leafBytes:
			l.n = leafGranules
			emit(pos, leafBytes)
		default:
			l.add(pos, stop, emit)
		}
		pos = stop
	}
	if length > 0 {
		fn(start, length)
	}
}

// add is AddNew of [pos, end) within the leaf.
func (l *leaf) add(pos, end int64, emit func(at, k int64)) {
	for pos < end {
		g := pos / Granule
		stop := end
		if end-g*Granule > Granule {
			stop = (g + 1) * Granule
		}
		switch {
		case l.full(g):
		case stop-pos == Granule && l.part[g] == nil:
			l.setFull(g)
			emit(pos, Granule)
		default:
			l.addPart(g, pos-g*Granule, stop-g*Granule, emit)
		}
		pos = stop
	}
}

// addPart is add of [from, to) of granule g.
func (l *leaf) addPart(g, from, to int64, emit func(at, k int64)) {
	p := l.part[g]
	if p == nil {
		p = &part{}
		if l.part == nil {
			l.part = map[int64]*part{}
		}
		l.part[g] = p
	}
	if p.bytes == nil && from%Sector == 0 && to%Sector == 0 {
		for s := from / Sector; s < to/Sector; s++ {
			if p.sectors&(1<<s) == 0 {
				p.sectors |= 1 << s
				emit(g*Granule+s*Sector, Sector)
			}
		}
	} else {
		p.inBytes()
		for i := from; i < to; i++ {
			if p.bytes[i/64]&(1<<(i%64)) == 0 {
				p.bytes[i/64] |= 1 << (i % 64)
				emit(g*Granule+i, 1)
			}
		}
	}
	if p.all() {
		l.setFull(g)
	}
}

func (p *part) inBytes() {
	if p.bytes != nil {
		return
	}
	p.bytes = new([Granule / 64]uint64)
	for s := range Granule / Sector {
		if p.sectors&(1<<s) != 0 {
			for w := range Sector / 64 {
				p.bytes[s*Sector/64+w] = ^uint64(0)
			}
		}
	}
}

func (p *part) all() bool {
	if p.bytes == nil {
		return p.sectors == 0xff
	}
	for _, w := range p.bytes {
		if w != ^uint64(0) {
			return false
		}
	}
	return true
}
