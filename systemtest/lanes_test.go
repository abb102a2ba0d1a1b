package systemtest

import (
	"bytes"
	"context"
	"math/rand/v2"
	"sync"

	"github.com/pollux-dr/pollux/internal/nbdclient"
)

// lanes write to one volume at the same time, over several connections with
// several requests in flight on each. Each lane has a region of its own, so that
// the volume's content is exact although the order between lanes is not known.
type lanes struct {
	site   *site
	volume string
	conns  []*nbdclient.Conn
	all    []*lane
}

type lane struct {
	rand    *rand.Rand
	base    int64
	image   []byte
	pending *op
	buf     []byte
}

const laneBytes = 2 << 20

func newLanes(s *site, volume string, conns, perConn int, r *rand.Rand) *lanes {
	l := &lanes{site: s, volume: volume, conns: make([]*nbdclient.Conn, conns)}
	for i := range conns * perConn {
		l.all = append(l.all, &lane{rand: rand.New(rand.NewPCG(r.Uint64(), 0)), base: int64(i) * laneBytes,
			image: make([]byte, laneBytes), buf: make([]byte, laneBytes)})
	}
	return l
}

func (l *lanes) connect() {
	l.site.t.Helper()
	for i, c := range l.conns {
		if c != nil {
			_ = c.Close()
		}
		l.conns[i] = l.site.dial(l.volume)
	}
}

// run writes until ctx ends or the connections do.
func (l *lanes) run(ctx context.Context) {
	var wg sync.WaitGroup
	for i, x := range l.all {
		c := l.conns[i%len(l.conns)]
		wg.Go(func() {
			for ctx.Err() == nil && x.do(c) == nil {
				if x.rand.IntN(30) == 0 && c.Flush(context.Background()) != nil {
					return
				}
			}
		})
	}
	wg.Wait()
}

func (x *lane) do(c *nbdclient.Conn) error {
	o := randomOp(x.rand, x.base, laneBytes)
	x.pending = &o
	ctx := context.Background()
	var err error
	switch o.kind {
	case opWrite:
		err = c.WriteAt(ctx, o.fill(x.buf), o.off, o.flags)
	case opZero:
		err = c.Zero(ctx, o.off, int64(o.n), o.flags)
	case opTrim:
		err = c.Trim(ctx, o.off, int64(o.n), o.flags)
	}
	if err == nil {
		x.apply(&o, len(o.parts()))
		x.pending = nil
	}
	return err
}

func (x *lane) apply(o *op, records int) {
	b := o.fill(x.buf)
	for _, p := range o.parts()[:records] {
		copy(x.image[o.off-x.base+int64(p.from):], b[p.from:p.to])
	}
}

// settle reads every lane: it holds what was acknowledged, and of the request
// that was on its way some first records or none. What is found counts from now
// on.
func (l *lanes) settle() {
	l.site.t.Helper()
	img := readAll(l.site.t, l.conns[0])
	for i, x := range l.all {
		got := img[x.base : x.base+laneBytes]
		if o := x.pending; o != nil {
			for k := range len(o.parts()) + 1 {
				if x.apply(o, k); bytes.Equal(got, x.image) {
					break
				}
			}
			x.pending = nil
		}
		if !bytes.Equal(got, x.image) {
			l.site.t.Errorf("volume %s, lane %d at byte %d:", l.volume, i, x.base)
			sameBytes(l.site.t, "lane", got, x.image)
		}
	}
}

func (l *lanes) image() []byte {
	var b []byte
	for _, x := range l.all {
		b = append(b, x.image...)
	}
	return b
}
