package wal

import (
	"context"
	"fmt"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Append writes entries, in order, and returns the index of the last one. They
// are not durable until Sync; a crash keeps a prefix of them. The slices may be
// reused once it returns.
//
// Errors: fail.Full with ErrFull when the budget is used up (nothing was
// written); fail.Full when the disk is (only where entries need more than one
// segment may a leading part have been written: last tells); fail.Invalid when
// an entry is larger than MaxEntry; ErrPoisoned, ErrClosed, ErrReadOnly.
func (l *Log) Append(entries ...[]byte) (last uint64, err error) {
	return l.append(0, parts{bodies: entries})
}

// AppendReserved is Append for what must get through when the budget is used
// up: it may use Options.ReserveBytes as well. Entry i is heads[i] followed by
// bodies[i], so that a caller with a small head of its own need not copy.
func (l *Log) AppendReserved(heads, bodies [][]byte) (last uint64, err error) {
	return l.append(l.opt.ReserveBytes, parts{heads, bodies})
}

// parts are entries, each a head and a body; without heads, bodies alone.
type parts struct{ heads, bodies [][]byte }

func (p parts) count() int { return len(p.bodies) }

func (p parts) head(i int) []byte {
	if p.heads == nil {
		return nil
	}
	return p.heads[i]
}

func (p parts) len(i int) int { return len(p.head(i)) + len(p.bodies[i]) }

// cut returns the first n entries, and the rest.
func (p parts) cut(n int) (first, rest parts) {
	first.bodies, rest.bodies = p.bodies[:n], p.bodies[n:]
	if p.heads != nil {
		first.heads, rest.heads = p.heads[:n], p.heads[n:]
	}
	return first, rest
}

func (l *Log) append(reserveBytes int64, entries parts) (uint64, error) {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	need, err := l.measure(entries)
	if err != nil {
		return 0, err
	}
	l.mu.Lock()
	last := l.last
	if err = l.usableLocked("append to wal"); err == nil {
		err = l.budgetLocked(need, reserveBytes)
	}
	l.mu.Unlock()
	if err != nil {
		return last, err
	}
	for entries.count() > 0 {
		n, payload := l.cutBatch(entries)
		batch, rest := entries.cut(n)
		if err := l.appendBatch(batch, payload); err != nil {
			return last, err
		}
		last += uint64(n)
		entries = rest
	}
	l.mu.Lock()
	l.stats.Appends++
	l.mu.Unlock()
	return last, nil
}

// cutBatch returns how many of entries go into the next batch, and their size.
func (l *Log) cutBatch(entries parts) (n int, payloadBytes int64) {
	for n < entries.count() && n < maxBatchEntries {
		size := entryHeaderBytes + int64(entries.len(n))
		if n > 0 && payloadBytes+size > l.maxPayload {
			break
		}
		payloadBytes += size
		n++
	}
	return n, payloadBytes
}

// measure returns the file bytes that entries will take.
func (l *Log) measure(entries parts) (int64, error) {
	for i := range entries.bodies {
		if n := entries.len(i); n > l.MaxEntry() {
			return 0, fail.New(fail.Invalid, "append to wal", l.dir,
				fmt.Sprintf("entry %d of %d has %d bytes; the limit is %d", i+1, entries.count(), n, l.MaxEntry()))
		}
	}
	total := int64(0)
	for entries.count() > 0 {
		n, payload := l.cutBatch(entries)
		total += batchBytes(payload)
		_, entries = entries.cut(n)
	}
	return total, nil
}

func (l *Log) budgetLocked(needBytes, reserveBytes int64) error {
	if l.opt.BudgetBytes == 0 {
		return nil
	}
	if live := l.liveLocked(); live+needBytes > l.opt.BudgetBytes+reserveBytes {
		e := fail.Error{
			Kind: fail.Full, Op: "append to wal", Object: l.dir,
			Err: fmt.Errorf("%w: %d bytes live, %d more asked, limit %d", ErrFull, live, needBytes, l.opt.BudgetBytes+
				reserveBytes),
		}
		return e.WithHint("entries leave the log as they are passed on; see what holds them up, or raise the budget")
	}
	return nil
}

// appendBatch writes one batch with one pwrite, in a new segment if it does not
// fit into the present one.
func (l *Log) appendBatch(entries parts, payloadBytes int64) error {
	if l.writeOff+batchBytes(payloadBytes) > l.active().sizeBytes-blockBytes { // segments change under wmu only
		if err := l.rollover(); err != nil {
			return err
		}
	}
	l.mu.Lock()
	s, h := l.active(), l.batchHeaderLocked(0)
	l.mu.Unlock()
	buf, crc := encodeBatch(l.scratch, h, entries)
	if cap(buf) <= keepScratchBytes {
		l.scratch = buf
	}
	if _, err := s.file.WriteAt(buf, l.writeOff); err != nil {
		return l.poisonNow("append to wal", s.path, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	at := uint32(l.writeOff) + batchHeaderBytes
	for i := range entries.bodies {
		s.offsets = append(s.offsets, at)
		at += entryHeaderBytes + uint32(entries.len(i))
	}
	l.writeOff += int64(len(buf))
	l.used += l.writeOff - s.endBytes
	s.endBytes = l.writeOff
	l.last += uint64(entries.count())
	l.chain, l.sealed = crc, false
	l.stats.Batches++
	l.stats.AppendedEntries += uint64(entries.count())
	l.stats.AppendedBytes += uint64(payloadBytes) - entryHeaderBytes*uint64(entries.count())
	return nil
}

// batchHeaderLocked returns the header of the batch that goes at writeOff.
func (l *Log) batchHeaderLocked(flags uint32) batchHeader {
	return batchHeader{
		flags:       flags,
		salt:        l.active().salt,
		offsetBytes: uint32(l.writeOff),
		chain:       l.chain,
		first:       l.last + 1,
		synced:      l.durable,
		front:       l.front,
	}
}

// rollover syncs the present segment and opens the next: every segment but the
// newest is durable as a whole, which recovery relies upon. A full disk changes
// nothing; any other failure poisons the log.
func (l *Log) rollover() error {
	l.mu.Lock()
	err := l.syncLocked(context.Background(), l.last)
	l.mu.Unlock()
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.stats.Rollovers++
	now := time.Now()
	l.fillTime, l.lastRollover = now.Sub(l.lastRollover), now
	next := l.last + 1
	l.mu.Unlock()
	return l.replaceActive("append to wal", next, true, nil)
}

// replaceActive opens a new segment whose first entry is next. As soon as it is
// durable, older entries from next on are dead, and without keep all others
// too. publish then adjusts, under mu, what else changes with it.
func (l *Log) replaceActive(op string, next uint64, keep bool, publish func()) error {
	l.mu.Lock()
	h := segmentHeader{base: next, front: next}
	if keep && next > l.front {
		p := l.findLocked(next - 1)
		h.front, h.prevSequence, h.prevSalt = l.front, p.sequence, p.salt
	}
	l.mu.Unlock()
	s, chain, err := l.createSegment(h, nil)
	if fail.Is(err, fail.Full) {
		return err
	}
	if err != nil {
		return l.poisonNow(op, l.dir, err)
	}
	l.mu.Lock()
	l.segments = append(l.segments, s)
	if publish != nil {
		publish()
	}
	l.dropDeadLocked()
	l.mu.Unlock()
	l.writeOff, l.chain, l.sealed = segmentHeaderBytes, chain, false
	l.maintenance()
	return nil
}
