package nbd

import (
	"io"

	"github.com/pollux-dr/pollux/internal/block"
)

// inlineClearBytes is the largest TRIM or WRITE_ZEROES that the reader carries
// out itself: a device may have to write the zeros.
const inlineClearBytes = 1 << 20

// maxOverlapped is how many large plain writes of one connection are with
// workers at a time, holding the device's memory. Taking in so much data keeps
// a device busy for longer than it takes to wake a worker; with payloads up to
// 64 KiB nothing was gained.
const maxOverlapped = 4

// write carries out a WRITE. It returns an error only when the connection is
// unusable.
func (c *conn) write(r request) error {
	if r.length > smallPayloadBytes {
		return c.writeLarge(r)
	}
	n := int(r.length)
	if err := c.await(n); err != nil {
		return err
	}
	buf, err := c.dev.Prepare(c.ctx, n)
	if err != nil {
		c.finish(&r, c.errno(&r, err))
		_, err = c.in.Discard(n)
		return err
	}
	payload, _ := c.in.Peek(n)
	for _, piece := range buf.Pieces() {
		payload = payload[copy(piece, payload):]
	}
	_, _ = c.in.Discard(n)
	if r.fua() {
		c.dispatch(r, buf, int64(r.off))
		return nil
	}
	c.finish(&r, c.errno(&r, c.dev.Write(c.ctx, buf, int64(r.off), false)))
	return nil
}

// overlaps says whether a large plain write goes to a worker, so that the next
// payload is received meanwhile, and counts it if so.
func (c *conn) overlaps() bool {
	if c.overlapped.Load() >= maxOverlapped {
		return false
	}
	c.overlapped.Add(1)
	return true
}

// writeLarge carries out a WRITE part by part, each received straight into the
// device's memory. After a part that failed, the rest is only drained.
func (c *conn) writeLarge(r request) error {
	var failed uint32
	for done := int64(0); done < int64(r.length); {
		part := min(int64(r.length)-done, block.MaxWriteBytes)
		if failed != nbdOK {
			if err := c.discard(part); err != nil {
				return err
			}
			done += part
			continue
		}
		buf, err := c.receive(int(part))
		if err != nil {
			return err
		}
		if buf.err != nil {
			failed = c.errno(&r, buf.err)
			continue // part is still to be drained
		}
		at := int64(r.off) + done
		done += part
		last := done == int64(r.length)
		if last && (r.fua() && done == part || !r.fua() && c.overlaps()) {
			c.dispatch(r, buf.Buffer, at)
			return nil
		}
		failed = c.errno(&r, c.dev.Write(c.ctx, buf.Buffer, at, false))
	}
	if failed == nbdOK && r.fua() {
		c.dispatch(r, nil, 0) // FUA of the last part alone would not cover the others
		return nil
	}
	c.finish(&r, failed)
	return nil
}

// received is a part of a payload in the device's memory, or the device's
// reason not to take it, in which case nothing was read.
type received struct {
	block.Buffer
	err error
}

// receive reads n bytes of payload into a new buffer of the device. Meanwhile it
// holds n bytes of the receive budget: so much of the devices' memory may wait
// for clients. Its error is the connection's.
func (c *conn) receive(n int) (received, error) {
	c.out.flush() // all that follows may block
	if err := c.door.receive.Acquire(c.ctx, int64(n)); err != nil {
		return received{err: err}, nil
	}
	defer c.door.receive.Release(int64(n))
	buf, err := c.dev.Prepare(c.ctx, n)
	if err != nil {
		return received{err: err}, nil
	}
	for _, piece := range buf.Pieces() {
		for len(piece) > 0 {
			k := min(len(piece), progressBytes)
			if c.in.Buffered() < k {
				c.arm()
			}
			if err := c.readFull(piece[:k]); err != nil {
				buf.Release()
				return received{}, unexpected(err)
			}
			piece = piece[k:]
		}
	}
	return received{Buffer: buf}, nil
}

// readFull fills p with what is buffered, and then straight from the socket.
func (c *conn) readFull(p []byte) error {
	k := min(len(p), c.in.Buffered())
	if _, err := io.ReadFull(c.in, p[:k]); err != nil {
		return err
	}
	_, err := io.ReadFull(c.nc, p[k:])
	return err
}

// clear carries out a TRIM or WRITE_ZEROES.
func (c *conn) clear(r *request) uint32 {
	off, n := int64(r.off), int64(r.length)
	if r.cmd == cmdTrim {
		return c.errno(r, c.dev.Trim(c.ctx, off, n, r.fua()))
	}
	noHole := r.flags&cmdFlagNoHole != 0
	if r.flags&cmdFlagFastZero != 0 {
		if d, ok := c.dev.(FastZeroer); ok && !d.FastZero(noHole) {
			return nbdENOTSUP
		}
	}
	return c.errno(r, c.dev.Zero(c.ctx, off, n, noHole, r.fua()))
}

// FastZeroer is what a device implements whose Zero is not always faster than
// writing zeros: then a client that insists on speed gets NBD_ENOTSUP.
type FastZeroer interface {
	FastZero(noHole bool) bool
}
