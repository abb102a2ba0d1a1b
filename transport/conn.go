package transport

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

const (
	magic = "PLXT"
	// Version is the protocol version of this build.
	Version = 1
	// HeadBytes precede every message.
	HeadBytes = 24
	// MaxMessageBytes bounds one message's payload.
	MaxMessageBytes = 16 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Conn sends and receives messages on one connection. One goroutine may receive
// while any number send. Every message is preceded by
//
//	0 4 magic "PLXT"   4 2 version   6 2 type   8 4 payload bytes
//	12 4 CRC-32C of the payload   16 4 reserved   20 4 CRC-32C of bytes 0..19
type Conn struct {
	raw     net.Conn
	timeout time.Duration
	idle    time.Duration // see SetIdleLimit
	r       *bufio.Reader
	buf     []byte
	mu      sync.Mutex // serialises senders
	head    [HeadBytes]byte
	said    atomic.Bool // something was sent
	heard   bool        // something was received
	bufs    net.Buffers
}

// NewConn takes over raw. A send that makes no progress for timeout fails; a
// receive may wait for ever, as streams can be idle for long.
func NewConn(raw net.Conn, timeout time.Duration) *Conn {
	return &Conn{raw: raw, timeout: timeout, r: bufio.NewReaderSize(raw, 256<<10)}
}

// Close ends the connection and unblocks everyone; errors of closing do not
// matter to anybody.
func (c *Conn) Close() { _ = c.raw.Close() }

// SetIdleLimit makes a Recv fail when nothing comes for d: the other side is known
// to say something more often. Nobody receives meanwhile.
// 0 is for ever.
func (c *Conn) SetIdleLimit(d time.Duration) {
	c.idle = d
	if d == 0 {
		_ = c.raw.SetReadDeadline(time.Time{}) // a connection that is gone says so at the next read
	}
}

// Raw gives the connection up to another protocol. What the other side sends
// after its last message must wait for an answer: nothing may be buffered here.
func (c *Conn) Raw() (net.Conn, error) {
	if n := c.r.Buffered(); n > 0 {
		return nil, fail.New(fail.Damaged, "receive from", c.Peer(),
			fmt.Sprintf("%d bytes too many before the protocol changes", n))
	}
	err := errors.Join(c.raw.SetWriteDeadline(time.Time{}), c.raw.SetReadDeadline(time.Time{}))
	return c.raw, err
}

// Peer names the other side for logs and errors.
func (c *Conn) Peer() string { return c.raw.RemoteAddr().String() }

// Send writes one message whose payload is the parts one after another. Errors
// are fail.Retry: reconnect and ask what arrived.
func (c *Conn) Send(typ uint16, parts ...[]byte) error {
	n, sum := 0, uint32(0)
	for _, p := range parts {
		n += len(p)
		sum = crc32.Update(sum, castagnoli, p)
	}
	if n > MaxMessageBytes {
		return fail.New(fail.Internal, "send to", c.Peer(),
			fmt.Sprintf("message of %d bytes exceeds %d", n, MaxMessageBytes))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	le := binary.LittleEndian
	h := c.head[:]
	clear(h)
	copy(h, magic)
	le.PutUint16(h[4:], Version)
	le.PutUint16(h[6:], typ)
	le.PutUint32(h[8:], uint32(n))
	le.PutUint32(h[12:], sum)
	le.PutUint32(h[20:], crc32.Checksum(h[:20], castagnoli))
	c.bufs = append(append(c.bufs[:0], h), parts...)
	bufs := c.bufs // WriteTo consumes its receiver
	if err := c.raw.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return c.broken("send to", err)
	}
	if _, err := bufs.WriteTo(c.raw); err != nil {
		c.Close() // half a message may be out: nothing may follow it
		return c.broken("send to", err)
	}
	c.said.Store(true)
	return nil
}

// Recv returns the next message. The payload is valid until the next Recv.
// Errors: fail.Retry when the connection ended, fail.Damaged for bytes that
// fail their checksum, fail.Unsupported for another version.
func (c *Conn) Recv() (typ uint16, payload []byte, err error) {
	var h [HeadBytes]byte
	if c.idle > 0 {
		if err := c.raw.SetReadDeadline(time.Now().Add(c.idle)); err != nil {
			return 0, nil, c.broken("receive from", err)
		}
	}
	if _, err := io.ReadFull(c.r, h[:]); err != nil {
		return 0, nil, c.broken("receive from", err)
	}
	le := binary.LittleEndian
	if string(h[:4]) != magic {
		if h[0] == tlsHandshake && h[1] == tlsMajor {
			return 0, nil, fail.New(fail.Refused, "receive from", c.Peer(),
				"the peer speaks TLS, and this end does not").WithHint(hintTLS)
		}
		return 0, nil, fail.New(fail.Damaged, "receive from", c.Peer(),
			fmt.Sprintf("at byte 0 of a message: magic %q", h[:4]))
	}
	if v := le.Uint16(h[4:]); v != Version {
		return 0, nil, fail.New(fail.Unsupported, "receive from", c.Peer(),
			fmt.Sprintf("protocol version %d; this build speaks %d", v, Version))
	}
	if crc32.Checksum(h[:20], castagnoli) != le.Uint32(h[20:]) {
		return 0, nil, fail.New(fail.Damaged, "receive from", c.Peer(),
			"at byte 20 of a message: its head fails its checksum")
	}
	n := int(le.Uint32(h[8:]))
	if n > MaxMessageBytes {
		return 0, nil, fail.New(fail.Damaged, "receive from", c.Peer(),
			fmt.Sprintf("at byte 8 of a message: its %d bytes exceed %d", n, MaxMessageBytes))
	}
	if cap(c.buf) < n {
		c.buf = make([]byte, n)
	}
	payload = c.buf[:n]
	if _, err := io.ReadFull(c.r, payload); err != nil {
		return 0, nil, c.broken("receive from", err)
	}
	if crc32.Checksum(payload, castagnoli) != le.Uint32(h[12:]) {
		return 0, nil, fail.New(fail.Damaged, "receive from", c.Peer(),
			fmt.Sprintf("at byte %d of a message: its %d bytes fail their checksum", HeadBytes, n))
	}
	c.heard = true
	return le.Uint16(h[6:]), payload, nil
}

// A TLS connection begins with a record of type 22, of version 3.x.
const (
	tlsHandshake = 22
	tlsMajor     = 3
)

const hintTLS = "set tls on both sides, or on neither"

// ErrClosed says that the other end closed the connection.
var ErrClosed = errors.New("connection closed")

func (c *Conn) broken(op string, err error) error {
	if strange := (tls.RecordHeaderError{}); errors.As(err, &strange) {
		e := fail.Error{Kind: fail.Retry, Op: op, Object: c.Peer(),
			Err: fmt.Errorf("the peer does not speak TLS, and this end does: %w", err)}
		return e.WithHint(hintTLS)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = ErrClosed
		if _, sealed := c.raw.(*tls.Conn); c.said.Load() && !c.heard && !sealed &&
			c.raw.RemoteAddr().Network() == "tcp" {
			e := fail.Error{Kind: fail.Retry, Op: op, Object: c.Peer(), Err: err}
			return e.WithHint("it said nothing before: where it listens with tls, this end needs tls too")
		}
	}
	return fail.Wrap(fail.Retry, op, c.Peer(), err)
}
