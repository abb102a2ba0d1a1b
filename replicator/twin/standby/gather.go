package standby

import (
	"cmp"
	"context"
	"slices"

	"github.com/pollux-dr/pollux/replicator/objlog/rangeset"
)

const (
	// gatherBytes bounds what is gathered before it is written, but for one entry.
	gatherBytes = 96 << 20
	// Memory is taken in slabs, each twice as large as the one before.
	minSlabBytes = 64 << 10
	maxSlabBytes = 16 << 20
	// maxVector and maxVectorBytes bound one call; Linux takes 1024 parts.
	maxVector      = 1024
	maxVectorBytes = 8 << 20
	// spanBytes is what a change takes beside its data.
	spanBytes = 48
)

// gather keeps what a batch changes in images, decompressed, until it is written: in the order of each
// image, neighbours with one call, and what was overwritten within the batch not at all.
type gather struct {
	limit  int64             // of bytes
	images map[string][]span // in the order of the log
	bytes  int64             // of memory that is taken
	// checking is that there is more than is kept: what is added now is only looked at.
	checking bool

	slabs [][]byte // those in use first
	used  int
	rest  []byte // of the last one in use
	once  []byte // for what is only looked at

	sorted []span
	vector [][]byte
}

// span is a change of an image. data is nil where n bytes become zeros.
type span struct {
	off, n int64
	data   []byte
}

// reset forgets all, and keeps the memory.
func (g *gather) reset() {
	for name := range g.images {
		clear(g.images[name]) // they refer to data
		g.images[name] = g.images[name][:0]
	}
	clear(g.sorted)
	clear(g.vector)
	g.sorted, g.vector = g.sorted[:0], g.vector[:0]
	g.bytes, g.used, g.rest, g.checking = 0, 0, nil, false
}

// memory is n bytes, which stay until reset.
func (g *gather) memory(n int) []byte {
	if g.checking {
		g.once = slices.Grow(g.once[:0], n)[:n]
		return g.once
	}
	if len(g.rest) < n {
		for g.used < len(g.slabs) && len(g.slabs[g.used]) < n {
			g.used++
		}
		if g.used == len(g.slabs) {
			g.slabs = append(g.slabs, make([]byte, max(n, min(minSlabBytes<<min(g.used, 20), maxSlabBytes))))
		}
		g.rest = g.slabs[g.used]
		g.used++
	}
	out := g.rest[:n:n]
	g.rest = g.rest[n:]
	g.bytes += int64(n) // of volumes that are not wanted too
	return out
}

// add takes a change of an image; data is of memory.
func (g *gather) add(image string, off, n int64, data []byte) {
	if g.checking {
		return
	}
	if g.images == nil {
		g.images = map[string][]span{}
	}
	g.images[image] = append(g.images[image], span{off, n, data})
	g.bytes += spanBytes
}

// names are the images that are changed.
func (g *gather) names() (out []string) {
	for name, pieces := range g.images {
		if len(pieces) > 0 {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// left is what of an image's changes was not overwritten, in its order.
func (g *gather) left(image string) []span {
	set, pieces := rangeset.New(), g.images[image]
	out := g.sorted[:0]
	for i := len(pieces) - 1; i >= 0; i-- { // newest first
		p := &pieces[i]
		set.AddNew(p.off, p.n, func(at, k int64) {
			q := span{at, k, nil}
			if p.data != nil {
				q.data = p.data[at-p.off:][:k]
			}
			out = append(out, q)
		})
	}
	slices.SortFunc(out, func(a, b span) int { return cmp.Compare(a.off, b.off) })
	g.sorted = out
	return out
}

// write writes the changes of an image, and returns how many bytes of data that were.
func (g *gather) write(ctx context.Context, image string, f file) (written int64, err error) {
	all := g.left(image)
	for len(all) > 0 && err == nil {
		if err = ctx.Err(); err != nil {
			break
		}
		off, end, k := all[0].off, all[0].off+all[0].n, 1
		zeros := all[0].data == nil
		for k < len(all) && all[k].off == end && (all[k].data == nil) == zeros &&
			(zeros || k < maxVector && end-off < maxVectorBytes) {
			end += all[k].n
			k++
		}
		if zeros {
			err = f.Zero(off, end-off)
		} else {
			g.vector = g.vector[:0]
			for i := range all[:k] {
				g.vector = append(g.vector, all[i].data)
			}
			err = f.WriteVector(g.vector, off)
			written += end - off
		}
		all = all[k:]
	}
	return written, err
}
