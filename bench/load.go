package bench

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/pollux-dr/pollux/internal/nbdclient"
)

// cell is one kind of load.
type cell struct {
	name       string
	bytes      int // of a write
	depth      int // requests in flight
	flushEvery int // writes; 0: only at the end
	sequential bool
}

// cells are the write benchmark's, in the order of the report.
var cells = []cell{
	{name: "rand4k-flush1", bytes: blockBytes, depth: 1, flushEvery: 1},
	{name: "rand4k-qd16", bytes: blockBytes, depth: 16},
	{name: "rand4k-qd16-flush32", bytes: blockBytes, depth: 16, flushEvery: 32},
	{name: "seq1m-flush16", bytes: segmentBytes, depth: 4, flushEvery: 16, sequential: true},
}

// generator says what the next write of a cell is. The same seed gives the same
// writes, whoever serves them.
type generator struct {
	cell
	size int64
	next int64 // offset of a sequential write
	rand *rand.Rand
	data *corpus
}

func newGenerator(c cell, size int64, data *corpus, r *rand.Rand) *generator {
	g := &generator{cell: c, size: size, rand: r, data: data}
	g.next = g.somewhere()
	return g
}

func (g *generator) somewhere() int64 {
	return g.rand.Int64N(g.size/int64(g.bytes)) * int64(g.bytes)
}

func (g *generator) write() (off int64, data []byte) {
	if g.sequential {
		off = g.next
		g.next = (g.next + int64(g.bytes)) % (g.size / int64(g.bytes) * int64(g.bytes))
	} else {
		off = g.somewhere()
	}
	return off, g.data.pick(g.rand, g.bytes)
}

// slice is the outcome of one server's turn.
type slice struct {
	writes  int64
	flushes int64
	elapsed time.Duration // the final flush included
}

func (s slice) iops() float64 { return float64(s.writes) / s.elapsed.Seconds() }

// loader keeps a connection at the cell's depth. After the first requests it
// runs in the connection's receiver alone: each reply submits the next request,
// as an I/O engine's completion loop does.
//
// A flush takes a place in the queue like a write and does not hold up the
// others: it stands for one of several threads that commits.
type loader struct {
	gen  *generator
	conn *nbdclient.Conn
	more func(writes int64) bool // whether to go on

	mu      sync.Mutex // between the start and the receiver; free of contention after that
	writes  int64
	flushes int64
	due     bool // a flush is to be sent next
	flying  int
	err     error
	done    chan struct{}
}

// runSlice loads a server for some time and flushes at the end.
func runSlice(ctx context.Context, uri string, g *generator, d time.Duration) (slice, error) {
	conn, err := nbdclient.Dial(ctx, uri, nil)
	if err != nil {
		return slice{}, err
	}
	defer conn.Close()
	collect()
	stop := time.Now().Add(d)
	return run(ctx, conn, g, func(int64) bool { return time.Now().Before(stop) })
}

// runWrites does a number of writes and flushes at the end.
func runWrites(ctx context.Context, conn *nbdclient.Conn, g *generator, n int64) (slice, error) {
	return run(ctx, conn, g, func(writes int64) bool { return writes < n })
}

func run(ctx context.Context, conn *nbdclient.Conn, g *generator, more func(int64) bool) (slice, error) {
	begin := time.Now()
	l := &loader{gen: g, conn: conn, more: more, done: make(chan struct{})}
	l.mu.Lock()
	for range g.depth {
		if l.err = l.submit(&nbdclient.Request{Done: l.completed}); l.err != nil {
			break
		}
	}
	started := l.flying > 0
	l.mu.Unlock()
	if started {
		select {
		case <-l.done:
		case <-ctx.Done(): // the caller's Close ends what is in flight
			return slice{}, ctx.Err()
		}
	}
	if l.err != nil {
		return slice{}, l.err
	}
	if err := conn.Flush(ctx); err != nil {
		return slice{}, err
	}
	return slice{writes: l.writes, flushes: l.flushes + 1, elapsed: time.Since(begin)}, nil
}

// submit sends the next request. Called with mu held.
func (l *loader) submit(r *nbdclient.Request) error {
	if l.due {
		l.due = false
		l.flushes++
		r.Op, r.Off, r.Data = nbdclient.Flush, 0, nil
	} else {
		r.Op = nbdclient.Write
		r.Off, r.Data = l.gen.write()
		l.writes++
		l.due = l.gen.flushEvery > 0 && l.writes%int64(l.gen.flushEvery) == 0
	}
	if err := l.conn.Submit(r); err != nil {
		return err
	}
	l.flying++
	return nil
}

// completed is called by the connection's receiver.
func (l *loader) completed(r *nbdclient.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flying--
	if r.Err != nil && l.err == nil {
		l.err = r.Err
	}
	if l.err == nil && l.more(l.writes) {
		if l.err = l.submit(r); l.err == nil {
			return
		}
	}
	if l.flying == 0 {
		close(l.done)
	}
}
