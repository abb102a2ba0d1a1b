package nbd

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/pollux-dr/pollux/internal/block"
)

const (
	receiveBufferBytes = 256 << 10
	// smallPayloadBytes is the most that is received into the connection's own
	// buffer before any memory of the device is taken. Buffer sizes leave room
	// for several such requests.
	smallPayloadBytes = 64 << 10
	// progressBytes is what a client has to send of a payload within StallLimit: it
	// holds the device's memory meanwhile, so a byte now and then is too little.
	progressBytes = 64 << 10
	// readBudgetBytes bounds what the reads of one connection hold at a time.
	readBudgetBytes = 4 << 20
)

// conn is one client. Its run method is the reader: it alone reads from the
// socket, and it starts the workers.
type conn struct {
	srv   *Server
	door  *door
	known func()                 // leaves the door
	place atomic.Pointer[func()] // gives up the one among the door's sessions
	raw   net.Conn               // the socket; for deadlines and for closing, from anywhere
	log   *slog.Logger

	ctx    context.Context // of the device's calls
	cancel context.CancelFunc

	draining atomic.Bool // finish what was received, then close
	gone     atomic.Bool // the device was detached

	// Set by the negotiation.
	nc         net.Conn // snd, or TLS over it
	snd        *sender  // over raw
	in         *bufio.Reader
	structured bool
	allocation bool // base:allocation was selected
	export     string
	dev        block.Device
	parked     Parked // dev, while nobody serves it; else nil
	info       block.Info
	shared     atomic.Pointer[block.Device] // dev, for other goroutines

	out   *output
	armed bool // a read deadline is set

	jobs       chan *job // to the workers; unbuffered
	workers    int
	wg         sync.WaitGroup
	readBudget *semaphore.Weighted
	quickReads atomic.Int32 // how many reads in a row were quick
	overlapped atomic.Int32 // plain writes that workers carry out
}

func newConn(s *Server, nc net.Conn, d *door) *conn {
	ctx, cancel := context.WithCancel(s.ctx)
	c := &conn{
		srv:        s,
		door:       d,
		raw:        nc,
		log:        s.opts.Logger.With("remote", remoteOf(nc)),
		ctx:        ctx,
		cancel:     cancel,
		in:         bufio.NewReaderSize(nc, receiveBufferBytes),
		jobs:       make(chan *job),
		readBudget: semaphore.NewWeighted(readBudgetBytes),
	}
	c.snd = &sender{Conn: nc, draining: &c.draining, drainFor: s.opts.drainLimit}
	c.nc = c.snd
	return c
}

// run serves the connection until it ends, and frees all that it used.
func (c *conn) run() {
	defer c.srv.forget(c)
	defer c.kill()
	if err := c.negotiate(); err != nil {
		if !errors.Is(err, errDone) && !errors.Is(err, io.EOF) {
			c.log.Info("nbd: negotiation failed", "err", err)
		}
		return
	}
	c.log = c.log.With("export", c.export)
	c.log.Info("nbd: client connected")
	// The reader lifts its own deadline before it waits, and looks then whether a
	// drain has set it.
	_ = c.raw.SetWriteDeadline(time.Time{})
	c.armed = true
	c.snd.limit = c.srv.opts.StallLimit
	c.out = newOutput(c.nc, c.kill)

	err := c.transmit()
	if err != nil && !c.draining.Load() {
		c.cancel() // nobody is left to wait for an answer
	}
	close(c.jobs)
	c.wg.Wait()
	if ferr := c.out.close(); err == nil || errors.Is(err, net.ErrClosed) && ferr != nil {
		err = ferr
	}
	if err == nil {
		_ = c.nc.Close() // with TLS's goodbye
	}
	c.logEnd(err)
}

func (c *conn) logEnd(err error) {
	switch {
	case err == nil, errors.Is(err, io.EOF):
		c.log.Info("nbd: client disconnected")
	case c.draining.Load(), errors.Is(err, net.ErrClosed):
		c.log.Info("nbd: connection closed")
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.log.Warn("nbd: client stalled, connection closed", "limit", c.srv.opts.StallLimit)
	default:
		c.log.Warn("nbd: connection failed", "err", err)
	}
}

// kill ends the connection at once: the socket first, so that no request is answered by what its
// cancelling makes of it.
func (c *conn) kill() {
	_ = c.raw.Close()
	c.cancel()
}

// drain makes the reader stop before the next request. The flag is set before
// the deadline, and the reader looks at the flag after it clears one.
func (c *conn) drain() {
	c.draining.Store(true)
	_ = c.raw.SetReadDeadline(time.Unix(1, 0))
	c.snd.drain()
}

func (c *conn) setExport(name string, dev block.Device, info block.Info) {
	c.export, c.dev, c.info = name, dev, info
	c.parked, _ = dev.(Parked)
	c.shared.Store(&dev)
}

func (c *conn) exported() block.Device {
	if p := c.shared.Load(); p != nil {
		return *p
	}
	return nil
}

func (c *conn) detach() {
	c.gone.Store(true)
	c.cancel()
}

// transmit is the transmission phase. It returns nil after NBD_CMD_DISC or a
// drain.
func (c *conn) transmit() error {
	for {
		if c.in.Buffered() < requestHeaderBytes {
			if err := c.awaitRequest(); err != nil {
				return err
			}
		} else {
			c.out.flushSoon()
		}
		switch {
		case c.out.failed.Load(): // much may be buffered that nobody waits for
			return net.ErrClosed
		case c.draining.Load():
			return nil
		}
		r, err := c.readHeader()
		if err != nil {
			return err
		}
		if r.cmd == cmdDisc {
			return nil
		}
		if c.parked != nil {
			if err := c.unpark(); err != nil {
				return err
			}
		}
		if err := c.handle(r); err != nil {
			return err
		}
	}
}

// awaitRequest sends the replies that are ready and waits for a request's
// header: for its first byte without limit.
func (c *conn) awaitRequest() error {
	c.out.flush()
	if c.armed {
		c.armed = false
		_ = c.raw.SetReadDeadline(time.Time{})
		if c.draining.Load() {
			return nil
		}
	}
	if _, err := c.in.Peek(1); err != nil {
		if c.draining.Load() {
			return nil
		}
		return err
	}
	return c.await(requestHeaderBytes)
}

// await blocks until n bytes, at most receiveBufferBytes, are buffered, or the
// client has stalled for too long.
func (c *conn) await(n int) error {
	if c.in.Buffered() >= n {
		return nil
	}
	c.out.flush()
	c.arm()
	_, err := c.in.Peek(n)
	return unexpected(err)
}

// arm starts the time that the client has for the next progressBytes of the message
// that it has begun, or for what is left of it.
func (c *conn) arm() {
	c.armed = true
	_ = c.raw.SetReadDeadline(time.Now().Add(c.srv.opts.StallLimit))
}

// discard drops n bytes of a payload that nobody wants.
func (c *conn) discard(n int64) error {
	for n > 0 {
		part := min(n, progressBytes)
		if int64(c.in.Buffered()) < part {
			c.out.flush()
			c.arm()
		}
		if _, err := c.in.Discard(int(part)); err != nil {
			return unexpected(err)
		}
		n -= part
	}
	return nil
}

// unexpected marks an end of the stream in the middle of a message.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
