package nbd

import (
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// replyBufferBytes is what replies may gather before they are sent.
	replyBufferBytes = 128 << 10
	// inlineReplyBytes is the largest payload that is copied to the gathered
	// replies; larger ones are sent from where they are.
	inlineReplyBytes = 16 << 10
	// lingerTime bounds how long a finished reply waits while its reader works
	// on further requests, which may block in the device.
	lingerTime = time.Millisecond
)

// output sends replies. Short ones gather until somebody flushes; a payload
// leaves in the same system call as what was gathered before it. When the client does
// not read, senders block, until the write fails; then the connection is closed.
type output struct {
	nc      net.Conn
	onError func()      // ends the connection
	failed  atomic.Bool // nothing can be sent any more

	sendMu sync.Mutex // held while writing to nc; taken before mu
	spare  []byte
	vec    net.Buffers

	mu       sync.Mutex
	buf      []byte
	err      error
	closed   bool
	timer    *time.Timer
	timerSet bool
	timerWG  sync.WaitGroup
}

func newOutput(nc net.Conn, onError func()) *output {
	o := &output{nc: nc, onError: onError}
	o.timer = time.AfterFunc(time.Hour, o.onTimer)
	o.timer.Stop()
	return o
}

// simple adds a simple reply without payload.
func (o *output) simple(cookie uint64, errno uint32) {
	var h [simpleReplyBytes]byte
	putSimple(&h, cookie, errno)
	o.add(h[:], nil)
}

// simpleData adds a simple reply with a payload. The payload is free for reuse
// when it returns.
func (o *output) simpleData(cookie uint64, data []byte) {
	var h [simpleReplyBytes]byte
	putSimple(&h, cookie, nbdOK)
	o.add(h[:], data)
}

// chunk adds a structured reply chunk whose payload is head, of at most 16
// bytes, and then data.
func (o *output) chunk(cookie uint64, flags, kind uint16, head, data []byte) {
	var h [chunkHeaderBytes + 16]byte
	b := h[:chunkHeaderBytes]
	binary.BigEndian.PutUint32(b, magicStructuredReply)
	binary.BigEndian.PutUint16(b[4:], flags)
	binary.BigEndian.PutUint16(b[6:], kind)
	binary.BigEndian.PutUint64(b[8:], cookie)
	binary.BigEndian.PutUint32(b[16:], uint32(len(head)+len(data)))
	o.add(append(b, head...), data)
}

func putSimple(h *[simpleReplyBytes]byte, cookie uint64, errno uint32) {
	binary.BigEndian.PutUint32(h[:], magicSimpleReply)
	binary.BigEndian.PutUint32(h[4:], errno)
	binary.BigEndian.PutUint64(h[8:], cookie)
}

func (o *output) add(head, data []byte) {
	if len(data) > inlineReplyBytes {
		o.sendMu.Lock()
		o.send(head, data)
		o.sendMu.Unlock()
		return
	}
	o.mu.Lock()
	o.buf = append(append(o.buf, head...), data...)
	full := len(o.buf) >= replyBufferBytes
	o.mu.Unlock()
	if full {
		o.flush()
	}
}

// exclusive runs fn, which writes a reply piece by piece, while nobody else
// sends anything. What others gather meanwhile comes after it.
func (o *output) exclusive(fn func(write func([]byte))) {
	o.sendMu.Lock()
	defer o.sendMu.Unlock()
	o.send(nil, nil)
	fn(func(piece []byte) {
		if !o.failed.Load() {
			o.sent(o.write(nil, piece))
		}
	})
}

// flush sends what has gathered.
func (o *output) flush() {
	o.mu.Lock()
	empty := len(o.buf) == 0
	o.mu.Unlock()
	if empty {
		return
	}
	o.sendMu.Lock()
	o.send(nil, nil)
	o.sendMu.Unlock()
}

// flushSoon makes sure that what has gathered is sent within lingerTime even if
// nobody flushes.
func (o *output) flushSoon() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.buf) == 0 || o.timerSet || o.closed {
		return
	}
	o.timerSet = true
	o.timerWG.Add(1)
	o.timer.Reset(lingerTime)
}

func (o *output) onTimer() {
	defer o.timerWG.Done()
	o.mu.Lock()
	o.timerSet = false
	o.mu.Unlock()
	o.flush()
}

// send writes what has gathered, and then head and its data. The head is added
// and the buffer taken in one step: another reply in between would end up in
// front of the data. The caller holds sendMu.
func (o *output) send(head, data []byte) {
	o.mu.Lock()
	buf, err := append(o.buf, head...), o.err
	o.buf = o.spare[:0]
	o.mu.Unlock()
	if err == nil && len(buf)+len(data) > 0 {
		o.sent(o.write(buf, data))
	}
	o.spare = buf[:0]
}

// sent notes the outcome of a write.
func (o *output) sent(err error) {
	if err == nil {
		return
	}
	o.mu.Lock()
	o.err = err
	o.mu.Unlock()
	o.failed.Store(true)
	o.onError()
}

func (o *output) write(buf, data []byte) error {
	switch {
	case len(data) == 0:
		_, err := o.nc.Write(buf)
		return err
	case len(buf) == 0:
		_, err := o.nc.Write(data)
		return err
	}
	o.vec = append(o.vec[:0], buf, data)
	vec := o.vec // what follows consumes it
	var err error
	if s, ok := o.nc.(*sender); ok {
		err = s.writev(&vec)
	} else {
		_, err = vec.WriteTo(o.nc)
	}
	clear(o.vec)
	return err
}

// close sends what is left and waits for the timer. It returns the first error
// of sending.
func (o *output) close() error {
	o.mu.Lock()
	o.closed = true
	if o.timerSet && o.timer.Stop() {
		o.timerSet = false
		o.timerWG.Done()
	}
	o.mu.Unlock()
	o.timerWG.Wait()
	o.flush()
	return o.err
}
