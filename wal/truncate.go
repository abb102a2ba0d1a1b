package wal

import (
	"fmt"

	"github.com/pollux-dr/pollux/internal/fail"
)

// maxIndex keeps index arithmetic from overflowing.
const maxIndex = 1 << 62

// TruncateFront drops the entries below first, at once for every caller; the
// files of whole segments are recycled later. After a restart First may be lower
// again, by less than a segment, but never higher. first may be Last()+1, which
// empties the log; beyond that it is fail.Invalid. At or below First it does
// nothing.
func (l *Log) TruncateFront(first uint64) error {
	const op = "truncate front of wal"
	l.wmu.Lock()
	defer l.wmu.Unlock()
	l.mu.Lock()
	err := l.usableLocked(op)
	if err == nil && first > l.last+1 {
		err = fail.New(fail.Invalid, op, l.dir, fmt.Sprintf("%d is beyond the next entry, %d", first, l.last+1))
	}
	if err != nil || first <= l.front {
		l.mu.Unlock()
		return err
	}
	l.front = first
	dropped := len(l.segments) > 1 && l.segments[0].lastIndex() < first
	if dropped {
		l.dropDeadLocked()
	}
	l.mu.Unlock()
	if dropped {
		l.maintenance()
	}
	return nil
}

// TruncateBack drops the entries above last, which is from First()-1 to Last();
// when it returns, that is durable. Whoever waits in Sync for a dropped entry
// gets fail.NotFound.
func (l *Log) TruncateBack(last uint64) error {
	const op = "truncate back of wal"
	l.wmu.Lock()
	defer l.wmu.Unlock()
	l.mu.Lock()
	err := l.usableLocked(op)
	if err == nil && (last+1 < l.front || last > l.last) {
		err = fail.New(fail.Invalid, op, l.dir, fmt.Sprintf("%d is outside [%d, %d]", last, l.front-1, l.last))
	}
	if err != nil || last == l.last {
		l.mu.Unlock()
		return err
	}
	// What stays must not become the unsynced tail of a segment that is not the
	// newest: recovery would call it damage.
	err = l.syncLocked(backgroundContext, l.last)
	l.mu.Unlock()
	if err != nil {
		return err
	}
	return l.replaceActive(op, last+1, true, func() { l.cutLocked(last) })
}

// Reset drops every entry; the next one appended gets index next, at least 1.
// When it returns, that is durable.
func (l *Log) Reset(next uint64) error {
	const op = "reset wal"
	if next == 0 || next > maxIndex {
		return fail.New(fail.Invalid, op, l.dir, fmt.Sprintf("indexes go from 1 to %d, not %d", uint64(maxIndex), next))
	}
	l.wmu.Lock()
	defer l.wmu.Unlock()
	l.mu.Lock()
	err := l.usableLocked(op)
	l.mu.Unlock()
	if err != nil {
		return err
	}
	return l.replaceActive(op, next, false, func() {
		l.front = next
		l.cutLocked(next - 1)
		l.cuts.add(0) // nobody's entry is left, whatever its index
	})
}

// cutLocked makes last the last entry. The newest segment is new and empty.
func (l *Log) cutLocked(last uint64) {
	for _, s := range l.segments {
		switch {
		case s.base > last:
			s.offsets = s.offsets[:0]
		case s.lastIndex() > last:
			keep := last + 1 - s.base
			s.endBytes = int64(s.offsets[keep])
			s.offsets = s.offsets[:keep]
		}
	}
	l.last, l.durable = last, last
	l.cuts.add(last)
	l.wakeAllLocked()
}

// dropDeadLocked moves segments without live entries to the freed ones, all but
// the newest, and counts the used bytes anew.
func (l *Log) dropDeadLocked() {
	live := l.segments[:0:0]
	l.used = 0
	for i, s := range l.segments {
		if i < len(l.segments)-1 && (len(s.offsets) == 0 || s.lastIndex() < l.front) {
			l.freeLocked(s)
			continue
		}
		live = append(live, s)
		l.used += s.endBytes - segmentHeaderBytes
	}
	l.segments = live
}
