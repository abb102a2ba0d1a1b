package twosites

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbdclient"
)

// Pulse knows for how long nothing succeeded. A nil one hears nothing.
type Pulse struct {
	mu      sync.Mutex
	last    time.Time
	longest time.Duration
}

func (p *Pulse) beat() {
	if p == nil {
		return
	}
	now := time.Now()
	p.mu.Lock()
	if !p.last.IsZero() {
		p.longest = max(p.longest, now.Sub(p.last))
	}
	p.last = now
	p.mu.Unlock()
}

// Reset begins anew, with the last success.
func (p *Pulse) Reset() {
	p.mu.Lock()
	p.longest = 0
	p.mu.Unlock()
}

// Longest is the longest time between two requests that succeeded since Reset, wherever they did.
func (p *Pulse) Longest() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.longest
}

// silence is for how long nothing has succeeded.
func (p *Pulse) silence() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.last)
}

// Volume is one that is alone in its group, and is written to wherever it is served.
type Volume struct {
	Name, Group string
	Model       *Model // of where it is served now
	Load        Load
	Pulse       Pulse
	// Flushed is the LSN that flushes cover which were answered at any site.
	Flushed uint64

	host *Host
	w    *Writer
	conn *nbdclient.Conn
	done chan error // of what runs in the background; nil: nothing
}

// Create makes group and volume with the verbs of an operator, and connects.
func (v *Volume) Create(ctx context.Context, h *Host, ack string) error {
	if err := h.Verb(ctx, nil, "group", "create", v.Group, "--ack", ack); err != nil {
		return err
	}
	err := h.Verb(ctx, nil, "volume", "create", v.Name, "--group", v.Group, "--size", fmt.Sprint(v.Model.Size))
	if err != nil {
		return err
	}
	_, err = v.Connect(ctx, h)
	return err
}

// Seam is where a volume went on at a host.
type Seam struct {
	LSN    uint64 // of the last request of before
	Before *Model // what the host before it had
}

// Connect dials the volume at a host until that serves it, as a client does that has lost its server
// and tries the one at the other site. The model forks at the last LSN that the host has.
func (v *Volume) Connect(ctx context.Context, h *Host) (*Seam, error) { return v.connect(ctx, h, 0) }

// ConnectHanded is Connect at a host that the journal was handed over to in order: the former seat
// has put a mark behind the last write, which takes an LSN.
func (v *Volume) ConnectHanded(ctx context.Context, h *Host) (*Seam, error) {
	return v.connect(ctx, h, 1)
}

func (v *Volume) connect(ctx context.Context, h *Host, marks uint64) (*Seam, error) {
	v.Close()
	var g *api.GroupStatus
	err := h.Until(ctx, startTimeout, "volume "+v.Name+" is served", func() (err error) {
		if v.conn == nil {
			if v.conn, err = nbdclient.Dial(ctx, h.URI(v.Name), nil); err != nil {
				v.conn = nil
				return err
			}
		}
		g, err = h.Group(ctx, v.Group)
		return err
	})
	if err != nil {
		return nil, err
	}
	seam := &Seam{LSN: g.LastLSN - marks, Before: v.Model}
	if sent := v.Model.Sent(); g.LastLSN < marks || seam.LSN > sent {
		return nil, fail.New(fail.Damaged, "look at", "group "+v.Group, fmt.Sprintf("host %s has LSN %d, and only %d "+
			"requests were sent", h.Name, g.LastLSN, sent))
	}
	v.host, v.Model = h, v.Model.Fork(seam.LSN)
	for range marks {
		v.Model.Mark()
	}
	v.w = NewWriter(v.conn, v.Model, v.Load, &v.Pulse)
	return seam, nil
}

// Writer writes to the volume where it is connected.
func (v *Volume) Writer() *Writer { return v.w }

// WriteFlushed writes once at random, and returns when a flush has covered that.
func (v *Volume) WriteFlushed(ctx context.Context) error {
	err := v.w.randomOp(ctx, 1)
	if err == nil {
		err = v.w.Drain(ctx)
	}
	return v.flush(ctx, err)
}

// flush returns when a flush has been answered, unless there is an error.
func (v *Volume) flush(ctx context.Context, err error) error {
	if err == nil {
		err = v.w.Flush(ctx)
	}
	if err == nil {
		err = v.w.Drain(ctx)
	}
	v.Flushed = max(v.Flushed, v.w.Flushed())
	return err
}

// Begin writes at random in the background, until Break or Pause.
func (v *Volume) Begin(ctx context.Context) {
	v.done = make(chan error, 1)
	w := v.w
	w.quit = make(chan struct{})
	go func() { v.done <- w.Overwrite(ctx, time.Now().Add(time.Hour)) }()
}

// Pause ends what Begin began, and returns when all is answered, a last flush included.
func (v *Volume) Pause(ctx context.Context) error {
	close(v.w.quit)
	err := <-v.done
	v.done = nil
	return v.flush(ctx, err)
}

// Broken waits until the connection fails under what Begin began, which it is expected to.
func (v *Volume) Broken(ctx context.Context) error {
	select {
	case <-v.done:
		v.done = nil
	case <-ctx.Done():
		return ctx.Err()
	}
	v.w.Settle()
	v.Flushed = max(v.Flushed, v.w.Flushed())
	return ctx.Err()
}

// Close ends the connection.
func (v *Volume) Close() {
	if v.conn != nil {
		_ = v.conn.Close()
		v.conn = nil
	}
}

// Verify compares all that is served with the model. Nothing may be on its way.
func (v *Volume) Verify(ctx context.Context) error {
	g, err := v.host.Group(ctx, v.Group)
	if err != nil {
		return err
	}
	if sent := v.Model.Sent(); g.LastLSN != sent {
		return fail.New(fail.Damaged, "look at", "group "+v.Group, fmt.Sprintf("host %s is at LSN %d, and the "+
			"model at %d", v.host.Name, g.LastLSN, sent))
	}
	return v.Model.Compare(ctx, "volume "+v.Name+" at host "+v.host.Name, Served(ctx, v.conn), v.Model.Sent())
}

// Served reads a connection as a file.
func Served(ctx context.Context, c *nbdclient.Conn) *Reader { return &Reader{ctx, c} }

// Reader is an io.ReaderAt of an NBD connection.
type Reader struct {
	ctx  context.Context
	conn *nbdclient.Conn
}

// ReadAt reads all of p.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	if err := r.conn.ReadAt(r.ctx, p, off); err != nil {
		return 0, err
	}
	return len(p), nil
}
