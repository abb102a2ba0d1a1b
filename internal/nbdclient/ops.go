package nbdclient

import (
	"context"
	"sync"

	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/fail"
)

// maxRangeBytes is what one Trim, Zero or BlockStatus asks for.
const maxRangeBytes = 1 << 30

// ReadAt fills p from off. Payloads beyond the server's limit are split.
//
// As for all calls with a context: NBD cannot take a request back, so when ctx
// ends first, the whole connection is closed.
func (c *Conn) ReadAt(ctx context.Context, p []byte, off int64) error {
	for first := true; first || len(p) > 0; first = false {
		n := min(len(p), c.MaxPayloadBytes())
		if err := c.do(ctx, Request{Op: Read, Off: off, Data: p[:n]}); err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// WriteAt writes p at off; flags may hold FUA.
func (c *Conn) WriteAt(ctx context.Context, p []byte, off int64, flags Flags) error {
	for first := true; first || len(p) > 0; first = false {
		n := min(len(p), c.MaxPayloadBytes())
		if err := c.do(ctx, Request{Op: Write, Flags: flags, Off: off, Data: p[:n]}); err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// Flush makes all completed writes durable.
func (c *Conn) Flush(ctx context.Context) error { return c.do(ctx, Request{Op: Flush}) }

// Trim discards [off, off+n).
func (c *Conn) Trim(ctx context.Context, off, n int64, flags Flags) error {
	return c.ranged(ctx, Trim, off, n, flags)
}

// Zero makes [off, off+n) read as zeros; flags may hold FUA, NoHole, FastZero.
func (c *Conn) Zero(ctx context.Context, off, n int64, flags Flags) error {
	return c.ranged(ctx, Zero, off, n, flags)
}

// Cache asks the server to have [off, off+n) at hand.
func (c *Conn) Cache(ctx context.Context, off, n int64) error {
	return c.ranged(ctx, Cache, off, n, 0)
}

// BlockStatus describes [off, off+n) from off on, perhaps less than all of it.
// Unsupported: the server does not offer base:allocation.
func (c *Conn) BlockStatus(ctx context.Context, off, n int64, flags Flags) ([]block.Extent, error) {
	if !c.h.allocation {
		return nil, fail.New(fail.Unsupported, "block status", "", "server does not offer base:allocation")
	}
	call := newCall(Request{Op: BlockStatus, Flags: flags, Off: off, Length: uint32(min(n, maxRangeBytes))})
	if err := c.wait(ctx, call); err != nil {
		return nil, err
	}
	extents := call.r.Extents
	call.r.Extents = nil
	calls.Put(call)
	return extents, nil
}

func (c *Conn) ranged(ctx context.Context, op Op, off, n int64, flags Flags) error {
	for first := true; first || n > 0; first = false {
		part := min(n, maxRangeBytes)
		if err := c.do(ctx, Request{Op: op, Flags: flags, Off: off, Length: uint32(part)}); err != nil {
			return err
		}
		off, n = off+part, n-part
	}
	return nil
}

// call is a synchronous request.
type call struct {
	r    Request
	done chan struct{} // capacity 1
	hook func(*Request)
}

var calls = sync.Pool{New: func() any {
	k := &call{done: make(chan struct{}, 1)}
	k.hook = func(*Request) { k.done <- struct{}{} }
	return k
}}

func newCall(r Request) *call {
	k := calls.Get().(*call)
	k.r = r
	k.r.Done = k.hook
	return k
}

func (c *Conn) do(ctx context.Context, r Request) error {
	k := newCall(r)
	err := c.wait(ctx, k)
	k.r = Request{}
	calls.Put(k)
	return err
}

func (c *Conn) wait(ctx context.Context, k *call) error {
	if err := ctx.Err(); err != nil {
		return fail.Wrap(fail.Retry, k.r.Op.String(), "", err)
	}
	if err := c.enqueue(&k.r); err != nil {
		return err
	}
	if ctx.Done() == nil {
		c.send()
		<-k.done
		return k.r.Err
	}
	stop := context.AfterFunc(ctx, func() { c.abort(ctx.Err()) })
	c.send()
	<-k.done
	stop()
	return k.r.Err
}
