package agent

import (
	"context"
	"fmt"
	"math/bits"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// Extent is a range of a volume, in bytes.
type Extent struct{ Off, Len int64 }

// Changes are the extents of a volume that were written after one LSN and up to
// another, rounded outward to granules.
type Changes struct {
	After, Last  uint64
	GranuleBytes int64
	Bytes        int64 // of all extents
	Extents      []Extent
}

// Changed is the change map: what was written to a volume after an LSN; after nil
// means after the newest one that every required target holds. The WAL is the
// map: while less than half of its budget is used it keeps each frame until every
// required target has it. An LSN before what it holds is refused.
func (a *Agent) Changed(ctx context.Context, name string, after *uint64) (Changes, error) {
	ctx, leave, err := a.enter(ctx)
	if err != nil {
		return Changes{}, err
	}
	defer leave()
	v, err := a.volume("list changes of", name)
	if err != nil {
		return Changes{}, err
	}
	a.mapping.Lock() // one at a time: each takes memory
	defer a.mapping.Unlock()
	for tries := 0; ; tries++ {
		out, err := a.changed(ctx, v, after)
		if !fail.Is(err, fail.NotFound) || tries == 10 {
			return out, err
		} // a frame went into an overflow's bitmap meanwhile
	}
}

func (a *Agent) changed(ctx context.Context, v *Volume, after *uint64) (_ Changes, err error) {
	s := v.s
	m := newDirtyMap(v.conf.SizeBytes)
	s.mu.Lock()
	out := Changes{After: s.ship.durable, Last: s.nextLSN - 1, GranuleBytes: m.granule}
	if after != nil {
		out.After = *after
	}
	var frames []frameRef
	for _, r := range s.refs {
		if r.last > out.After {
			frames = append(frames, r)
		}
	}
	for _, batch := range append(s.sealed[:len(s.sealed):len(s.sealed)], s.open) { // not in the WAL yet
		for i := range batch {
			m.note(&v.conf, batch[i].LSN, out.After, batch[i].Volume, batch[i].Kind, batch[i].Off, int64(batch[i].Len))
		}
	}
	covered := false // dropped frames are in the bitmap of an overflow
	if o := s.over; o != nil && !o.ended && o.known[0].LSN <= max(out.After, s.ship.durable) {
		covered = true
		m.union(o.maps[v.conf.Number], v.conf.SizeBytes)
	}
	inWAL := s.appendedLSN
	s.mu.Unlock()

	var f change.Frame
	var buf []byte
	first := inWAL + 1
	for i, r := range frames {
		if ctx.Err() != nil {
			return out, fail.Wrap(fail.Retry, "list changes of", v.conf.Name, ctx.Err())
		}
		if buf, err = a.wal.Read(r.wal, buf); err == nil {
			err = f.Reset(buf)
		}
		if fail.Is(err, fail.NotFound) && after == nil && a.durableTo(s, r.last) {
			continue
		}
		if err != nil {
			return out, fail.At("list changes of", v.conf.Name, err)
		}
		if i == 0 {
			first = f.FirstLSN
		}
		for _, c := range f.Records {
			m.note(&v.conf, c.LSN, out.After, c.Volume, c.Kind, c.Off, int64(c.Len))
		}
	}
	if first > out.After+1 && !covered && !(after == nil && a.durableTo(s, first-1)) {
		return out, fail.New(fail.Refused, "list changes of", v.conf.Name, fmt.Sprintf("the WAL goes back to LSN %d, not to %d", first, out.After+1)).
			WithHint(fmt.Sprintf("ask for what came after LSN %d or later", first-1))
	}
	for m.runs() > maxExtents {
		m.coarsen()
	}
	out.GranuleBytes = m.granule
	out.Extents, out.Bytes = m.extents(v.conf.SizeBytes)
	return out, nil
}

// durableTo reports whether every required target holds a stream up to lsn by now.
func (a *Agent) durableTo(s *stream, lsn uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ship.durable >= lsn
}

// dirtyMap is a bitmap of bounded size: a large volume has larger granules.
type dirtyMap struct {
	granule int64
	words   []uint64
}

const (
	minGranuleBytes = 4096
	maxGranules     = 1 << 23 // a bitmap of 1 MiB
	// maxExtents bounds an answer: more are rounded to larger granules.
	maxExtents = 1 << 16
)

func newDirtyMap(sizeBytes int64) *dirtyMap {
	m := &dirtyMap{granule: minGranuleBytes}
	for (sizeBytes+m.granule-1)/m.granule > maxGranules {
		m.granule *= 2
	}
	m.words = make([]uint64, (sizeBytes/m.granule+64)/64)
	return m
}

// note marks a record of the volume, if it is later than after.
func (m *dirtyMap) note(v *VolumeConf, lsn, after uint64, volume uint32, kind change.Kind, off, n int64) {
	if lsn <= after || volume != v.Number || kind == change.Mark {
		return
	}
	for g, end := off/m.granule, (min(off+n, v.SizeBytes)+m.granule-1)/m.granule; g < end; g++ {
		m.words[g/64] |= 1 << (g % 64)
	}
}

// union adds what another map of the same volume has marked.
func (m *dirtyMap) union(o *dirtyMap, sizeBytes int64) {
	if o == nil {
		return
	}
	extents, _ := o.extents(sizeBytes)
	for _, e := range extents {
		for g, end := e.Off/m.granule, (e.Off+e.Len+m.granule-1)/m.granule; g < end; g++ {
			m.words[g/64] |= 1 << (g % 64)
		}
	}
}

// runs counts the marked ranges.
func (m *dirtyMap) runs() (n int) {
	last := uint64(0) // whether the granule before is marked
	for _, w := range m.words {
		n += bits.OnesCount64(w &^ (w<<1 | last))
		last = w >> 63
	}
	return n
}

// coarsen doubles the granule.
func (m *dirtyMap) coarsen() {
	words := make([]uint64, (len(m.words)+1)/2)
	for i, w := range m.words {
		for w != 0 {
			g := i*64 + bits.TrailingZeros64(w)
			words[g/128] |= 1 << (g / 2 % 64)
			w &= w - 1
		}
	}
	m.granule, m.words = 2*m.granule, words
}

// extents lists the marked ranges in order, and their bytes.
func (m *dirtyMap) extents(sizeBytes int64) (out []Extent, total int64) {
	for i, w := range m.words {
		for w != 0 {
			from := bits.TrailingZeros64(w)
			n := bits.TrailingZeros64(^(w >> from))
			if from+n >= 64 {
				w = 0
			} else {
				w &^= (1<<n - 1) << from
			}
			off := (int64(i)*64 + int64(from)) * m.granule
			size := min(int64(n)*m.granule, sizeBytes-off)
			total += size
			if k := len(out) - 1; k >= 0 && out[k].Off+out[k].Len == off {
				out[k].Len += size
			} else {
				out = append(out, Extent{off, size})
			}
		}
	}
	return out, total
}
