package hydrate

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/pollux-dr/pollux/replicator/objlog/extent"
)

const (
	// pageBytes is the unit of what is here and what is not: what clients mostly write whole,
	// so that the write of a page that is not here needs no store.
	pageBytes = 4096
	leafPages = extent.LeafBytes / pageBytes
	words     = leafPages / 64
	stripes   = 64
)

// bitmap has a bit for each page of a leaf.
type bitmap [words]uint64

func (b *bitmap) has(i int64) bool { return b[i/64]&(1<<(i%64)) != 0 }
func (b *bitmap) set(i int64)      { b[i/64] |= 1 << (i % 64) }
func (b *bitmap) unset(i int64)    { b[i/64] &^= 1 << (i % 64) }

// everything stands for each leaf of which all pages are here, so that a leaf takes memory
// only while it is here in part.
var everything = func() *bitmap {
	b := new(bitmap)
	for i := range b {
		b[i] = ^uint64(0)
	}
	return b
}()

// run are n pages from first on.
type run struct{ first, n int64 }

// pages says which pages of a volume are here, and which of them are so durably. Whoever
// looks at a page has its lock for reading, whoever makes it be here has it for writing until
// the bytes are in the file.
type pages struct {
	size  int64 // of the volume
	total int64
	locks [stripes]sync.RWMutex
	leaf  []atomic.Pointer[bitmap] // nil: nothing is here; changed under the leaf's lock
	here  atomic.Int64

	mu    sync.Mutex
	fresh []run // here, and not durably so
}

func newPages(size int64) *pages {
	return &pages{size: size, total: pageCount(size),
		leaf: make([]atomic.Pointer[bitmap], (size+extent.LeafBytes-1)/extent.LeafBytes)}
}

func (p *pages) lock(page int64) *sync.RWMutex { return &p.locks[page/leafPages%stripes] }

// settle waits until those are done who have a lock now.
func (p *pages) settle() {
	for i := range p.locks {
		p.locks[i].Lock()
		defer p.locks[i].Unlock()
	}
}

func (p *pages) has(page int64) bool {
	b := p.leaf[page/leafPages].Load()
	return b != nil && b.has(page%leafPages)
}

// missing returns the first run of pages in [from, to), all of one leaf, that are not here.
func (p *pages) missing(from, to int64) (first, n int64) {
	if p.leaf[from/leafPages].Load() == everything {
		return to, 0
	}
	for first = from; first < to && p.has(first); first++ {
	}
	for n = 0; first+n < to && !p.has(first+n); n++ {
	}
	return first, n
}

// look is missing for who has no lock.
func (p *pages) look(from, to int64) (first, n int64) {
	l := p.lock(from)
	l.RLock()
	defer l.RUnlock()
	return p.missing(from, to)
}

// mark says that pages of one leaf are here, not durably so far. The caller has the lock.
func (p *pages) mark(from, to int64) {
	for from < to {
		first, n := p.missing(from, to)
		if n == 0 {
			return
		}
		p.set(run{first, n})
		p.mu.Lock()
		if k := len(p.fresh) - 1; k >= 0 && p.fresh[k].first+p.fresh[k].n == first {
			p.fresh[k].n += n
		} else {
			p.fresh = append(p.fresh, run{first, n})
		}
		p.mu.Unlock()
		from = first + n
	}
}

// set sets the bits of a run of one leaf that are not set.
func (p *pages) set(r run) {
	k := r.first / leafPages
	b := p.leaf[k].Load()
	if b == nil {
		b = new(bitmap)
		for i := min(leafPages, p.total-k*leafPages); i < leafPages; i++ {
			b.set(i) // behind the end of the volume
		}
		p.leaf[k].Store(b)
	}
	for i := range r.n {
		b.set((r.first + i) % leafPages)
	}
	p.here.Add(r.n)
	if *b == *everything {
		p.leaf[k].Store(everything)
	}
}

// unset takes runs back, which are of any leaves: they count as not here.
func (p *pages) unset(runs []run) {
	eachLeaf(runs, func(r run) {
		l := p.lock(r.first)
		l.Lock()
		defer l.Unlock()
		k := r.first / leafPages
		b := p.leaf[k].Load()
		if b == everything {
			b = new(*everything) // a copy
			p.leaf[k].Store(b)
		}
		for i := range r.n {
			b.unset((r.first + i) % leafPages)
		}
		p.here.Add(-r.n)
	})
}

// take returns what is here and not durably so. Its bytes are in the file by now. The caller
// makes it durable, or gives it back.
func (p *pages) take() []run {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.fresh
	p.fresh = nil
	return out
}

func (p *pages) giveBack(runs []run) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fresh = append(runs, p.fresh...)
}

// eachLeaf calls fn with the parts of runs in each leaf.
func eachLeaf(runs []run, fn func(run)) {
	for _, r := range runs {
		for r.n > 0 {
			n := min(r.n, leafPages-r.first%leafPages)
			fn(run{r.first, n})
			r.first, r.n = r.first+n, r.n-n
		}
	}
}

// join sorts runs, and makes one of those that touch or overlap.
func join(runs []run) []run {
	out := slices.SortedFunc(slices.Values(runs), func(a, b run) int { return cmp.Compare(a.first, b.first) })
	k := 0
	for _, r := range out {
		if k > 0 && r.first <= out[k-1].first+out[k-1].n {
			out[k-1].n = max(out[k-1].n, r.first+r.n-out[k-1].first)
			continue
		}
		out[k] = r
		k++
	}
	return out[:k]
}

// all returns what is here, as runs in order. Nobody changes it meanwhile.
func (p *pages) all() (out []run) {
	for k := range int64(len(p.leaf)) {
		from, to := k*leafPages, min((k+1)*leafPages, p.total)
		for from < to {
			first, n := p.missing(from, to)
			if first > from {
				if i := len(out) - 1; i >= 0 && out[i].first+out[i].n == from {
					out[i].n += first - from
				} else {
					out = append(out, run{from, first - from})
				}
			}
			from = first + n
		}
	}
	return out
}
