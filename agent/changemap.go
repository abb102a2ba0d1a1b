package agent

import (
	"context"
	"fmt"
	"slices"

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
// means after the newest one that every remote target holds. The WAL is the
// map, while less than half of its budget is used: it keeps each frame until every
// required target has it. What leaves it earlier is entered into the spilled changes. An LSN
// before what they hold is refused.
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
		if !fail.Is(err, fail.NotFound) || tries == 10 { // else a frame went into an overflow's bitmap meanwhile
			return out, err
		}
	}
}

func (a *Agent) changed(ctx context.Context, v *Volume, after *uint64) (_ Changes, err error) {
	s := v.s
	m := newDirtyMap(v.conf.SizeBytes)
	s.mu.Lock()
	out := Changes{After: s.ship.durable, Last: s.order.nextLSN - 1, GranuleBytes: m.granule}
	if after != nil {
		out.After = *after
	}
	var frames []frameRef
	for _, r := range s.wal.refs {
		if r.last > out.After {
			frames = append(frames, r)
		}
	}
	notInWAL := append(slices.Clone(s.order.sealed), s.order.open)
	for _, batch := range notInWAL {
		for i := range batch {
			m.note(&v.conf, batch[i].LSN, out.After, batch[i].Volume, batch[i].Kind, batch[i].Off, int64(batch[i].Len))
		}
	}
	complete := s.addSpilled(m, &v.conf, out.After)
	if d := s.overflow.dropped; s.overflow.resync.phase.open() && d.known[0].LSN <= complete { // its bitmap has them
		complete = max(complete, d.upto.LSN)
		m.union(d.maps[v.conf.Number], v.conf.SizeBytes)
	}
	inWAL := s.wal.appendedLSN
	s.mu.Unlock()

	var f change.Frame
	var buf []byte
	first := inWAL + 1
	for i, r := range frames {
		if ctx.Err() != nil {
			return out, fail.Wrap(fail.Retry, "list changes of", v.conf.Name, ctx.Err())
		}
		buf, err = a.readFrame(r.wal, &f, buf)
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
	if first > complete+1 && !(after == nil && a.durableTo(s, first-1)) {
		why := fmt.Sprintf("the WAL goes back to LSN %d, not to %d", first, out.After+1)
		return out, fail.New(fail.Refused, "list changes of", v.conf.Name, why).
			WithHint(fmt.Sprintf("ask for what came after LSN %d or later", first-1))
	}
	for m.runs() > maxExtents {
		m.coarsen()
	}
	out.GranuleBytes = m.granule
	out.Extents, out.Bytes = m.extents(v.conf.SizeBytes)
	return out, nil
}

// durableTo reports whether every remote target holds a stream up to lsn by now.
func (a *Agent) durableTo(s *stream, lsn uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ship.durable >= lsn
}
