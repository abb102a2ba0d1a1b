package twin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
)

// Zeroer is what a target must be for a restore over a base.
type Zeroer interface {
	// Zero makes a range zeros.
	Zero(off, n int64) error
}

// Run says how a plan is carried out. The zero value is a restore at full speed.
type Run struct {
	Progress Progress // of Bytes
	// BytesPerSecond bounds what is read from the store; 0 does not.
	BytesPerSecond int64
	// Done, if set, is told every now and then what the target has by now. An error
	// ends the restore.
	Done func(Base) error
}

// Result is what a restore did.
type Result struct {
	ReadBytes    int64 `json:"read_bytes"`
	WrittenBytes int64 `json:"written_bytes"`
	ZeroedBytes  int64 `json:"zeroed_bytes,omitempty"`
}

const (
	// fetchers is how many spans are on their way at once, fetchBytes what memory
	// they take, their plain bytes included, but for one larger one.
	fetchers   = 8
	fetchBytes = 96 << 20
)

// job is a span with what of the volume lies in it.
type job struct {
	span
	extents []extent.Extent
	seq     int
}

// Restore writes the volume's image at a point, which Resolve returned, to t, which
// reads as zeros before. WriteAt is called concurrently for disjoint ranges.
func (l *Log) Restore(ctx context.Context, p Point, t io.WriterAt) (Result, error) {
	pl, err := l.Plan(ctx, p, nil, "")
	if err != nil {
		return Result{}, err
	}
	res, err := pl.Restore(ctx, t, Run{})
	return res, errors.Join(err, pl.Close())
}

// Restore writes what the plan says to t (a Zeroer where there is a base), each block
// read once, in the order of the log. WriteAt is called concurrently for disjoint
// ranges.
func (pl *Plan) Restore(ctx context.Context, t io.WriterAt, run Run) (Result, error) {
	return pl.Each(ctx, run, func(e *extent.Extent, data []byte) error {
		if e.Zeros() {
			return fail.At("write", "restore target", t.(Zeroer).Zero(e.Off, e.Len))
		}
		if _, err := t.WriteAt(data, e.Off); err != nil {
			return fail.Wrap(fail.Full, "write", fmt.Sprintf("restore target at byte %d", e.Off), err)
		}
		return nil
	})
}

// Each calls fn with each run of the volume that the plan has, and its bytes, from
// several goroutines. When an object is not found because garbage collection has moved
// what is needed of it, the plan is made anew for what is left: fn may get some runs twice.
func (pl *Plan) Each(ctx context.Context, run Run, fn func(e *extent.Extent, data []byte) error) (Result, error) {
	var all Result
	for {
		w := pl.worker(run, fn)
		err := w.each(ctx)
		all.ReadBytes += w.res.ReadBytes
		all.WrittenBytes += w.res.WrittenBytes
		all.ZeroedBytes += w.res.ZeroedBytes
		if !fail.Is(err, fail.NotFound) || ctx.Err() != nil {
			return all, err
		}
		left := pl.reached(w.done)
		if err := pl.again(ctx, &left, err); err != nil {
			return all, err
		}
	}
}

func (pl *Plan) worker(run Run, fn func(e *extent.Extent, data []byte) error) *worker {
	w := &worker{pl: pl, run: run, fn: fn, memory: semaphore.NewWeighted(fetchBytes)}
	if run.BytesPerSecond > 0 {
		w.limit = rate.NewLimiter(rate.Limit(run.BytesPerSecond), spanBytes)
		w.limit.AllowN(time.Now(), spanBytes) // what is allowed at once is not for free
	}
	return w
}

// each goes through the plan once.
func (w *worker) each(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	var j job
	seq := 0
	launch := func() error {
		if len(j.extents) == 0 {
			return nil
		}
		one := j
		one.seq = seq
		seq++
		j = job{}
		weight := min(one.hi-one.lo+one.plain, fetchBytes)
		if err := w.memory.Acquire(ctx, weight); err != nil {
			return err
		}
		g.Go(func() error {
			defer w.memory.Release(weight)
			return w.do(ctx, &one)
		})
		return ctx.Err()
	}
	err := w.pl.needs.Each(func(e *extent.Extent) error {
		if e.Zeros() {
			if err := launch(); err != nil {
				return err
			}
			w.res.ZeroedBytes += e.Len // nobody else touches it
			return w.fn(e, nil)
		}
		if !j.add(e.Block, spanBytes, gapBytes) {
			if err := launch(); err != nil {
				return err
			}
			j.add(e.Block, spanBytes, gapBytes)
		}
		j.extents = append(j.extents, *e)
		return nil
	})
	if err == nil {
		err = launch()
	}
	if werr := g.Wait(); werr != nil {
		err = werr // what made the context end
	}
	if err == nil && w.run.Done != nil {
		err = w.run.Done(w.pl.reached(Whole))
	}
	return err
}

// worker carries jobs out.
type worker struct {
	pl           *Plan
	run          Run
	fn           func(e *extent.Extent, data []byte) error
	limit        *rate.Limiter
	memory       *semaphore.Weighted
	raws, plains sync.Pool

	mu    sync.Mutex
	res   Result
	next  int                      // the first job that is not done
	ahead map[int]extent.BlockAddr // where those end that are done before it
	done  extent.BlockAddr
}

func (w *worker) do(ctx context.Context, j *job) error {
	if w.limit != nil {
		if err := w.limit.WaitN(ctx, int(min(j.hi-j.lo, spanBytes))); err != nil {
			return err
		}
	}
	l := w.pl.image.from()
	raw, err := l.fetch(ctx, &j.span, buffer(&w.raws, j.hi-j.lo))
	if err != nil {
		return err
	}
	plain := buffer(&w.plains, j.plain)
	starts := make([]int64, len(j.blocks))
	at := int64(0)
	for i := range j.blocks {
		b := &j.blocks[i]
		if err := l.open(ctx, &j.span, raw, b, plain[at:at+int64(b.PlainBytes)]); err != nil {
			return err
		}
		starts[i] = at
		at += int64(b.PlainBytes)
	}
	if err := w.write(j, plain, starts); err != nil {
		return err
	}
	w.raws.Put(&raw)
	w.plains.Put(&plain)
	return w.finished(j)
}

// buffer takes one from a pool, or makes one that the next is likely to fit into.
func buffer(pool *sync.Pool, n int64) []byte {
	p, _ := pool.Get().(*[]byte)
	if p == nil || int64(cap(*p)) < n {
		return make([]byte, n, 1<<bits.Len64(uint64(max(n, 1<<20)-1)))
	}
	return (*p)[:n]
}

// write calls fn for a job's runs. Neighbours in the volume that are neighbours here
// too go together.
func (w *worker) write(j *job, plain []byte, starts []int64) error {
	type piece struct {
		off, at, n int64
	}
	pieces := make([]piece, 0, len(j.extents))
	block := 0
	for i := range j.extents {
		e := &j.extents[i]
		for j.blocks[block] != e.Block {
			block++
		}
		pieces = append(pieces, piece{e.Off, starts[block] + int64(e.At), e.Len})
	}
	slices.SortFunc(pieces, func(a, b piece) int { return cmp.Compare(a.off, b.off) })
	for i := 0; i < len(pieces); {
		p := pieces[i]
		for i++; i < len(pieces) && pieces[i].off == p.off+p.n && pieces[i].at == p.at+p.n; i++ {
			p.n += pieces[i].n
		}
		e := extent.Extent{Off: p.off, Len: p.n, Block: j.blocks[0]}
		if err := w.fn(&e, plain[p.at:p.at+p.n]); err != nil {
			return err
		}
		w.mu.Lock()
		w.res.WrittenBytes += p.n
		w.mu.Unlock()
	}
	return nil
}

// finished notes how far the restore is.
func (w *worker) finished(j *job) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.res.ReadBytes += j.hi - j.lo
	if w.run.Progress != nil {
		w.run.Progress(w.res.ReadBytes, w.pl.Bytes)
	}
	if w.ahead == nil {
		w.ahead = map[int]extent.BlockAddr{}
	}
	last := j.blocks[len(j.blocks)-1]
	w.ahead[j.seq] = extent.BlockAddr{Object: last.Object, Offset: last.Offset + 1}
	for p, ok := w.ahead[w.next]; ok; p, ok = w.ahead[w.next] {
		delete(w.ahead, w.next)
		w.next, w.done = w.next+1, p
	}
	if w.run.Done == nil || w.done == (extent.BlockAddr{}) {
		return nil
	}
	return w.run.Done(w.pl.reached(w.done))
}
