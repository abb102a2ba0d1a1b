package demo

import (
	"archive/tar"
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbdclient"
)

const (
	// maxOpBytes keeps a request one record: the agent splits none below 64 KiB.
	maxOpBytes = 32 << 10
	depth      = 16
	flushEvery = 32
	trimEvery  = 50
	// opsPerSecond keeps the load such that an object store on the same machine
	// can follow; the benchmark is where limits are sought.
	opsPerSecond = 3000
)

// writer sends requests in order, several in flight, and notes them in the model.
type writer struct {
	conn    *nbdclient.Conn
	m       *model
	slots   chan struct{}
	broken  chan struct{} // closed at the first error
	once    sync.Once
	err     error
	highest atomic.Uint64
	acked   uint64
	flushes uint64
	next    time.Time
}

func newWriter(conn *nbdclient.Conn, m *model) *writer {
	return &writer{conn: conn, m: m, slots: make(chan struct{}, depth), broken: make(chan struct{}), next: time.Now()}
}

// findTree picks a file tree that is on this machine.
func findTree() (string, error) {
	for _, dir := range []string{os.Getenv("GOROOT"), "/usr/local/go", "/usr/lib/go", "/usr/share", "/usr/lib"} {
		if st, err := os.Stat(dir); dir != "" && err == nil && st.IsDir() {
			return dir, nil
		}
	}
	return "", fail.New(fail.NotFound, "find", "a file tree", "neither Go's nor /usr/share is here")
}

// submit sends one request; it waits only while too many are in flight.
func (w *writer) submit(ctx context.Context, o op, r nbdclient.Request) error {
	select {
	case w.slots <- struct{}{}:
	case <-w.broken:
		return w.err
	case <-ctx.Done():
		return ctx.Err()
	}
	lsn := uint64(0)
	if r.Op != nbdclient.Flush {
		lsn = w.m.add(o)
	} else {
		w.flushes++
	}
	r.Done = func(r *nbdclient.Request) {
		if r.Err != nil {
			w.once.Do(func() { w.err = r.Err; close(w.broken) })
		} else if lsn > 0 {
			w.m.ack(lsn)
			for h := w.highest.Load(); h < lsn && !w.highest.CompareAndSwap(h, lsn); h = w.highest.Load() {
			}
		}
		<-w.slots
	}
	err := w.conn.Submit(&r)
	if err != nil {
		<-w.slots // Done is not called then
	}
	return err
}

// pace keeps to opsPerSecond.
func (w *writer) pace(ctx context.Context) {
	w.next = w.next.Add(time.Second / opsPerSecond)
	if d := time.Until(w.next); d > 2*time.Millisecond {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	} else if d < -time.Second {
		w.next = time.Now()
	}
}

func (w *writer) write(ctx context.Context, off int64, pool, n int) error {
	w.pace(ctx)
	return w.submit(ctx, op{off: off, len: int32(n), pool: int32(pool)},
		nbdclient.Request{Op: nbdclient.Write, Off: off, Data: w.m.pool[pool : pool+n]})
}

func (w *writer) flush(ctx context.Context) error {
	return w.submit(ctx, op{}, nbdclient.Request{Op: nbdclient.Flush})
}

// pack writes dir as a tar archive onto the start of the volume, at most
// maxBytes and until the deadline. What it packs becomes the pool.
func (w *writer) pack(ctx context.Context, dir string, maxBytes int64, deadline time.Time) error {
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(tarTree(pw, dir)) }()
	defer pr.Close()
	w.m.pool = make([]byte, 0, poolBytes)
	buf := make([]byte, maxOpBytes)
	for off, n := int64(0), 0; off+maxOpBytes <= maxBytes && time.Now().Before(deadline); off += maxOpBytes {
		if _, err := io.ReadFull(pr, buf); err != nil {
			break // the tree is smaller than that
		}
		if len(w.m.pool)+len(buf) > cap(w.m.pool) {
			break
		}
		at := len(w.m.pool)
		w.m.pool = append(w.m.pool, buf...)
		if err := w.write(ctx, off, at, len(buf)); err != nil {
			return err
		}
		if n++; n%flushEvery == 0 {
			if err := w.flush(ctx); err != nil {
				return err
			}
		}
	}
	return w.flush(ctx)
}

// tarTree packs regular files; those that cannot be read are left out.
func tarTree(w io.Writer, dir string) error {
	t := tar.NewWriter(w)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			return nil
		}
		defer f.Close()
		h, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return nil
		}
		if h.Name, err = filepath.Rel(dir, path); err != nil {
			return nil
		}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		_, err = io.CopyN(t, f, h.Size)
		return err
	})
	if err != nil {
		return err
	}
	return t.Close()
}

// overwrite writes at random, with trims and flushes, until the deadline.
func (w *writer) overwrite(ctx context.Context, until time.Time) error {
	for n := 1; time.Now().Before(until); n++ {
		if err := w.randomOp(ctx, n); err != nil {
			return err
		}
		if n%flushEvery == 0 {
			if err := w.flush(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *writer) randomOp(ctx context.Context, n int) error {
	const sector = 512
	size := (1 + w.m.rnd.IntN(8)) * 4096
	if n%7 == 0 {
		size = (1 + w.m.rnd.IntN(32)) * sector
	}
	off := w.m.rnd.Int64N((w.m.size-int64(size))/sector+1) * sector
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

// drain waits until nothing is in flight.
func (w *writer) drain(ctx context.Context) error {
	for range depth {
		select {
		case w.slots <- struct{}{}:
		case <-w.broken:
			return w.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for range depth {
		<-w.slots
	}
	return nil
}

// settle waits for the last replies after the connection has died.
func (w *writer) settle() {
	for range depth {
		w.slots <- struct{}{}
	}
	w.acked = max(w.acked, w.highest.Load())
}
