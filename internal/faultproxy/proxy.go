package faultproxy

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Faults is what a Proxy does. The zero value forwards everything.
type Faults struct {
	// Refuse resets each connection when it is made. Open ones are cut.
	Refuse bool
	// Stall accepts and forwards nothing, in neither direction, until it is unset.
	Stall bool
	// Delay holds each request back, or without HTTP each piece of data.
	Delay time.Duration
	// CutAfter resets a connection once so many bytes, of both directions
	// together, were forwarded on it; 0 is never.
	CutAfter int64
	// BytesPerSecond is what all connections together forward, in both
	// directions; 0 is unlimited.
	BytesPerSecond int64

	// The rest is for HTTP only.

	// DropReply is the fraction of requests, 0 to 1, that reach the server and
	// are answered, but whose answer is lost: the connection is reset.
	DropReply float64
	// Status answers the fraction StatusPart of the requests, with a body as S3
	// sends it; the server never sees them.
	Status     int
	StatusPart float64
}

// Proxy forwards a port of loopback to a server.
type Proxy struct {
	upstream string
	http     bool
	listener net.Listener
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup

	mu      sync.Mutex
	rand    *rand.Rand
	faults  Faults
	changed chan struct{} // closed by Set
	free    time.Time     // when the link has sent what it was given
	conns   map[*conn]struct{}
	seen    int64
	closed  bool
}

// NewHTTP starts a proxy to the HTTP server at upstream (host:port). The same
// seed and order of requests make the same faults.
func NewHTTP(upstream string, seed uint64) (*Proxy, error) { return start(upstream, seed, true) }

// NewTCP starts a proxy to any server at upstream (host:port).
func NewTCP(upstream string) (*Proxy, error) { return start(upstream, 0, false) }

func start(upstream string, seed uint64, http bool) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{
		upstream: upstream, http: http, listener: l, rand: rand.New(rand.NewPCG(seed, 0)),
		changed: make(chan struct{}), conns: map[*conn]struct{}{},
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.running.Go(p.accept)
	return p, nil
}

// Addr is the proxy's address, as host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Set replaces the faults.
func (p *Proxy) Set(f Faults) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = f
	close(p.changed)
	p.changed = make(chan struct{})
	if f.Refuse {
		for c := range p.conns {
			c.reset()
		}
	}
}

// Seen is how many connections were asked for so far, and over HTTP how many requests made: where
// it stays the same, nobody wanted anything of the server.
func (p *Proxy) Seen() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}

// Close stops listening, resets all connections and waits until all is gone.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		c.reset()
	}
	p.mu.Unlock()
	p.cancel()
	err := p.listener.Close()
	p.running.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		p.running.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	c := &conn{p: p, client: client}
	if !p.register(c) {
		c.reset()
		return
	}
	defer p.unregister(c)
	defer c.reset()
	if p.wait(0) != nil {
		return
	}
	var d net.Dialer
	server, err := d.DialContext(p.ctx, "tcp", p.upstream)
	if err != nil {
		return
	}
	if !c.connected(server) {
		return
	}
	if p.http {
		c.serveHTTP()
		return
	}
	var both sync.WaitGroup
	both.Go(func() { c.copy(c.server, c.client) })
	both.Go(func() { c.copy(c.client, c.server) })
	both.Wait()
}

// register says whether the connection may live.
func (p *Proxy) register(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen++
	if p.closed || p.faults.Refuse {
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) unregister(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// fate draws what becomes of a request.
func (p *Proxy) fate() (f Faults, drop, status bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen++
	drop = p.rand.Float64() < p.faults.DropReply
	status = p.rand.Float64() < p.faults.StatusPart
	return p.faults, drop, status
}

// wait sleeps for d and then for as long as the proxy stalls.
func (p *Proxy) wait(d time.Duration) error {
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-p.ctx.Done():
			return p.ctx.Err()
		}
	}
	for {
		p.mu.Lock()
		stall, changed := p.faults.Stall, p.changed
		p.mu.Unlock()
		if !stall {
			return p.ctx.Err()
		}
		select {
		case <-changed:
		case <-p.ctx.Done():
			return p.ctx.Err()
		}
	}
}

// send waits until the link has room for n bytes, and takes it.
func (p *Proxy) send(n int) error {
	p.mu.Lock()
	rate, now := p.faults.BytesPerSecond, time.Now()
	if rate == 0 {
		p.mu.Unlock()
		return nil
	}
	if p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(time.Duration(int64(n) * int64(time.Second) / rate))
	until := p.free
	p.mu.Unlock()
	return p.wait(time.Until(until))
}

// copy forwards bytes one way and ends the other way's with it.
func (c *conn) copy(dst io.Writer, src io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			f, _, _ := c.p.fate()
			if c.p.wait(f.Delay) != nil {
				break
			}
			if _, werr := c.count(dst).Write(buf[:n]); werr != nil {
				break
			}
		}
		if err != nil {
			if half, ok := dst.(*net.TCPConn); ok && err == io.EOF {
				_ = half.CloseWrite() // the other way may have more to say
				return
			}
			break
		}
	}
	c.reset()
}
