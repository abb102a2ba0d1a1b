package nbd

import (
	"bytes"
	"encoding/binary"
	"time"

	"github.com/pollux-dr/pollux/internal/block"
)

const (
	// readChunkBytes is how much of a structured read is in memory at a time.
	readChunkBytes = 256 << 10
	// maxWholeReadBytes is the largest read that is answered from memory in one
	// piece, so that an error of the device can still be told.
	maxWholeReadBytes = block.MaxWriteBytes

	// A device whose last quickReadStreak reads took less than quickReadTime
	// each serves from memory, and handing its reads to workers would only cost
	// time; one that waits for a disk or a network gets them in parallel.
	quickReadTime   = 50 * time.Microsecond
	quickReadStreak = 8

	// minHoleBytes is the least that is worth to be sent as a hole.
	minHoleBytes = 4 << 10
)

var zeroBlock [minHoleBytes]byte

// readsInline says whether the reader itself carries out a READ.
func (c *conn) readsInline(r *request) bool {
	if r.length > smallPayloadBytes {
		return false
	}
	return c.quickReads.Load() >= quickReadStreak
}

// read carries out a READ and answers it.
func (c *conn) read(r *request) {
	n := int64(r.length)
	df := r.flags&cmdFlagDF != 0
	switch {
	case c.structured && !df:
		c.readChunks(r)
	case n <= maxWholeReadBytes:
		c.readWhole(r)
	default:
		c.readStream(r)
	}
}

// readWhole answers with one simple reply or one chunk.
func (c *conn) readWhole(r *request) {
	n := int64(r.length)
	if err := c.readBudget.Acquire(c.ctx, n); err != nil {
		c.finish(r, c.errno(r, err))
		return
	}
	defer c.readBudget.Release(n)
	buf := block.NewHeapBuffer(int(n))
	defer buf.Release()
	if err := c.readAt(buf.Bytes(), int64(r.off)); err != nil {
		c.finish(r, c.errno(r, err))
		return
	}
	c.count(r, nbdOK)
	if c.structured {
		c.dataChunk(r, chunkFlagDone, r.off, buf.Bytes())
		return
	}
	c.out.simpleData(r.cookie, buf.Bytes())
}

// readChunks answers with a chunk per readChunkBytes, so that memory is bounded
// and the client gets the first bytes early. Zeros are sent as holes.
func (c *conn) readChunks(r *request) {
	budget := min(int64(r.length), readChunkBytes)
	if err := c.readBudget.Acquire(c.ctx, budget); err != nil {
		c.finish(r, c.errno(r, err))
		return
	}
	defer c.readBudget.Release(budget)
	buf := block.NewHeapBuffer(int(budget))
	defer buf.Release()
	for off, end := r.off, r.off+uint64(r.length); off < end; {
		p := buf.Bytes()[:min(end-off, readChunkBytes)]
		if err := c.readAt(p, int64(off)); err != nil {
			c.failRead(r, c.errno(r, err), off)
			return
		}
		var flags uint16
		if off+uint64(len(p)) == end {
			flags = chunkFlagDone
			c.count(r, nbdOK)
		}
		if isHole(p) {
			c.holeChunk(r, flags, off, len(p))
		} else {
			c.dataChunk(r, flags, off, p)
		}
		off += uint64(len(p))
	}
}

// readStream answers with a simple reply that is too large for memory. It is
// only for clients without structured replies; a device's error after the
// header leaves nothing but to hang up ("Simple reply message").
func (c *conn) readStream(r *request) {
	if err := c.readBudget.Acquire(c.ctx, maxWholeReadBytes); err != nil {
		c.finish(r, c.errno(r, err))
		return
	}
	defer c.readBudget.Release(maxWholeReadBytes)
	buf := block.NewHeapBuffer(maxWholeReadBytes)
	defer buf.Release()
	off, end := int64(r.off), int64(r.off)+int64(r.length)
	if err := c.readAt(buf.Bytes(), off); err != nil {
		c.finish(r, c.errno(r, err))
		return
	}
	c.out.exclusive(func(write func([]byte)) {
		var h [simpleReplyBytes]byte
		putSimple(&h, r.cookie, nbdOK)
		write(h[:])
		p := buf.Bytes()
		for {
			write(p)
			if off += int64(len(p)); off == end {
				c.count(r, nbdOK)
				return
			}
			p = p[:min(int64(len(p)), end-off)]
			if err := c.readAt(p, off); err != nil {
				c.count(r, c.errno(r, err))
				_ = c.raw.Close()
				return
			}
		}
	})
}

// readAt reads from the device and notes whether it was quick.
func (c *conn) readAt(p []byte, off int64) error {
	if len(p) > smallPayloadBytes {
		return c.dev.ReadAt(c.ctx, p, off)
	}
	start := time.Now()
	err := c.dev.ReadAt(c.ctx, p, off)
	if time.Since(start) < quickReadTime {
		if c.quickReads.Load() < quickReadStreak {
			c.quickReads.Add(1)
		}
	} else {
		c.quickReads.Store(0)
	}
	return err
}

// cache carries out NBD_CMD_CACHE by reading: whatever cache lies below then
// holds the range.
func (c *conn) cache(r *request) uint32 {
	if err := c.readBudget.Acquire(c.ctx, readChunkBytes); err != nil {
		return c.errno(r, err)
	}
	defer c.readBudget.Release(readChunkBytes)
	buf := block.NewHeapBuffer(readChunkBytes)
	defer buf.Release()
	for off, end := r.off, r.off+uint64(r.length); off < end; {
		p := buf.Bytes()[:min(end-off, readChunkBytes)]
		if err := c.dev.ReadAt(c.ctx, p, int64(off)); err != nil {
			return c.errno(r, err)
		}
		off += uint64(len(p))
	}
	return nbdOK
}

func (c *conn) dataChunk(r *request, flags uint16, off uint64, p []byte) {
	var head [8]byte
	binary.BigEndian.PutUint64(head[:], off)
	c.out.chunk(r.cookie, flags, chunkOffsetData, head[:], p)
}

func (c *conn) holeChunk(r *request, flags uint16, off uint64, n int) {
	var head [12]byte
	binary.BigEndian.PutUint64(head[:], off)
	binary.BigEndian.PutUint32(head[8:], uint32(n))
	c.out.chunk(r.cookie, flags, chunkOffsetHole, head[:], nil)
}

// failRead ends a structured read at the offset where it failed.
func (c *conn) failRead(r *request, errno uint32, off uint64) {
	c.count(r, errno)
	var head [14]byte // error, length of the message (none), offset
	binary.BigEndian.PutUint32(head[:], errno)
	binary.BigEndian.PutUint64(head[6:], off)
	c.out.chunk(r.cookie, chunkFlagDone, chunkErrorOffset, head[:], nil)
}

// isHole says whether p is worth to be sent as a hole: long and all zeros.
func isHole(p []byte) bool {
	if len(p) < minHoleBytes {
		return false
	}
	for len(p) > 0 {
		n := min(len(p), len(zeroBlock))
		if !bytes.Equal(p[:n], zeroBlock[:n]) {
			return false
		}
		p = p[n:]
	}
	return true
}
