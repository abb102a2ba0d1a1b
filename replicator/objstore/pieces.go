package objstore

import (
	"context"
	"sync"
)

const (
	// leastPiece is what a read is asked for at once at least: below it the requests cost
	// more than the bytes.
	leastPiece = 64 << 10
	// firstPiece is half of a read whose size nobody knows.
	firstPiece = 8 << 20
	// mostPiece is where there is no limit any more.
	mostPiece = 64 << 20
	// piecesToGrow is how many pieces have to come whole before they become larger.
	piecesToGrow = 16
)

// pieces is how much of an object is asked for at once. Over a slow link, and through a
// proxy that cuts long answers, what is too large never comes whole, however often it is
// asked for. There is no limit until the first answer that is cut short.
type pieces struct {
	mu    sync.Mutex
	limit int64 // 0 is none
	whole int   // pieces that came whole since limit changed
}

// next is how much to ask for where n bytes are wanted; below 0 is all.
func (p *pieces) next(n int64) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.limit > 0 && (n < 0 || n > p.limit) {
		return p.limit
	}
	return n
}

// cut hears that of n bytes (below 0: nobody knows) only the first got came.
func (p *pieces) cut(n, got int64) {
	if n >= 0 && n <= leastPiece {
		return // which says nothing about sizes
	}
	to := int64(firstPiece)
	if n > 0 {
		to = n / 2
	}
	if got >= leastPiece {
		to = min(to, got-got%leastPiece)
	}
	to = max(to, leastPiece)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.limit == 0 || to < p.limit {
		p.limit, p.whole = to, 0
	}
}

// came hears that the n bytes that were asked for came.
func (p *pieces) came(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.limit == 0 || n < p.limit {
		return
	}
	if p.whole++; p.whole >= piecesToGrow {
		p.limit, p.whole = 2*p.limit, 0
	}
	if p.limit > mostPiece {
		p.limit = 0
	}
}

// reading is a read under way: off and n are of what is left, as Read's.
type reading struct {
	off, n int64
	have   []byte
	done   bool
}

// Read reads in pieces where the whole does not come, and asks only for what has not come yet.
func (r *retrying) Read(ctx context.Context, name string, off, n int64, buf []byte) ([]byte, error) {
	rd := reading{off: off, n: n, have: buf[:0]}
	for !rd.done {
		var w patience
		r.progress(&w)
		if err := r.doFor(ctx, &w, "read object", name, func() error {
			return r.readPiece(ctx, name, &rd)
		}); err != nil {
			return nil, err
		}
	}
	return rd.have, nil
}

// readPiece makes one request. What came of an answer that was cut short is kept, and is
// progress where it is more than next to nothing.
func (r *retrying) readPiece(ctx context.Context, name string, rd *reading) error {
	if err := r.resolveTail(ctx, name, rd); err != nil {
		return err
	}
	ask, fromEnd := rd.n, rd.off < 0
	if !fromEnd {
		ask = r.pieces.next(rd.n)
	}
	var b []byte
	err := r.gate.run(ctx, func() (err error) {
		b, err = r.Store.Read(ctx, name, rd.off, ask, rd.have[len(rd.have):])
		return err
	})
	if fromEnd {
		ask = -rd.off
	}
	got := int64(len(b))
	if err == nil {
		rd.take(b)
		rd.done = fromEnd || ask < 0 || got < ask || rd.n == 0
		r.pieces.came(got)
		return nil
	}
	if !r.p.Retryable(err) || ctx.Err() != nil || got == 0 && !isTimeout(err) {
		return err
	}
	r.pieces.cut(ask, got)
	if fromEnd { // and where in the object b begins is open
		return err
	}
	rd.take(b)
	rd.done = rd.n == 0
	if got < progressBytes {
		return err
	}
	r.p.Notify(err)
	return nil
}

// resolveTail makes a read of the last bytes, where they are too many for one piece, one
// from an offset.
func (r *retrying) resolveTail(ctx context.Context, name string, rd *reading) error {
	if rd.off >= 0 || r.pieces.next(-rd.off) == -rd.off {
		return nil
	}
	var size int64
	err := r.gate.run(ctx, func() (err error) {
		size, err = r.Store.Size(ctx, name)
		return err
	})
	if err != nil {
		return err
	}
	start, end := resolve(rd.off, rd.n, size)
	rd.off, rd.n = start, end-start
	return nil
}

// take adds the next bytes of what is wanted.
func (rd *reading) take(b []byte) {
	if len(rd.have) == 0 {
		rd.have = b
	} else {
		rd.have = append(rd.have, b...)
	}
	if rd.off >= 0 {
		rd.off += int64(len(b))
	}
	if rd.n > 0 {
		rd.n -= int64(len(b))
	}
}
