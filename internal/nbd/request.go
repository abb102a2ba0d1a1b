package nbd

import (
	"encoding/binary"
	"fmt"
	"time"
)

// request is a request message without its payload.
type request struct {
	flags  uint16
	cmd    uint16
	cookie uint64
	off    uint64
	length uint32
	start  time.Time // only for metrics
}

func (r *request) fua() bool { return r.flags&cmdFlagFUA != 0 }

// commandRules says, per command, which flags it takes besides FUA, which every
// command takes ("Command flags"), and whether it changes or names a range.
var commandRules = [...]struct {
	name   string
	flags  uint16
	writes bool
	ranged bool
}{
	cmdRead:        {name: "read", flags: cmdFlagDF, ranged: true},
	cmdWrite:       {name: "write", writes: true, ranged: true},
	cmdDisc:        {name: "disc"},
	cmdFlush:       {name: "flush"},
	cmdTrim:        {name: "trim", writes: true, ranged: true},
	cmdCache:       {name: "cache", ranged: true},
	cmdWriteZeroes: {name: "write_zeroes", flags: cmdFlagNoHole | cmdFlagFastZero, writes: true, ranged: true},
	cmdBlockStatus: {name: "block_status", flags: cmdFlagReqOne, ranged: true},
}

// readHeader takes the next request's header out of the receive buffer, where
// it is complete.
func (c *conn) readHeader() (request, error) {
	p, err := c.in.Peek(requestHeaderBytes)
	if err != nil {
		return request{}, unexpected(err)
	}
	if magic := binary.BigEndian.Uint32(p); magic != magicRequest {
		// The stream has lost its rhythm: nothing after this can be trusted.
		return request{}, fmt.Errorf("bad request magic %#x", magic)
	}
	r := request{
		flags:  binary.BigEndian.Uint16(p[4:]),
		cmd:    binary.BigEndian.Uint16(p[6:]),
		cookie: binary.BigEndian.Uint64(p[8:]),
		off:    binary.BigEndian.Uint64(p[16:]),
		length: binary.BigEndian.Uint32(p[24:]),
	}
	_, _ = c.in.Discard(requestHeaderBytes)
	if c.srv.opts.Metrics != nil {
		r.start = time.Now()
	}
	return r, nil
}

// handle carries out a request or hands it to a worker. It returns an error only
// when the connection is unusable.
func (c *conn) handle(r request) error {
	errno := c.check(&r)
	if r.cmd == cmdWrite {
		if errno != nbdOK {
			err := c.discard(int64(r.length))
			c.finish(&r, errno)
			return err
		}
		return c.write(r)
	}
	if errno != nbdOK {
		c.finish(&r, errno)
		return nil
	}
	switch r.cmd {
	case cmdRead:
		if c.readsInline(&r) {
			c.read(&r)
			return nil
		}
	case cmdTrim, cmdWriteZeroes:
		if !r.fua() && r.length <= inlineClearBytes {
			c.finish(&r, c.clear(&r))
			return nil
		}
	}
	c.dispatch(r, nil, 0)
	return nil
}

// check says what is wrong with a request as such.
func (c *conn) check(r *request) uint32 {
	if int(r.cmd) >= len(commandRules) {
		return nbdEINVAL
	}
	rule := &commandRules[r.cmd]
	switch {
	case c.gone.Load():
		return nbdESHUTDOWN
	case r.flags&^(rule.flags|cmdFlagFUA) != 0:
		return nbdEINVAL
	case r.flags&cmdFlagDF != 0 && !c.structured:
		return nbdEINVAL
	case r.cmd == cmdBlockStatus && !c.allocation:
		return nbdEINVAL
	case rule.writes && c.info.ReadOnly:
		return nbdEPERM
	case rule.ranged:
		return c.checkRange(r, rule.writes)
	}
	return nbdOK
}

func (c *conn) checkRange(r *request, writes bool) uint32 {
	size, mask := uint64(c.info.SizeBytes), uint64(c.info.MinBlockBytes-1)
	switch {
	case r.length == 0:
		return nbdEINVAL
	case r.off > size || uint64(r.length) > size-r.off:
		if writes && r.cmd != cmdTrim {
			return nbdENOSPC
		}
		return nbdEINVAL
	case (r.off|uint64(r.length))&mask != 0:
		return nbdEINVAL
	case r.cmd == cmdRead && r.flags&cmdFlagDF != 0 && r.length > maxWholeReadBytes:
		return nbdEOVERFLOW
	case (r.cmd == cmdRead || r.cmd == cmdWrite) && uint64(r.length) > uint64(c.srv.opts.MaxPayloadBytes):
		return nbdEINVAL
	}
	return nbdOK
}

// finish answers a request that has no payload to answer with.
func (c *conn) finish(r *request, errno uint32) {
	c.count(r, errno)
	if errno != nbdOK && c.structured && (r.cmd == cmdRead || r.cmd == cmdBlockStatus) {
		c.failChunk(r, errno)
		return
	}
	c.out.simple(r.cookie, errno)
}

// failChunk ends a structured reply with an error.
func (c *conn) failChunk(r *request, errno uint32) {
	var head [6]byte
	binary.BigEndian.PutUint32(head[:], errno)
	c.out.chunk(r.cookie, chunkFlagDone, chunkError, head[:], nil)
}

func (c *conn) count(r *request, errno uint32) {
	m := c.srv.opts.Metrics
	if m == nil {
		return
	}
	name := "unknown"
	if int(r.cmd) < len(commandRules) {
		name = commandRules[r.cmd].name
	}
	m.Request(name, r.length, time.Since(r.start), errno == nbdOK)
}

// errno logs what the protocol's few error values cannot say.
func (c *conn) errno(r *request, err error) uint32 {
	if err == nil {
		return nbdOK
	}
	errno := errnoOf(err)
	if c.gone.Load() {
		errno = nbdESHUTDOWN
	}
	if errno == nbdEIO {
		c.log.Error("nbd: request failed", "command", commandRules[r.cmd].name, "off", r.off, "bytes", r.length,
			"err", err)
	}
	return errno
}
