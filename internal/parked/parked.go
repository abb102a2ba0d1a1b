package parked

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbd"
)

// Server serves parked volumes, and after Resolve those of somebody else to the same clients.
type Server struct {
	*nbd.Server
	known  func() map[string]block.Info
	log    *slog.Logger
	counts counts

	failed chan struct{} // closed when a listener has failed
	err    error         // why; set before
	once   sync.Once

	mu      sync.Mutex
	devices map[string]*device // that were opened, by name
	next    nbd.Exports        // who serves; set before served is closed
	served  chan struct{}      // closed by Resolve
}

// New makes a server that does not listen yet. known are the volumes that are parked, by name, as
// they will be; it is asked for each connection. Exports and Metrics of o are Resolve's.
func New(o nbd.Options, known func() map[string]block.Info) *Server {
	s := &Server{known: known, log: o.Logger, failed: make(chan struct{}), devices: map[string]*device{},
		served: make(chan struct{})}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	o.Exports, o.Metrics = exports{s}, &s.counts
	s.Server = nbd.New(o)
	return s
}

// Listen serves on listeners, until Shutdown or Close.
func (s *Server) Listen(all ...net.Listener) {
	for _, l := range all {
		go func() {
			if err := s.Serve(context.Background(), l); err != nil {
				s.once.Do(func() {
					s.err = err
					close(s.failed)
				})
			}
		}()
	}
}

// Failed is closed when a listener has failed; Err says why.
func (s *Server) Failed() <-chan struct{} { return s.failed }

// Err is why a listener has failed, once Failed is closed.
func (s *Server) Err() error { return s.err }

// Clients is how many clients have each volume that is parked. After Resolve it is nil.
func (s *Server) Clients() map[string]int {
	if s.isServed() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]int{}
	for name, d := range s.devices {
		if n := s.Users(d); n > 0 {
			out[name] = n
		}
	}
	return out
}

// Refresh disconnects the clients of volumes that are not parked any more, or have become others.
func (s *Server) Refresh() {
	known := s.known()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isServed() {
		return
	}
	for name, d := range s.devices {
		if info, ok := known[name]; !ok {
			s.drop(d, "the volume is not followed here any more, or was removed")
		} else if info != d.info {
			s.drop(d, fmt.Sprintf("the volume has %d bytes now, and not %d", info.SizeBytes, d.info.SizeBytes))
		}
	}
}

// drop ends a volume's clients. Called with mu held.
func (s *Server) drop(d *device, why string) {
	delete(s.devices, d.name)
	close(d.gone)
	if n := s.HangUp(d); n > 0 {
		s.log.Warn("parked clients are disconnected", "volume", d.name, "clients", n, "reason", why)
	}
}

// Resolve lets all I/O go on with who serves it, of those who wait and of those who come. Whom it
// does not serve, or otherwise than was said, is disconnected. It is called once.
func (s *Server) Resolve(ctx context.Context, e nbd.Exports, m nbd.Metrics) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = e
	s.counts.resolve(m)
	close(s.served)
	for _, d := range s.devices { // those without a request, too
		if _, err := d.Serving(ctx); err != nil {
			s.drop(d, err.Error())
		}
	}
}

func (s *Server) isServed() bool { return isClosed(s.served) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

type exports struct{ s *Server }

// Open is nbd.Exports'.
func (e exports) Open(ctx context.Context, name string) (block.Device, error) {
	s := e.s
	if s.isServed() {
		return s.next.Open(ctx, name)
	}
	known := s.known()
	if name == "" && len(known) == 1 {
		for only := range known {
			name = only
		}
	}
	info, ok := known[name]
	if !ok {
		return nil, fail.New(fail.NotFound, "open", "volume "+name, "no such volume is parked here")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isServed() { // meanwhile
		return s.next.Open(ctx, name)
	}
	d := s.devices[name]
	if d != nil && d.info != info {
		s.drop(d, "the volume has become another one")
		d = nil
	}
	if d == nil {
		d = &device{s: s, name: name, info: info, gone: make(chan struct{})}
		s.devices[name] = d
	}
	return d, nil
}

// List is nbd.Exports'.
func (e exports) List(ctx context.Context) (out []nbd.Export) {
	if e.s.isServed() {
		return e.s.next.List(ctx)
	}
	for name, info := range e.s.known() {
		out = append(out, nbd.Export{Name: name, Description: info.Description, SizeBytes: info.SizeBytes})
	}
	return out
}

// device is a parked volume. All of its clients share it.
type device struct {
	block.Device // none: of a parked device only Info is called
	s            *Server
	name         string
	info         block.Info
	gone         chan struct{} // closed when it was dropped
}

var _ nbd.Parked = (*device)(nil)

// Info is what clients are told.
func (d *device) Info() block.Info { return d.info }

// Served is nbd.Parked's.
func (d *device) Served() <-chan struct{} {
	if d.isGone() {
		return d.gone
	}
	return d.s.served
}

func (d *device) isGone() bool { return isClosed(d.gone) }

// Serving is nbd.Parked's. One that is not what clients were told of is refused.
func (d *device) Serving(ctx context.Context) (block.Device, error) {
	if d.isGone() {
		return nil, fail.New(fail.NotFound, "open", "volume "+d.name, "it is not what was parked")
	}
	dev, err := d.s.next.Open(ctx, d.name)
	if err != nil {
		return nil, err
	}
	got := dev.Info()
	if got.SizeBytes != d.info.SizeBytes || got.MinBlockBytes > d.info.MinBlockBytes ||
		got.ReadOnly != d.info.ReadOnly {
		return nil, fail.New(fail.Refused, "open", "volume "+d.name,
			fmt.Sprintf("it has %d bytes, and what was parked %d", got.SizeBytes, d.info.SizeBytes)).
			WithHint("let the client connect again")
	}
	return dev, nil
}

// counts is the server's nbd.Metrics: it passes on to who serves.
type counts struct {
	mu   sync.Mutex // of open, and of next where it is set
	open int        // connections
	next atomic.Pointer[nbd.Metrics]
}

// resolve tells who counts from now on of the connections that are there.
func (c *counts) resolve(m nbd.Metrics) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m == nil {
		return
	}
	for range c.open {
		m.ConnOpened()
	}
	c.next.Store(&m)
}

// ConnOpened is nbd.Metrics'.
func (c *counts) ConnOpened() { c.conn(1, nbd.Metrics.ConnOpened) }

// ConnClosed is nbd.Metrics'.
func (c *counts) ConnClosed() { c.conn(-1, nbd.Metrics.ConnClosed) }

func (c *counts) conn(by int, tell func(nbd.Metrics)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open += by
	if m := c.next.Load(); m != nil {
		tell(*m)
	}
}

// Request is nbd.Metrics'.
func (c *counts) Request(command string, lengthBytes uint32, took time.Duration, ok bool) {
	if m := c.next.Load(); m != nil {
		(*m).Request(command, lengthBytes, took, ok)
	}
}
