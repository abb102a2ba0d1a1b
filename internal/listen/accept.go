package listen

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"
)

// A failed Accept is tried again after minWait, later after as much as maxWait.
const (
	minWait = 5 * time.Millisecond
	maxWait = time.Second
)

// patient is a listener that only Close ends.
type patient struct {
	net.Listener
	log    *slog.Logger
	once   sync.Once
	closed chan struct{}
}

// Patient returns l without its passing errors: Accept waits until there are file
// descriptors or memory again, says so in log, and fails only when l is closed.
func Patient(l net.Listener, log *slog.Logger) net.Listener {
	return &patient{Listener: l, log: Sparse(log), closed: make(chan struct{})}
}

func (p *patient) Close() error {
	p.once.Do(func() { close(p.closed) })
	return p.Listener.Close()
}

func (p *patient) Accept() (net.Conn, error) {
	for wait := minWait; ; wait = min(2*wait, maxWait) {
		c, err := p.Listener.Accept()
		if err == nil || errors.Is(err, net.ErrClosed) {
			return c, err
		}
		p.log.Warn("no connection can be taken just now", "listener", p.Addr().String(), "err", err, "retry_in", wait)
		select {
		case <-time.After(wait):
		case <-p.closed:
			return nil, net.ErrClosed
		}
	}
}

// Cut closes a connection at once: TLS's goodbye would wait for the other side.
func Cut(c net.Conn) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	_ = c.Close()
}
