package nbdclient

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/fail"
)

const (
	receiveBufferBytes = 256 << 10
	sendBufferBytes    = 256 << 10
	// inlinePayloadBytes is the largest payload that is copied beside its
	// header; larger ones are sent from where they are.
	inlinePayloadBytes = 16 << 10
	defaultMaxPayload  = 32 << 20
	closeTimeout       = 5 * time.Second
)

// Request is one command. The fields down to Done are the caller's; he leaves
// them and Data's bytes alone until Done is called, and may then use the
// Request again.
type Request struct {
	Op     Op
	Flags  Flags
	Off    int64  // bytes
	Length uint32 // bytes, of Trim, Zero, Cache and BlockStatus
	Data   []byte // what Read fills and Write sends; its length counts

	// Done is called once, by the connection's receiver: it must not block. It
	// may submit more requests.
	Done func(*Request)

	Err     error          // the outcome
	Extents []block.Extent // the answer to BlockStatus

	cookie uint64
	got    int // bytes received of a Read
}

func (r *Request) length() uint32 {
	if r.Op == Read || r.Op == Write {
		return uint32(len(r.Data))
	}
	return r.Length
}

// Conn is a connection to one export.
type Conn struct {
	h   *handshake
	raw net.Conn
	nc  net.Conn

	wake chan struct{} // to the sender, capacity 1
	dead chan struct{} // closed when the receiver has ended
	wg   sync.WaitGroup

	mu      sync.Mutex
	idle    sync.Cond  // sending became false
	pending []*Request // not yet written
	spare   []*Request
	sending bool // somebody is writing
	slots   []*Request
	free    []uint32
	seq     uint32
	err     error // why the connection ended
	over    bool  // nothing is accepted any more

	// Owned by whoever has set sending.
	buf []byte
	vec net.Buffers
}

func start(h *handshake) *Conn {
	c := &Conn{
		h: h, raw: h.raw, nc: h.nc,
		wake: make(chan struct{}, 1),
		dead: make(chan struct{}),
		buf:  make([]byte, 0, sendBufferBytes),
	}
	c.idle.L = &c.mu
	c.wg.Add(2)
	go c.receiver(h.in)
	go c.sender()
	return c
}

// Size is the export's size in bytes.
func (c *Conn) Size() int64 { return c.h.sizeBytes }

// ReadOnly says whether the server takes no writes.
func (c *Conn) ReadOnly() bool { return c.h.flags&(1<<1) != 0 }

// TransmissionFlags are the server's, as the protocol numbers them.
func (c *Conn) TransmissionFlags() uint16 { return c.h.flags }

// MaxPayloadBytes is the most that one Read or Write may carry.
func (c *Conn) MaxPayloadBytes() int {
	if c.h.maxPayload > 0 && c.h.maxPayload < defaultMaxPayload {
		return int(c.h.maxPayload)
	}
	return defaultMaxPayload
}

// Submit queues a request and returns at once; the outcome comes by r.Done. An
// error means that the connection has ended and Done will not be called.
func (c *Conn) Submit(r *Request) error {
	if err := c.enqueue(r); err != nil {
		return err
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return nil
}

func (c *Conn) enqueue(r *Request) error {
	r.Err, r.got, r.Extents = nil, 0, r.Extents[:0]
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over || c.err != nil {
		return c.failure(c.err)
	}
	slot := uint32(len(c.slots))
	if k := len(c.free); k > 0 {
		slot, c.free = c.free[k-1], c.free[:k-1]
		c.slots[slot] = r
	} else {
		c.slots = append(c.slots, r)
	}
	c.seq++
	r.cookie = uint64(c.seq)<<32 | uint64(slot)
	c.pending = append(c.pending, r)
	return nil
}

// sender writes what Submit queues. Synchronous calls write for themselves.
func (c *Conn) sender() {
	defer c.wg.Done()
	for {
		select {
		case <-c.wake:
			c.send()
		case <-c.dead:
			return
		}
	}
}

// send writes all pending requests, unless somebody is at it already.
func (c *Conn) send() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sending {
		return
	}
	c.sending = true
	for len(c.pending) > 0 && c.err == nil {
		batch := c.pending
		c.pending = c.spare[:0]
		c.mu.Unlock()
		err := c.writeBatch(batch)
		clear(batch)
		c.mu.Lock()
		c.spare = batch[:0]
		if err != nil {
			c.failLocked(err)
		}
	}
	c.sending = false
	c.idle.Broadcast()
}

func (c *Conn) writeBatch(batch []*Request) error {
	for _, r := range batch {
		inline := len(r.Data)
		if r.Op != Write || inline > inlinePayloadBytes {
			inline = 0
		}
		if len(c.buf)+requestHeaderBytes+inline > cap(c.buf) {
			if err := c.writeOut(nil); err != nil {
				return err
			}
		}
		b := binary.BigEndian.AppendUint32(c.buf, magicRequest)
		b = binary.BigEndian.AppendUint16(b, uint16(r.Flags))
		b = binary.BigEndian.AppendUint16(b, uint16(r.Op))
		b = binary.BigEndian.AppendUint64(b, r.cookie)
		b = binary.BigEndian.AppendUint64(b, uint64(r.Off))
		b = binary.BigEndian.AppendUint32(b, r.length())
		c.buf = append(b, r.Data[:inline]...)
		if r.Op == Write && inline < len(r.Data) {
			if err := c.writeOut(r.Data); err != nil {
				return err
			}
		}
	}
	return c.writeOut(nil)
}

func (c *Conn) writeOut(data []byte) error {
	if len(c.buf) == 0 {
		return nil
	}
	defer func() { c.buf = c.buf[:0] }()
	if data == nil {
		_, err := c.nc.Write(c.buf)
		return err
	}
	c.vec = append(c.vec[:0], c.buf, data)
	vec := c.vec // WriteTo consumes it
	_, err := vec.WriteTo(c.nc)
	clear(c.vec)
	return err
}

// receiver reads replies until the connection ends, and then fails whatever is
// left: it alone completes requests, so that nobody touches a buffer that its
// owner has back.
func (c *Conn) receiver(in *bufio.Reader) {
	defer c.wg.Done()
	var err error
	for err == nil {
		err = c.receive(in)
	}
	c.mu.Lock()
	c.failLocked(err)
	for c.sending {
		c.idle.Wait()
	}
	c.over = true
	left := c.slots
	c.slots, c.pending = nil, nil
	failure := c.failure(c.err)
	c.mu.Unlock()
	close(c.dead)
	for _, r := range left {
		if r != nil {
			r.Err = failure
			c.complete(r)
		}
	}
}

func (c *Conn) complete(r *Request) {
	if r.Done != nil {
		r.Done(r)
	}
}

// claim takes the request of a cookie; final frees its slot.
func (c *Conn) claim(cookie uint64, final bool) (*Request, error) {
	slot := uint32(cookie)
	c.mu.Lock()
	defer c.mu.Unlock()
	if int64(slot) >= int64(len(c.slots)) || c.slots[slot] == nil || c.slots[slot].cookie != cookie {
		return nil, fmt.Errorf("reply to unknown request %#x", cookie)
	}
	r := c.slots[slot]
	if final {
		c.slots[slot] = nil
		c.free = append(c.free, slot)
	}
	return r, nil
}

func (c *Conn) failLocked(err error) {
	if c.err == nil {
		c.err = err
	}
	_ = c.raw.Close()
}

func (c *Conn) failure(err error) error {
	if err == nil {
		err = net.ErrClosed
	}
	return fail.Wrap(fail.Retry, "use NBD connection to", c.raw.RemoteAddr().String(), err)
}

// Close says goodbye to the server, which completes what is in flight first,
// and waits up to 5 s for that. Calling it again does nothing.
func (c *Conn) Close() error {
	if err := c.enqueue(&Request{Op: disconnect}); err == nil {
		c.mu.Lock()
		c.over = true
		c.mu.Unlock()
		timer := time.AfterFunc(closeTimeout, func() { _ = c.raw.Close() })
		defer timer.Stop()
		c.send()
		<-c.dead
	}
	c.wg.Wait()
	return nil
}

// abort ends the connection because a caller gave up.
func (c *Conn) abort(err error) {
	c.mu.Lock()
	c.failLocked(err)
	c.mu.Unlock()
}
