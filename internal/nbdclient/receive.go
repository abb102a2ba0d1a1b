package nbdclient

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/fail"
)

// receive reads one reply or chunk: "Simple reply message" and "Structured
// reply chunk message".
func (c *Conn) receive(in *bufio.Reader) error {
	p, err := in.Peek(simpleReplyBytes)
	if err != nil {
		return err
	}
	switch magic := binary.BigEndian.Uint32(p); magic {
	case magicSimpleReply:
		errno, cookie := binary.BigEndian.Uint32(p[4:]), binary.BigEndian.Uint64(p[8:])
		_, _ = in.Discard(simpleReplyBytes)
		return c.receiveSimple(in, cookie, errno)
	case magicStructuredReply:
		return c.receiveChunk(in)
	default:
		return fmt.Errorf("bad reply magic %#x", magic)
	}
}

func (c *Conn) receiveSimple(in *bufio.Reader, cookie uint64, errno uint32) error {
	// The slot is kept while data comes in: if that fails, the end of the
	// receiver completes the request.
	r, err := c.claim(cookie, false)
	if err != nil {
		return err
	}
	r.setErrno(errno)
	if r.Op == Read && errno == 0 {
		if c.h.structured {
			return errors.New("simple reply to a read despite structured replies")
		}
		if _, err := io.ReadFull(in, r.Data); err != nil {
			return err
		}
		r.got = len(r.Data)
	}
	return c.finish(r)
}

func (c *Conn) receiveChunk(in *bufio.Reader) error {
	p, err := in.Peek(chunkHeaderBytes)
	if err != nil {
		return err
	}
	flags, kind := binary.BigEndian.Uint16(p[4:]), binary.BigEndian.Uint16(p[6:])
	cookie, length := binary.BigEndian.Uint64(p[8:]), binary.BigEndian.Uint32(p[16:])
	_, _ = in.Discard(chunkHeaderBytes)
	r, err := c.claim(cookie, false)
	if err != nil {
		return err
	}
	if kind == chunkOffsetData && r.Op == Read {
		err = r.receiveData(in, length)
	} else {
		err = c.receiveOther(in, r, kind, length)
	}
	if err != nil || flags&chunkFlagDone == 0 {
		return err
	}
	return c.finish(r)
}

func (r *Request) receiveData(in *bufio.Reader, length uint32) error {
	var b [8]byte
	if length < 9 {
		return errors.New("empty data chunk")
	}
	if _, err := io.ReadFull(in, b[:]); err != nil {
		return err
	}
	dst, err := r.part(binary.BigEndian.Uint64(b[:]), length-8)
	if err != nil {
		return err
	}
	_, err = io.ReadFull(in, dst)
	return err
}

func (c *Conn) receiveOther(in *bufio.Reader, r *Request, kind uint16, length uint32) error {
	if length > maxReplyBytes {
		return fmt.Errorf("reply chunk of %d bytes", length)
	}
	p := make([]byte, length)
	if _, err := io.ReadFull(in, p); err != nil {
		return err
	}
	switch {
	case kind == chunkNone:
		return nil
	case kind&chunkIsError != 0 && len(p) >= 6:
		r.setErrno(binary.BigEndian.Uint32(p))
		return nil
	case kind == chunkOffsetHole && r.Op == Read && len(p) == 12:
		dst, err := r.part(binary.BigEndian.Uint64(p), binary.BigEndian.Uint32(p[8:]))
		clear(dst)
		return err
	case kind == chunkBlockStatus && r.Op == BlockStatus && len(p) >= 12 && len(p)%8 == 4:
		if binary.BigEndian.Uint32(p) != c.h.contextID {
			return nil
		}
		for p = p[4:]; len(p) > 0; p = p[8:] {
			state := binary.BigEndian.Uint32(p[4:])
			r.Extents = append(r.Extents, block.Extent{
				Bytes: int64(binary.BigEndian.Uint32(p)), Hole: state&1 != 0, Zero: state&2 != 0,
			})
		}
		return nil
	default:
		return fmt.Errorf("unexpected reply chunk %d of %d bytes to %v", kind, length, r.Op)
	}
}

// part is the piece of a read's buffer that a chunk describes.
func (r *Request) part(off uint64, n uint32) ([]byte, error) {
	from := off - uint64(r.Off)
	if off < uint64(r.Off) || from > uint64(len(r.Data)) || uint64(n) > uint64(len(r.Data))-from {
		return nil, fmt.Errorf("reply chunk [%d,+%d) lies outside of its request", off, n)
	}
	r.got += int(n)
	return r.Data[from : from+uint64(n)], nil
}

func (r *Request) setErrno(errno uint32) {
	if errno != 0 && r.Err == nil {
		r.Err = fail.Wrap(kindOf(errno), r.Op.String(), fmt.Sprintf("%d bytes at %d", r.length(), r.Off),
			syscall.Errno(errno))
	}
}

func (c *Conn) finish(r *Request) error {
	if r.Op == Read && r.Err == nil && r.got != len(r.Data) {
		return fmt.Errorf("reply to a read of %d bytes has %d", len(r.Data), r.got)
	}
	if _, err := c.claim(r.cookie, true); err != nil {
		return err
	}
	c.complete(r)
	return nil
}
