package twin

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/cover"
	"github.com/pollux-dr/pollux/replicator/segment"
	"github.com/pollux-dr/pollux/replicator/uploader"
)

// Target is what a restore writes to. It reads as zeros before; WriteAt may be
// called concurrently for disjoint ranges.
type Target interface {
	WriteAt(p []byte, off int64) (int, error)
}

// Plan is the work of a restore.
type Plan struct {
	Point   Point
	Frames  int
	Objects int
	Bytes   int64 // to be read from the store
	parts   []part
	prev    []change.Hash // of each frame, oldest first: the hash of what it must follow
}

// part is the run of one object that belongs to the volume's stream.
type part struct {
	object *segment.Index
	frames []int // entries, oldest first
	first  int   // place of the first one among all
	lo, hi int64
}

// Result is what a restore did.
type Result struct {
	Frames       int   `json:"frames"`
	Records      int64 `json:"records"`
	ReadBytes    int64 `json:"read_bytes"`
	WrittenBytes int64 `json:"written_bytes"`
}

// Plan lists what a restore of p, which Resolve returned, needs.
func (l *Log) Plan(p Point) *Plan {
	pl := &Plan{Point: p}
	frames := l.Frames[p.Volume.Stream]
	n := sort.Search(len(frames), func(i int) bool { return frames[i].entry().FirstLSN > p.LSN })
	var at change.Hash
	for i, f := range frames[:n] {
		e := f.entry()
		k := len(pl.parts) - 1
		if k < 0 || pl.parts[k].object != f.Object {
			pl.parts = append(pl.parts, part{object: f.Object, first: i, lo: e.Offset})
			k++
		}
		w := &pl.parts[k]
		w.frames = append(w.frames, f.Entry)
		w.hi = e.Offset + int64(e.Bytes)
		pl.prev = append(pl.prev, at)
		if g := gapBefore(l.State, p.Volume.Stream, e.FirstLSN); g != nil {
			pl.prev[i] = g.To.Hash
		}
		at = e.Hash
	}
	for _, w := range pl.parts {
		pl.Bytes += w.hi - w.lo
	}
	pl.Frames, pl.Objects = n, len(pl.parts)
	return pl
}

const (
	// fetchAhead bounds the objects that are read ahead, and fetchBytes what is in
	// memory of them, but for one larger object.
	fetchAhead = 4
	fetchBytes = 64 << 20
	// decodeAhead bounds the decoded frames that wait to be written.
	decodeAhead = 32
)

// Restore writes the volume's image at the plan's point to t, each live byte
// once: the log is applied newest first, and what is settled is not written
// again. Zeros are not written at all.
func (l *Log) Restore(ctx context.Context, pl *Plan, t Target, progress Progress) (Result, error) {
	var res Result
	g, ctx := errgroup.WithContext(ctx)
	fetched := make(chan fetch, fetchAhead)
	decoded := make(chan *decode, decodeAhead)
	writes := make(chan []write, decodeAhead)
	var read, written atomic.Int64

	g.Go(func() error { defer close(fetched); return l.fetchParts(ctx, g, pl, fetched) })
	g.Go(func() error { defer close(decoded); return l.decodeParts(ctx, g, pl, fetched, decoded) })
	g.Go(func() error {
		defer close(writes)
		return l.settleFrames(ctx, pl, decoded, writes, &res, func(n int64) {
			if d := read.Add(n); progress != nil {
				progress(d, pl.Bytes)
			}
		})
	})
	for range 2 {
		g.Go(func() error {
			for batch := range writes {
				for _, w := range batch {
					if _, err := t.WriteAt(w.data, w.off); err != nil {
						return fail.Wrap(fail.Full, "write", fmt.Sprintf("restore target at byte %d", w.off), err)
					}
					written.Add(int64(len(w.data)))
				}
			}
			return nil
		})
	}
	err := g.Wait()
	res.Frames, res.ReadBytes, res.WrittenBytes = pl.Frames, read.Load(), written.Load()
	return res, err
}

// fetch is an object's part on its way from the store.
type fetch struct {
	part *part
	body chan []byte // one
	done func()      // it is not needed any more
}

// fetchParts reads the parts, newest first, a few at once.
func (l *Log) fetchParts(ctx context.Context, g *errgroup.Group, pl *Plan, out chan<- fetch) error {
	memory := semaphore.NewWeighted(fetchBytes)
	for i := len(pl.parts) - 1; i >= 0; i-- {
		f := fetch{part: &pl.parts[i], body: make(chan []byte, 1)}
		weight := min(f.part.hi-f.part.lo, fetchBytes)
		if err := memory.Acquire(ctx, weight); err != nil {
			return err
		}
		f.done = func() { memory.Release(weight) }
		select {
		case out <- f:
		case <-ctx.Done():
			return ctx.Err()
		}
		g.Go(func() error {
			w := f.part
			b, err := l.store.Read(ctx, uploader.ObjectName(w.object.Position), w.lo, w.hi-w.lo, nil)
			if err == nil && int64(len(b)) < w.hi-w.lo {
				err = l.damaged(w.object.Position, "object cut short at byte %d", w.lo+int64(len(b)))
			}
			if err != nil {
				return err
			}
			f.body <- b
			return nil
		})
	}
	return nil
}

// decode is a frame, or a part of a fold, on its way through decompression.
type decode struct {
	extents []segment.Extent // oldest first
	bytes   int64            // of the store that it takes care of
	ready   chan struct{}
}

// decodeParts checks and decompresses frames and folds, newest first.
func (l *Log) decodeParts(ctx context.Context, g *errgroup.Group, pl *Plan, in <-chan fetch, out chan<- *decode) error {
	workers := make(chan struct{}, runtime.GOMAXPROCS(0))
	for f := range in {
		var opening sync.WaitGroup // what refers to the body
		var body []byte
		select {
		case body = <-f.body:
		case <-ctx.Done():
			return ctx.Err()
		}
		for k := len(f.part.frames) - 1; k >= 0; k-- {
			x, i := f.part.object, f.part.frames[k]
			e := &x.Entries[i]
			raw := body[e.Offset-f.part.lo:][:e.Bytes]
			at := func(err error) error {
				return fail.At("read", l.at(x.Position), fail.At("frame", fmt.Sprintf("at byte %d", e.Offset), err))
			}
			prev := change.Point{LSN: e.FirstLSN - 1, Hash: pl.prev[f.part.first+k]}
			work := []func(d *decode) error{func(d *decode) error { return d.frame(pl, x, i, raw, prev) }}
			if e.Kind == segment.FoldEntry {
				var err error
				if work, err = foldParts(x, i, raw, prev); err != nil {
					return at(err)
				}
			}
			for n, do := range work {
				d := &decode{ready: make(chan struct{})}
				if n == 0 {
					d.bytes = int64(e.Bytes)
				}
				select {
				case workers <- struct{}{}:
				case <-ctx.Done():
					return ctx.Err()
				}
				opening.Add(1)
				g.Go(func() error {
					defer opening.Done()
					defer func() { <-workers }()
					if err := do(d); err != nil {
						return at(err)
					}
					close(d.ready)
					return nil
				})
				select {
				case out <- d:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
		g.Go(func() error {
			opening.Wait()
			f.done()
			return nil
		})
	}
	return nil
}

// frame opens a frame, up to the plan's point.
func (d *decode) frame(pl *Plan, x *segment.Index, i int, raw []byte, prev change.Point) error {
	var f change.Frame
	if err := x.Frame(&f, raw, i); err != nil {
		return err
	}
	if err := f.Follows(prev); err != nil {
		return err
	}
	plain, err := f.Plain(nil)
	if err != nil {
		return err
	}
	d.extents = make([]segment.Extent, 0, len(f.Records))
	for k := range f.Records {
		if r := &f.Records[k]; r.LSN <= pl.Point.LSN && r.Kind != change.Mark {
			d.extents = append(d.extents, segment.Extent{Kind: r.Kind, Volume: r.Volume, Off: r.Off, Len: int64(r.Len), Data: f.Data(k, plain)})
		}
	}
	return nil
}

// foldParts checks a fold and returns how to open its parts.
func foldParts(x *segment.Index, i int, raw []byte, prev change.Point) ([]func(*decode) error, error) {
	f := new(segment.Fold)
	if err := x.Fold(f, raw, i); err != nil {
		return nil, err
	}
	if f.Prev != prev.Hash {
		return nil, fail.New(fail.Damaged, "check chain", f.Stream.String(),
			fmt.Sprintf("fold at LSN %d follows hash %s, but the one before it is %s", f.FirstLSN, f.Prev, prev.Hash))
	}
	work := make([]func(*decode) error, f.Parts())
	for n := range work {
		work[n] = func(d *decode) (err error) {
			d.extents, _, err = f.Part(n, nil)
			return err
		}
	}
	return work, nil
}

// write is a run of live bytes.
type write struct {
	off  int64
	data []byte
}

// settleFrames decides, newest record first, which bytes are live. The writes of
// one frame travel together, in the order of the volume.
func (l *Log) settleFrames(ctx context.Context, pl *Plan, in <-chan *decode, out chan<- []write, res *Result, read func(int64)) error {
	c := cover.New()
	for d := range in {
		select {
		case <-d.ready:
		case <-ctx.Done():
			return ctx.Err()
		}
		var batch []write
		for i := len(d.extents) - 1; i >= 0; i-- {
			e := &d.extents[i]
			if e.Volume != pl.Point.Volume.Number {
				continue
			}
			if e.Off > pl.Point.Volume.SizeBytes-e.Len {
				return fail.New(fail.Damaged, "restore", pl.Point.Volume.Name, fmt.Sprintf("a record of %d bytes at %d lies outside its %d bytes", e.Len, e.Off, pl.Point.Volume.SizeBytes))
			}
			res.Records++
			c.Settle(e.Off, e.Len, func(off, n int64) {
				if e.Kind == change.Write {
					batch = append(batch, write{off: off, data: e.Data[off-e.Off:][:n]})
				}
			})
		}
		slices.SortFunc(batch, func(a, b write) int { return cmp.Compare(a.off, b.off) })
		select {
		case out <- batch:
		case <-ctx.Done():
			return ctx.Err()
		}
		read(d.bytes)
	}
	return nil
}
