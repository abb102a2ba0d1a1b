package nbd

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/listen"
)

// Exports is what a server offers. Its methods are called from many
// connections at once.
type Exports interface {
	// Open returns the device of a name; an empty name means the only export,
	// if there is exactly one. An unknown name is fail.NotFound. The device
	// stays the callee's: the server never closes it.
	Open(ctx context.Context, name string) (block.Device, error)
	// List returns all exports, for NBD_OPT_LIST.
	List(ctx context.Context) []Export
}

// Export is one line of a list of exports.
type Export struct {
	Name        string
	Description string
	SizeBytes   int64
}

// ExportOf describes a device as it does itself when it is opened.
func ExportOf(name string, dev block.Device) Export {
	info := dev.Info()
	return Export{Name: name, Description: info.Description, SizeBytes: info.SizeBytes}
}

// Metrics receives what a server counts. Its methods are called on the path of
// every request and must be quick.
type Metrics interface {
	ConnOpened()
	ConnClosed()
	// Request is called after each request: the command's name in lower case
	// ("write"), its length, how long it took from receipt to the device's
	// answer, and whether it succeeded.
	Request(command string, lengthBytes uint32, took time.Duration, ok bool)
}

// Options configure a Server. Zero values mean the defaults given.
type Options struct {
	Exports Exports

	// MaxConnections that have an export are served by one listener: 64; further ones are
	// refused. One client certificate may have three quarters of them.
	MaxConnections     int
	MaxInFlight        int   // 128 requests of one connection that wait for the device
	MaxPayloadBytes    int   // 32 MiB in one READ or WRITE
	ReceiveBudgetBytes int64 // MaxConnections MiB of payloads in reception, over a listener's connections

	// StallLimit is for how long a client may take nothing of a reply, or not send
	// the next 64 KiB of a message that it has begun, before it is disconnected:
	// 10 min. How long the whole takes does not count, and between requests it may
	// idle without limit.
	StallLimit time.Duration
	// HandshakeTimeout bounds the whole negotiation: 10 s.
	HandshakeTimeout time.Duration

	TLS *tls.Config // enables STARTTLS; nil disables it
	// RequireTLS refuses plain text on everything but unix sockets.
	RequireTLS bool

	Logger  *slog.Logger // nil discards
	Metrics Metrics      // nil counts nothing

	drainLimit time.Duration // StallLimit of replies during Shutdown: 10 s
}

func (o Options) withDefaults() Options {
	if o.MaxConnections <= 0 {
		o.MaxConnections = 64
	}
	if o.MaxInFlight <= 0 {
		o.MaxInFlight = 128
	}
	if o.MaxPayloadBytes <= 0 {
		o.MaxPayloadBytes = 32 << 20
	}
	if o.ReceiveBudgetBytes <= 0 {
		// A part each: then no client that stalls can hold up another one.
		o.ReceiveBudgetBytes = int64(o.MaxConnections) * block.MaxWriteBytes
	}
	o.ReceiveBudgetBytes = max(o.ReceiveBudgetBytes, block.MaxWriteBytes)
	if o.StallLimit <= 0 {
		o.StallLimit = 10 * time.Minute
	}
	if o.drainLimit <= 0 {
		o.drainLimit = 10 * time.Second
	}
	if o.HandshakeTimeout <= 0 {
		o.HandshakeTimeout = 10 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Logger = listen.Sparse(o.Logger)
	return o
}

// Server serves exports on any number of listeners. Its methods are safe for
// concurrent use.
type Server struct {
	opts Options
	own  *door // of ServeConn

	ctx    context.Context // of every connection; ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // Serve calls and connections

	mu        sync.Mutex
	closing   bool
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
}

// New returns a server that does not listen yet. Options.Exports must be set.
func New(opts Options) *Server {
	opts = opts.withDefaults()
	ctx, cancel := context.WithCancel(context.Background())
	return &Server{
		opts:      opts,
		own:       newDoor(&opts),
		ctx:       ctx,
		cancel:    cancel,
		listeners: make(map[net.Listener]struct{}),
		conns:     make(map[*conn]struct{}),
	}
}

// Serve accepts connections from l until ctx ends, Shutdown or Close is called
// (it returns nil then) or l fails. It closes l. Connections outlive it: only
// Shutdown and Close end them.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if !s.addListener(l) {
		_ = l.Close()
		return nil
	}
	defer s.removeListener(l)
	l = listen.Patient(l, s.opts.Logger)
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	door := newDoor(&s.opts)
	for {
		nc, err := l.Accept()
		if err == nil {
			s.start(nc, door)
			continue
		}
		if ctx.Err() != nil || s.isClosing() {
			return nil
		}
		return fail.Wrap(fail.Internal, "accept on", l.Addr().String(), err)
	}
}

func (s *Server) start(nc net.Conn, d *door) {
	if c := s.admit(nc, d); c != nil {
		go c.run()
	}
}

// ServeConn serves one connection that is already there, until it ends. It
// closes nc.
func (s *Server) ServeConn(nc net.Conn) {
	if c := s.admit(nc, s.own); c != nil {
		c.run()
	}
}

// admit registers a connection, or closes it and returns nil. It has no more than a
// place at the door until it has an export.
func (s *Server) admit(nc net.Conn, d *door) *conn {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		_ = nc.Close()
		return nil
	}
	c := newConn(s, nc, d)
	s.conns[c] = struct{}{}
	s.wg.Add(1)
	s.mu.Unlock()
	c.known = d.newcomers.Enter(c.kill)
	if m := s.opts.Metrics; m != nil {
		m.ConnOpened()
	}
	return c
}

func (s *Server) forget(c *conn) {
	c.known()
	c.leave()
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	if m := s.opts.Metrics; m != nil {
		m.ConnClosed()
	}
	s.wg.Done()
}

// Detach takes a device away from the connections that use it: their running
// requests are cancelled, and these and all later ones are answered with
// NBD_ESHUTDOWN. The clients close when they choose. Exports must no longer
// offer the device.
func (s *Server) Detach(dev block.Device) {
	for _, c := range s.snapshot() {
		if d := c.exported(); d != nil && d == dev {
			c.detach()
		}
	}
}

// DetachAll takes their devices away from all connections, as Detach does, and closes those that
// still negotiate. Exports must no longer offer anything.
func (s *Server) DetachAll() {
	for _, c := range s.snapshot() {
		if c.exported() != nil {
			c.detach()
		} else {
			c.kill()
		}
	}
}

// Connections is the number of clients connected now, negotiating ones included.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Shutdown stops accepting, lets each connection finish the requests that it
// has received completely, and closes it. When ctx ends first, it does what
// Close does and returns ctx's error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stopListening()
	for _, c := range s.snapshot() {
		c.drain()
	}
	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.cancel()
	for _, c := range s.snapshot() {
		c.kill()
	}
	<-done
	return err
}

// Close cancels all requests, closes all connections and listeners, and waits
// for the goroutines to end.
func (s *Server) Close() error {
	s.stopListening()
	for _, c := range s.snapshot() {
		c.kill()
	}
	s.cancel()
	s.wg.Wait()
	return nil
}

func (s *Server) stopListening() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	for l := range s.listeners {
		_ = l.Close()
	}
}

func (s *Server) addListener(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.listeners[l] = struct{}{}
	s.wg.Add(1)
	return true
}

func (s *Server) removeListener(l net.Listener) {
	_ = l.Close()
	s.mu.Lock()
	delete(s.listeners, l)
	s.mu.Unlock()
	s.wg.Done()
}

func (s *Server) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

func (s *Server) snapshot() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		out = append(out, c)
	}
	return out
}
