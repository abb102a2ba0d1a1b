package parked

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbd"
)

// Server serves parked volumes, and after Resolve those of somebody else to the same clients.
type Server struct {
	*nbd.Server
	known func() map[string]block.Info
	next  atomic.Pointer[served]
	done  chan struct{} // closed by Resolve
}

type served struct {
	exports nbd.Exports
	metrics nbd.Metrics
}

// New makes a server that does not listen yet. known are the volumes that are parked, by name, as
// they will be; it is asked for each connection. Exports and Metrics of o are Resolve's.
func New(o nbd.Options, known func() map[string]block.Info) *Server {
	s := &Server{known: known, done: make(chan struct{})}
	o.Exports, o.Metrics = exports{s}, metrics{s}
	s.Server = nbd.New(o)
	return s
}

// Resolve lets all I/O go on, of those who wait and those who come. It is called once.
func (s *Server) Resolve(e nbd.Exports, m nbd.Metrics) {
	for range s.Connections() { // those that are there were not counted
		m.ConnOpened()
	}
	s.next.Store(&served{e, m})
	close(s.done)
}

type exports struct{ s *Server }

// Open is nbd.Exports'.
func (e exports) Open(ctx context.Context, name string) (block.Device, error) {
	if n := e.s.next.Load(); n != nil {
		return n.exports.Open(ctx, name)
	}
	known := e.s.known()
	if name == "" && len(known) == 1 {
		for only := range known {
			name = only
		}
	}
	info, ok := known[name]
	if !ok {
		return nil, fail.New(fail.NotFound, "open", "volume "+name, "no such volume is followed here")
	}
	return &device{s: e.s, name: name, info: info}, nil
}

// List is nbd.Exports'.
func (e exports) List(ctx context.Context) (out []nbd.Export) {
	if n := e.s.next.Load(); n != nil {
		return n.exports.List(ctx)
	}
	for name, info := range e.s.known() {
		out = append(out, nbd.Export{Name: name, Description: info.Description, SizeBytes: info.SizeBytes})
	}
	return out
}

// metrics counts once somebody serves.
type metrics struct{ s *Server }

func (m metrics) tell(f func(nbd.Metrics)) {
	if n := m.s.next.Load(); n != nil && n.metrics != nil {
		f(n.metrics)
	}
}

// ConnOpened is nbd.Metrics'.
func (m metrics) ConnOpened() { m.tell(nbd.Metrics.ConnOpened) }

// ConnClosed is nbd.Metrics'.
func (m metrics) ConnClosed() { m.tell(nbd.Metrics.ConnClosed) }

// Request is nbd.Metrics'.
func (m metrics) Request(command string, lengthBytes uint32, took time.Duration, ok bool) {
	m.tell(func(n nbd.Metrics) { n.Request(command, lengthBytes, took, ok) })
}

// device is a volume that waits for who serves it, and then passes all on to that.
type device struct {
	s    *Server
	name string
	info block.Info
	dev  atomic.Pointer[block.Device]
}

var _ block.Device = (*device)(nil)

// Device is what it passes on to, nil while it waits: nbd.Server.Detach asks.
func (d *device) Device() block.Device {
	if p := d.dev.Load(); p != nil {
		return *p
	}
	return nil
}

// await is the device that serves. One that is not what the client was told is refused.
func (d *device) await(ctx context.Context) (block.Device, error) {
	if p := d.dev.Load(); p != nil {
		return *p, nil
	}
	select {
	case <-d.s.done:
	case <-ctx.Done():
		return nil, fail.Wrap(fail.Retry, "wait for", "volume "+d.name, ctx.Err())
	}
	dev, err := d.s.next.Load().exports.Open(ctx, d.name)
	if err != nil {
		return nil, err
	}
	if got := dev.Info(); got.SizeBytes != d.info.SizeBytes || got.MinBlockBytes > d.info.MinBlockBytes {
		return nil, fail.New(fail.Refused, "open", "volume "+d.name, "it is not the device that was parked").
			WithHint("let the client connect again")
	}
	d.dev.Store(&dev)
	return dev, nil
}

// Info is what the client was told.
func (d *device) Info() block.Info { return d.info }

// ReadAt is block.Device's.
func (d *device) ReadAt(ctx context.Context, p []byte, off int64) error {
	dev, err := d.await(ctx)
	if err != nil {
		return err
	}
	return dev.ReadAt(ctx, p, off)
}

// Prepare is block.Device's.
func (d *device) Prepare(ctx context.Context, n int) (block.Buffer, error) {
	dev, err := d.await(ctx)
	if err != nil {
		return nil, err
	}
	return dev.Prepare(ctx, n)
}

// Write is block.Device's: the buffer is of the device that serves.
func (d *device) Write(ctx context.Context, b block.Buffer, off int64, fua bool) error {
	dev, err := d.await(ctx)
	if err != nil {
		b.Release()
		return err
	}
	return dev.Write(ctx, b, off, fua)
}

// Zero is block.Device's.
func (d *device) Zero(ctx context.Context, off, n int64, noHole, fua bool) error {
	dev, err := d.await(ctx)
	if err != nil {
		return err
	}
	return dev.Zero(ctx, off, n, noHole, fua)
}

// FastZero is nbd.FastZeroer's: while it waits, nothing is fast.
func (d *device) FastZero(noHole bool) bool {
	z, ok := d.Device().(nbd.FastZeroer)
	return d.Device() != nil && (!ok || z.FastZero(noHole))
}

// Trim is block.Device's.
func (d *device) Trim(ctx context.Context, off, n int64, fua bool) error {
	dev, err := d.await(ctx)
	if err != nil {
		return err
	}
	return dev.Trim(ctx, off, n, fua)
}

// Flush is block.Device's.
func (d *device) Flush(ctx context.Context) error {
	dev, err := d.await(ctx)
	if err != nil {
		return err
	}
	return dev.Flush(ctx)
}

// Extents is block.Device's.
func (d *device) Extents(ctx context.Context, off, n int64) ([]block.Extent, error) {
	dev, err := d.await(ctx)
	if err != nil {
		return nil, err
	}
	return dev.Extents(ctx, off, n)
}
