package nbd

import (
	"context"
	"io"
	"net"
	"time"

	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/fail"
)

// Parked is a device that Exports open before anybody serves it. Of its methods as a Device only
// Info is called. A client that has it negotiates like any other. Its first request waits, for as
// long as it takes, and what follows that stays in the socket: a client that waits costs no more
// than its connection's buffer, whatever it sends. From then on the connection is one to the device
// that serves. Where that turns out to be none, or another one than the client was told of, the
// connection ends, and nothing that waited is answered: a client that reconnects sends it again.
type Parked interface {
	block.Device
	// Served is closed when Serving can be asked.
	Served() <-chan struct{}
	// Serving is the device that serves. It is asked for each connection.
	Serving(ctx context.Context) (block.Device, error)
}

// peerCheck is how often it is looked whether a client that waits is still there: its connection is
// not read meanwhile.
const peerCheck = time.Second

// unpark waits until the connection's device is served, and makes that its device.
func (c *conn) unpark() error {
	c.out.flush()
	look := time.NewTicker(peerCheck)
	defer look.Stop()
	for {
		select {
		case <-c.parked.Served():
			return c.exchange()
		case <-c.ctx.Done():
			return net.ErrClosed
		case <-look.C:
			switch {
			case c.draining.Load(): // what waits would wait for ever
				return net.ErrClosed
			case peerGone(c.raw):
				return io.EOF
			}
		}
	}
}

// exchange takes the device that serves. It asks twice: Detach finds the connection from the first
// time on, and what was taken away before that is not offered the second time.
func (c *conn) exchange() error {
	dev, err := c.parked.Serving(c.ctx)
	if err != nil {
		return err
	}
	c.shared.Store(&dev)
	again, err := c.parked.Serving(c.ctx)
	switch {
	case err != nil:
		return err
	case again != dev:
		return fail.New(fail.Retry, "open", c.export, "its device was exchanged meanwhile")
	}
	c.dev, c.parked = dev, nil
	return nil
}

// Users is how many clients have a device, as it was opened.
func (s *Server) Users(dev block.Device) (n int) {
	for _, c := range s.snapshot() {
		if c.exported() == dev {
			n++
		}
	}
	return n
}

// HangUp closes the connections that have a device, as it was opened, and answers nothing that they
// wait for. It returns how many there were. Exports must no longer offer the device.
func (s *Server) HangUp(dev block.Device) (n int) {
	for _, c := range s.snapshot() {
		if c.exported() == dev {
			c.kill()
			n++
		}
	}
	return n
}
