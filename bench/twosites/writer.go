package twosites

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pollux-dr/pollux/internal/nbdclient"
)

const (
	// maxOpBytes keeps a request one record: the agent splits none below 64 KiB.
	maxOpBytes = 32 << 10
	trimEvery  = 50
)

// Load says how a writer writes.
type Load struct {
	Depth        int // requests in flight
	FlushEvery   int // writes
	OpsPerSecond int // at most
}

// DemoLoad is such that an object store on the same machine can follow, and that what may be under
// way at any moment is a small part of a small volume, too; the benchmark is where limits are sought.
func DemoLoad(size int64) Load {
	const most, meanOpBytes, part = 3000, 16 << 10, 20 // of the volume, a second
	return Load{Depth: 16, FlushEvery: 32, OpsPerSecond: int(min(most, max(20, size/part/meanOpBytes)))}
}

// Writer sends requests in order, several in flight, and notes them in the model.
type Writer struct {
	load    Load
	conn    *nbdclient.Conn
	m       *Model
	pulse   *Pulse // may be nil
	slots   chan struct{}
	broken  chan struct{} // closed at the first error
	once    sync.Once
	err     error
	flushed atomic.Uint64 // the LSN that answered flushes cover
	flushes uint64
	next    time.Time
	quit    chan struct{} // closed to end Overwrite; nil: nobody does
}

// NewWriter writes to a connection what it notes in a model. pulse, which may be nil, hears of each
// request that succeeds.
func NewWriter(conn *nbdclient.Conn, m *Model, load Load, pulse *Pulse) *Writer {
	return &Writer{load: load, conn: conn, m: m, pulse: pulse, slots: make(chan struct{}, load.Depth),
		broken: make(chan struct{}), next: time.Now()}
}

// Flushed is the LSN up to which all is covered by a flush that was answered.
func (w *Writer) Flushed() uint64 { return w.flushed.Load() }

// Flushes is how many were sent.
func (w *Writer) Flushes() uint64 { return w.flushes }

// submit sends one request; it waits only while too many are in flight.
func (w *Writer) submit(ctx context.Context, o op, r nbdclient.Request) error {
	select {
	case w.slots <- struct{}{}:
	case <-w.broken:
		return w.err
	case <-ctx.Done():
		return ctx.Err()
	}
	lsn, covers := uint64(0), uint64(0)
	if r.Op != nbdclient.Flush {
		lsn = w.m.add(o)
	} else {
		covers = w.m.covered()
		w.flushes++
	}
	r.Done = func(r *nbdclient.Request) {
		switch {
		case r.Err != nil:
			w.once.Do(func() { w.err = r.Err; close(w.broken) })
		case lsn > 0:
			w.m.ack(lsn)
			w.pulse.beat()
		default:
			raise(&w.flushed, covers)
			w.pulse.beat()
		}
		<-w.slots
	}
	err := w.conn.Submit(&r)
	if err != nil {
		<-w.slots // Done is not called then
	}
	return err
}

func raise(v *atomic.Uint64, to uint64) {
	for h := v.Load(); h < to && !v.CompareAndSwap(h, to); h = v.Load() {
	}
}

// pace keeps to the load's rate.
func (w *Writer) pace(ctx context.Context) {
	w.next = w.next.Add(time.Second / time.Duration(w.load.OpsPerSecond))
	if d := time.Until(w.next); d > 2*time.Millisecond {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	} else if d < -time.Second {
		w.next = time.Now()
	}
}

func (w *Writer) write(ctx context.Context, off int64, pool, n int) error {
	w.pace(ctx)
	return w.submit(ctx, op{off: off, len: int32(n), pool: int32(pool)},
		nbdclient.Request{Op: nbdclient.Write, Off: off, Data: w.m.pool[pool : pool+n]})
}

// Flush sends one, and does not wait for it.
func (w *Writer) Flush(ctx context.Context) error {
	return w.submit(ctx, op{}, nbdclient.Request{Op: nbdclient.Flush})
}

// Pack writes the pool, which is the archive of a file tree, onto the start of the volume, at most
// maxBytes and until the deadline.
func (w *Writer) Pack(ctx context.Context, maxBytes int64, deadline time.Time) error {
	end := int(min(maxBytes, int64(len(w.m.pool)))) - maxOpBytes
	for off, n := 0, 0; off <= end && time.Now().Before(deadline); off += maxOpBytes {
		if err := w.write(ctx, int64(off), off, maxOpBytes); err != nil {
			return err
		}
		if n++; n%w.load.FlushEvery == 0 {
			if err := w.Flush(ctx); err != nil {
				return err
			}
		}
	}
	return w.Flush(ctx)
}

// Overwrite writes at random, with trims and flushes, until the deadline or what quit says.
func (w *Writer) Overwrite(ctx context.Context, until time.Time) error {
	for n := 1; time.Now().Before(until); n++ {
		select {
		case <-w.quit:
			return nil
		default:
		}
		if err := w.randomOp(ctx, n); err != nil {
			return err
		}
		if n%w.load.FlushEvery == 0 {
			if err := w.Flush(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *Writer) randomOp(ctx context.Context, n int) error {
	const sector = 512
	size := (1 + w.m.rnd.IntN(8)) * 4096
	if n%7 == 0 {
		size = (1 + w.m.rnd.IntN(32)) * sector
	}
	off := w.m.rnd.Int64N((w.m.Size-int64(size))/sector+1) * sector
	if n%7 != 0 {
		off &^= 4095
	}
	if n%trimEvery == 0 {
		w.pace(ctx)
		return w.submit(ctx, op{off: off, len: int32(size), pool: -1},
			nbdclient.Request{Op: nbdclient.Trim, Off: off, Length: uint32(size)})
	}
	return w.write(ctx, off, w.m.rnd.IntN(len(w.m.pool)-size+1), size)
}

// Drain waits until nothing is in flight.
func (w *Writer) Drain(ctx context.Context) error {
	for range w.load.Depth {
		select {
		case w.slots <- struct{}{}:
		case <-w.broken:
			return w.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for range w.load.Depth {
		<-w.slots
	}
	return nil
}

// Settle waits for the last replies after the connection has died.
func (w *Writer) Settle() {
	for range w.load.Depth {
		w.slots <- struct{}{}
	}
}
