package twin

import (
	"context"
	"fmt"
	"sync"

	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
)

// Progress is told how far a long call has come. It may be nil.
type Progress func(done, total int64)

// Reading says how a log is read; nil is the zero value.
type Reading struct {
	// Progress is told of objects: of the log as it is opened, and whenever older parts of
	// it are read for a point, of all that were asked for by then. What is being read is
	// over when done is total. It may be called by several at once.
	Progress Progress
	Cache    *Cache // of what was read before, on local disk; nil is none
}

// reader is what a log and its views share.
type reader struct {
	Reading
	slots chan struct{} // requests for footers, of all views together

	mu          sync.Mutex
	left        map[int]int64 // objects still to be read, by the mark of the part that has them
	done, total int64
}

func newReader(r *Reading) *reader {
	x := &reader{slots: make(chan struct{}, readers), left: map[int]int64{}}
	if r != nil {
		x.Reading = *r
	}
	return x
}

// expect says that a part of n objects is going to be read. Said again, it changes nothing.
func (r *reader) expect(mark int, n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.left[mark]; !known {
		r.left[mark] = int64(n)
		r.total += int64(n)
	}
}

// read says that one object of a part was read.
func (r *reader) read(mark int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left[mark] > 0 {
		r.left[mark]--
		r.done++
		r.tell()
	}
}

// over says that a part was read, or could not be.
func (r *reader) over(mark int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.left[mark]
	delete(r.left, mark)
	if r.done += n; n > 0 {
		r.tell()
	}
}

func (r *reader) tell() {
	if r.Progress != nil {
		r.Progress(r.done, r.total)
	}
}

// footer is what was read of an object's end.
type footer struct {
	of   located
	x    *segment.Index
	body []byte // of the entries that were wanted, where they came with it
	lo   int64  // where body begins in the object
	err  error  // why x is nil

	again bool // what is at hand came damaged: bodies are asked of the store once more
}

// footers reads the ends of objects, of which the bodies of some entries will be
// wanted; one that cannot be read, for whatever reason, is one object.
func (l *Log) footers(ctx context.Context, objects []located, want func(*segment.Entry) bool) ([]footer, error) {
	all := make([]footer, len(objects))
	l.reading.expect(l.readPoint, uint64(len(objects)))
	defer l.reading.over(l.readPoint)
	err := parallel(ctx, len(objects), func(ctx context.Context, i int) error {
		all[i] = l.footer(ctx, objects[i], want)
		l.reading.read(l.readPoint)
		return ctx.Err()
	})
	return all, err
}

// footer reads the end of an object. A body that came with it is kept, a copy of it
// alone: an end has 64 KiB, and there may be many.
func (l *Log) footer(ctx context.Context, of located, want func(*segment.Entry) bool) footer {
	f := footer{of: of}
	if b, ok := l.reading.Cache.get(l.Identity.Journal, of, endPart); ok {
		if f.x, f.err = objlog.ParseTail(l.store, of.position, b, of.bytes); f.err == nil {
			f.takeBody(b, want)
			return f
		}
	}
	select {
	case l.reading.slots <- struct{}{}:
		defer func() { <-l.reading.slots }()
	case <-ctx.Done():
		f.err = ctx.Err()
		return f
	}
	var tail []byte
	if f.x, tail, f.err = objlog.ReadTail(ctx, l.store, of.position, of.bytes); f.err != nil {
		return f
	}
	n, _ := segment.TailBytes(tail, f.x.Bytes) // it was parsed
	if f.takeBody(tail, want) {
		n = max(n, f.x.Bytes-f.lo)
	}
	l.reading.Cache.put(l.Identity.Journal, of, endPart, tail[int64(len(tail))-n:])
	return f
}

// takeBody takes the body from an object's end, where all of it is there.
func (f *footer) takeBody(tail []byte, want func(*segment.Entry) bool) bool {
	if want == nil {
		return false
	}
	lo, hi := bytesOf(f.x, want)
	before := f.x.Bytes - int64(len(tail))
	if hi == 0 || lo < before {
		return false
	}
	f.lo, f.body = lo, append([]byte{}, tail[lo-before:hi-before]...)
	return true
}

// bodies returns the bytes of an object from the first of the wanted entries to the last;
// nil where there is none. By now there may be fewer of them than when the footer was read.
func (l *Log) bodies(ctx context.Context, f footer, want func(*segment.Entry) bool) ([]byte, error) {
	lo, hi := bytesOf(f.x, want)
	if hi == 0 {
		return nil, nil
	}
	if f.body != nil && f.again {
		_, tail, err := objlog.ReadTail(ctx, l.store, f.x.Position, f.of.bytes)
		if err != nil {
			return nil, err
		}
		if lo := f.x.Bytes - int64(len(tail)); f.lo >= lo && f.lo+int64(len(f.body)) <= f.x.Bytes {
			f.body = tail[f.lo-lo:][:len(f.body)]
		}
	}
	if f.body != nil {
		return f.body[lo-f.lo : hi-f.lo], nil
	}
	part := fmt.Sprintf("%d-%d", lo, hi)
	if b, ok := l.reading.Cache.get(l.Identity.Journal, f.of, part); ok && !f.again && int64(len(b)) == hi-lo {
		return b, nil
	}
	b, err := l.store.Read(ctx, objlog.ObjectName(f.x.Position), lo, hi-lo, nil)
	if err == nil && int64(len(b)) < hi-lo {
		err = l.damaged(f.x.Position, "object cut short at byte %d", lo+int64(len(b)))
	}
	if err == nil {
		l.reading.Cache.put(l.Identity.Journal, f.of, part, b)
	}
	return b, err
}

// everyEntry wants the bodies of all entries.
func everyEntry(*segment.Entry) bool { return true }
