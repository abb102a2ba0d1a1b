package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/pollux-dr/pollux/internal/fail"
)

// readAheadBytes is what a Reader fetches at a time, at least.
const readAheadBytes = 256 << 10

// locateLocked finds the entry and keeps its segment in place until release.
func (l *Log) locateLocked(index uint64) (*segment, error) {
	const op = "read wal"
	if l.closed {
		return nil, fail.Wrap(fail.Refused, op, l.dir, ErrClosed)
	}
	if index < l.front || index > l.last {
		return nil, fail.New(fail.NotFound, op, l.dir,
			fmt.Sprintf("entry %d is outside [%d, %d]", index, l.front, l.last))
	}
	s := l.findLocked(index)
	s.acquire()
	return s, nil
}

// Read returns the entry at index, durable or not, in buf if that is large
// enough, and checks its checksum. Errors: fail.NotFound outside [First, Last];
// fail.Damaged naming file and offset; ErrClosed. It works on a poisoned log.
func (l *Log) Read(index uint64, buf []byte) ([]byte, error) {
	l.mu.Lock()
	s, err := l.locateLocked(index)
	if err != nil {
		l.mu.Unlock()
		return nil, err
	}
	from, to := s.span(index)
	l.mu.Unlock()
	defer s.release()
	n := int(to - from)
	buf = slices.Grow(buf[:0], n)[:n]
	if err := s.readAt(buf, from); err != nil {
		return nil, err
	}
	e, err := decodeEntry(buf, s.salt, index)
	if err != nil {
		return nil, damaged("read wal", s.path, from, err)
	}
	// To the front, so that a buffer used again and again does not shrink.
	return buf[:copy(buf, e)], nil
}

// readAt fills b; a file that is too short is damaged.
func (s *segment) readAt(b []byte, off int64) error {
	n, err := s.file.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("the file is cut off")
	}
	return damaged("read wal", s.path, off+int64(n), err)
}

// Reader reads durable entries in order and waits for more. It belongs to one
// goroutine, holds nothing open, and needs no closing.
type Reader struct {
	l    *Log
	next uint64
	seen uint64 // truncations known
	some bool   // something has been returned

	// window holds bytes [windowOff, windowOff+len(window)) of seg, whose entries
	// were all durable when they were read, so they cannot change.
	seg       *segment
	window    []byte
	windowOff int64
}

// NewReader returns a Reader whose first entry is from, which may lie in the
// future.
func (l *Log) NewReader(from uint64) *Reader {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &Reader{l: l, next: from, seen: l.cuts.seen()}
}

// Next waits until the next entry is durable and returns it; the slice is valid
// until the call after. After an error the same entry is tried again.
//
// Errors: fail.NotFound when the entry has been truncated at the front;
// fail.Refused when entries that were already returned have been truncated at
// the back; fail.Damaged; fail.Retry when ctx ends; ErrPoisoned once everything
// durable has been read; ErrClosed.
func (r *Reader) Next(ctx context.Context) (index uint64, entry []byte, err error) {
	l := r.l
	for {
		l.mu.Lock()
		if l.durable >= r.next || l.closed || r.next < l.front || r.overtakenLocked() {
			break
		}
		l.mu.Unlock()
		if err := l.Wait(ctx, r.next); err != nil {
			return 0, nil, err
		}
	}
	if r.overtakenLocked() {
		l.mu.Unlock()
		return 0, nil, fail.New(fail.Refused, "read wal", l.dir,
			fmt.Sprintf("entries below %d, already read, have been truncated", r.next))
	}
	r.seen = l.cuts.seen()
	s, err := l.locateLocked(r.next)
	if err != nil {
		l.mu.Unlock()
		return 0, nil, err
	}
	from, to := s.span(r.next)
	_, durableEnd := s.span(min(l.durable, s.lastIndex()))
	l.mu.Unlock()
	defer s.release()
	if err := r.fetch(s, from, to, durableEnd); err != nil {
		return 0, nil, err
	}
	e, err := decodeEntry(r.window[from-r.windowOff:to-r.windowOff], s.salt, r.next)
	if err != nil {
		return 0, nil, damaged("read wal", s.path, from, err)
	}
	r.some = true
	r.next++
	return r.next - 1, e, nil
}

// overtakenLocked reports whether something that was returned has since been
// truncated: what comes next would not be its continuation.
func (r *Reader) overtakenLocked() bool { return r.some && r.l.cuts.since(r.seen, r.next-1) }

// fetch makes the window hold [from, to), and more up to limit.
func (r *Reader) fetch(s *segment, from, to, limit int64) error {
	if r.seg == s && from >= r.windowOff && to <= r.windowOff+int64(len(r.window)) {
		return nil
	}
	n := int(max(to, min(limit, from+readAheadBytes)) - from)
	r.seg, r.windowOff = s, from
	r.window = slices.Grow(r.window[:0], n)[:n]
	if err := s.readAt(r.window, from); err != nil {
		r.seg = nil
		return err
	}
	return nil
}
