package wal

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// waiter is a goroutine in Sync while another one syncs.
type waiter struct {
	index uint64
	ch    chan struct{} // holds one wake-up
}

var waiterPool = sync.Pool{New: func() any { return &waiter{ch: make(chan struct{}, 1)} }}

// Sync returns once everything through index is durable. At most one fdatasync
// is in flight: the first caller runs it, in its own goroutine, and those that
// come meanwhile share the next.
//
// Errors: fail.Invalid when index is beyond Last; fail.NotFound when the entry
// was truncated meanwhile; fail.Retry when ctx ends (the entry may become
// durable all the same); ErrPoisoned, ErrClosed, ErrReadOnly.
func (l *Log) Sync(ctx context.Context, index uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if index > l.last && l.usableLocked("sync wal") == nil {
		return fail.New(fail.Invalid, "sync wal", l.dir, fmt.Sprintf("entry %d is beyond the last, %d", index, l.last))
	}
	return l.syncLocked(ctx, index)
}

// syncLocked is called, and returns, with mu held, which it gives up meanwhile.
func (l *Log) syncLocked(ctx context.Context, index uint64) (err error) {
	defer func() {
		if err != nil {
			l.passOnLocked() // it may have been this caller's turn to sync
		}
	}()
	const op = "sync wal"
	seen := l.cuts.seen()
	for {
		if err := l.usableLocked(op); err != nil {
			return err
		}
		if l.cuts.since(seen, index) {
			return fail.New(fail.NotFound, op, l.dir, fmt.Sprintf("entry %d was truncated meanwhile", index))
		}
		if l.durable >= index {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return fail.Wrap(fail.Retry, op, l.dir, err)
		}
		if l.syncing {
			l.awaitLeaderLocked(ctx, index)
		} else {
			l.leadLocked()
		}
	}
}

// leadLocked runs one fdatasync for everybody who waits.
func (l *Log) leadLocked() {
	s, target, seen := l.active(), l.last, l.cuts.seen()
	l.syncing = true
	s.acquire() // Reset may drop it meanwhile
	l.mu.Unlock()
	start := time.Now()
	err := s.file.SyncData()
	s.release()
	l.mu.Lock()
	l.syncing = false
	l.observeSyncLocked(start)
	switch {
	case err != nil:
		_ = l.poisonLocked("sync wal", s.path, err)
	case l.poison == nil && seen == l.cuts.seen() && target > l.durable:
		l.durable = target
	}
	l.notifyLocked()
	keep := l.waiters[:0]
	for _, w := range l.waiters {
		if w.index <= l.durable || l.poison != nil {
			w.ch <- struct{}{}
		} else {
			keep = append(keep, w)
		}
	}
	clear(l.waiters[len(keep):])
	l.waiters = keep
	l.passOnLocked()
}

// passOnLocked wakes one waiter, which will find that nobody syncs.
func (l *Log) passOnLocked() {
	if l.syncing || len(l.waiters) == 0 {
		return
	}
	l.waiters[0].ch <- struct{}{}
	n := copy(l.waiters, l.waiters[1:])
	l.waiters[n] = nil
	l.waiters = l.waiters[:n]
}

// awaitLeaderLocked gives up mu until a sync that began before has ended, or ctx has.
func (l *Log) awaitLeaderLocked(ctx context.Context, index uint64) {
	w := waiterPool.Get().(*waiter)
	w.index = index
	l.waiters = append(l.waiters, w)
	l.mu.Unlock()
	select {
	case <-w.ch:
		l.mu.Lock()
	case <-ctx.Done():
		l.mu.Lock()
		if !l.forgetLocked(w) {
			<-w.ch           // woken as well, perhaps to lead:
			l.passOnLocked() // somebody else must
		}
	}
	waiterPool.Put(w)
}

// forgetLocked takes w off the list; false when it has been woken already.
func (l *Log) forgetLocked(w *waiter) bool {
	for i, x := range l.waiters {
		if x == w {
			n := copy(l.waiters[i:], l.waiters[i+1:])
			l.waiters[i+n] = nil
			l.waiters = l.waiters[:i+n]
			return true
		}
	}
	return false
}

// wakeAllLocked makes everybody who waits look again.
func (l *Log) wakeAllLocked() {
	for i, w := range l.waiters {
		w.ch <- struct{}{}
		l.waiters[i] = nil
	}
	l.waiters = l.waiters[:0]
	l.notifyLocked()
}

func (l *Log) notifyLocked() {
	if l.advanced != nil {
		close(l.advanced)
		l.advanced = nil
	}
}

// advancedLocked returns a channel that is closed at the next change.
func (l *Log) advancedLocked() chan struct{} {
	if l.advanced == nil {
		l.advanced = make(chan struct{})
	}
	return l.advanced
}

// Wait returns once Durable() >= index. The index may lie beyond Last. Errors:
// fail.Retry when ctx ends first; ErrPoisoned when it can no longer happen;
// ErrClosed.
func (l *Log) Wait(ctx context.Context, index uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		switch {
		case l.closed:
			return fail.Wrap(fail.Refused, "wait for wal", l.dir, ErrClosed)
		case l.durable >= index:
			return nil
		case l.poison != nil:
			return l.poison
		}
		ch := l.advancedLocked()
		l.mu.Unlock()
		select {
		case <-ch:
			l.mu.Lock()
		case <-ctx.Done():
			l.mu.Lock()
			return fail.Wrap(fail.Retry, "wait for wal", l.dir, ctx.Err())
		}
	}
}

// maxCuts bounds the memory of a cutList.
const maxCuts = 256

// cutList remembers the latest truncations at the back, for those who waited or
// read while they happened.
type cutList struct {
	count uint64
	kept  [maxCuts]uint64 // ring: last index that cut number i left
}

func (c *cutList) seen() uint64 { return c.count }

func (c *cutList) add(last uint64) {
	c.kept[c.count%maxCuts] = last
	c.count++
}

// since reports whether a cut after seen removed the entry at index. Beyond what
// is remembered the answer is yes.
func (c *cutList) since(seen, index uint64) bool {
	if c.count-seen > maxCuts {
		return true
	}
	for i := seen; i < c.count; i++ {
		if c.kept[i%maxCuts] < index {
			return true
		}
	}
	return false
}
