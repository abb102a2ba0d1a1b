package failback

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/agent/backing"
	"github.com/pollux-dr/pollux/control/failback/record"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/objlog/rangeset"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// unit is what differs or does not.
const unit = 4096

// compare finds out where a backing differs from the base, by reading all of both.
func (r *run) compare(ctx context.Context, v *record.Volume, back backing.Backing) (_ []agent.Extent, err error) {
	p, err := r.point(ctx, v.Name, r.baseOf(v).LSN)
	if err != nil {
		return nil, err
	}
	image, err := r.found.log.Image(ctx, p, "")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, image.Close()) }()
	plan, err := image.Plan(ctx, "")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, plan.Close()) }()
	c := &comparing{back: back, size: v.SizeBytes, data: rangeset.New()}
	tell, end := r.Stage("comparing " + v.Name)
	defer end()
	res, err := plan.Each(ctx, twin.Run{Progress: tell}, func(e *extent.Extent, data []byte) error {
		if e.Zeros() {
			return nil
		}
		return c.against(e.Off, data)
	})
	if err != nil {
		return nil, err
	}
	r.rec.ReadBytes += res.ReadBytes
	r.rec.ComparedBytes += v.SizeBytes
	if err := c.rest(ctx); err != nil {
		return nil, err
	}
	return c.differs(), nil
}

// baseOf is where a volume goes back to.
func (r *run) baseOf(v *record.Volume) change.Point {
	for i := range r.rec.Streams {
		if r.rec.Streams[i].ID == v.Stream {
			return r.rec.Streams[i].Base
		}
	}
	return change.Point{}
}

// comparing is one comparison.
type comparing struct {
	back backing.Backing
	size int64

	mu    sync.Mutex
	data  *rangeset.Set // what the log has data for
	found []agent.Extent
}

// against holds the backing against bytes of the log.
func (c *comparing) against(off int64, data []byte) error {
	have := make([]byte, len(data))
	if err := c.back.ReadAt(have, off); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.data.AddNew(off, int64(len(data)), func(int64, int64) {})
	c.note(off, data, have)
	return nil
}

// note takes the units in which two runs differ, which lie at an offset. Called with mu held.
func (c *comparing) note(off int64, want, have []byte) {
	for i := int64(0); i < int64(len(have)); {
		n := min(unit-(off+i)%unit, int64(len(have))-i)
		if !bytes.Equal(want[i:i+n], have[i:i+n]) {
			from := (off + i) / unit * unit
			c.found = append(c.found, agent.Extent{Off: from, Len: min(unit, c.size-from)})
		}
		i += n
	}
}

// rest looks for what the backing has where the log has zeros.
func (c *comparing) rest(ctx context.Context) error {
	zeros, have := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < c.size; {
		start, n, err := c.back.Data(off)
		if err != nil || n == 0 {
			return err
		}
		for at := start; at < start+n; {
			k := min(start+n-at, int64(len(have)))
			var rerr error
			c.data.AddNew(at, k, func(gap, n int64) {
				if rerr == nil {
					if rerr = c.back.ReadAt(have[:n], gap); rerr == nil {
						c.note(gap, zeros[:n], have[:n])
					}
				}
			})
			if rerr = errors.Join(rerr, ctx.Err()); rerr != nil {
				return rerr
			}
			at += k
		}
		off = start + n
	}
	return nil
}

// differs are the units that were found, in order.
func (c *comparing) differs() (out []agent.Extent) {
	slices.SortFunc(c.found, func(a, b agent.Extent) int { return cmp.Compare(a.Off, b.Off) })
	for _, e := range c.found {
		if k := len(out) - 1; k >= 0 && out[k].Off+out[k].Len >= e.Off {
			out[k].Len = max(out[k].Len, e.Off+e.Len-out[k].Off)
			continue
		}
		out = append(out, e)
	}
	return out
}
