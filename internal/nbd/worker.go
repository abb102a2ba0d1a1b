package nbd

import (
	"sync"

	"github.com/pollux-dr/pollux/internal/block"
)

// job is a request for a worker. buf is the payload of a WRITE, or the last
// part of it, for offset at; a WRITE without it has been written already and
// only lacks the flush.
type job struct {
	request
	buf block.Buffer
	at  int64
}

var jobPool = sync.Pool{New: func() any { return new(job) }}

// dispatch hands a request to a worker. With MaxInFlight at work it waits, so
// that no more requests are read.
func (c *conn) dispatch(r request, buf block.Buffer, at int64) {
	j := jobPool.Get().(*job)
	j.request, j.buf, j.at = r, buf, at
	select {
	case c.jobs <- j:
		return
	default:
	}
	if c.workers < c.srv.opts.MaxInFlight {
		c.workers++
		c.wg.Add(1)
		go c.work(j)
		return
	}
	c.out.flush()
	c.jobs <- j
}

// work carries out j and then what dispatch sends, until the connection ends.
func (c *conn) work(j *job) {
	defer c.wg.Done()
	for ok := true; ok; j, ok = <-c.jobs {
		c.do(j)
		*j = job{}
		jobPool.Put(j)
		c.out.flush()
	}
}

func (c *conn) do(j *job) {
	r := &j.request
	switch r.cmd {
	case cmdRead:
		c.read(r)
	case cmdWrite:
		c.finish(r, c.errno(r, c.writeJob(j)))
	case cmdFlush:
		c.finish(r, c.errno(r, c.dev.Flush(c.ctx)))
	case cmdTrim, cmdWriteZeroes:
		c.finish(r, c.clear(r))
	case cmdCache:
		c.finish(r, c.cache(r))
	case cmdBlockStatus:
		c.blockStatus(r)
	default: // check lets nothing else through
		c.finish(r, nbdEINVAL)
	}
}

func (c *conn) writeJob(j *job) error {
	switch {
	case j.buf == nil:
		return c.dev.Flush(c.ctx)
	case j.fua():
		return c.dev.Write(c.ctx, j.buf, j.at, true)
	default:
		defer c.overlapped.Add(-1)
		return c.dev.Write(c.ctx, j.buf, j.at, false)
	}
}
