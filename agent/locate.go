package agent

import (
	"fmt"
	"slices"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// attach takes a lease, provided that the journal's history is a prefix of the
// WAL's. It returns the WAL index to send from.
func (s *stream) attach(at *change.Attached) (uint64, error) {
	if err := at.Error.Err("attach", "group "+s.conf.Group); err != nil {
		s.setFault(err)
		return 0, err
	}
	from, err := s.locate(at.Committed)
	s.setFault(err)
	if err != nil {
		return 0, err
	}
	defer s.shipped.Broadcast()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ship.lease, s.ship.attached = at.Lease, true
	s.ship.committed, s.ship.sent, s.ship.consistent = at.Committed, at.Committed.LSN, !at.Unsound
	s.ship.gap, s.ship.moved = at.Gap, time.Now()
	s.ship.released = max(s.ship.released, at.Released)
	s.ship.durable, s.ship.voters = max(s.ship.durable, at.Durable), at.Voters
	s.evictedLag.drop(s.ship.durable)
	s.overflow.settle(s.ship.durable)
	s.broadcast()
	return from, nil
}

func (s *stream) setFault(err error) {
	s.mu.Lock()
	s.ship.fault = err
	s.mu.Unlock()
}

// locate finds the frame that ends at p in the WAL and returns the index after
// it.
func (s *stream) locate(p change.Point) (uint64, error) {
	s.mu.Lock()
	refs := slices.Clone(s.refs)
	applied := s.ckpt.Applied
	last := max(s.appendedLSN, s.durableLSN)
	s.mu.Unlock()
	i, found := slices.BinarySearchFunc(refs, p.LSN, func(r frameRef, lsn uint64) int {
		switch {
		case r.last < lsn:
			return -1
		case r.last > lsn:
			return 1
		}
		return 0
	})
	switch {
	case found:
		h, hash, err := s.a.readHeader(refs[i].wal)
		if err == nil && (h.Stream != s.conf.ID || hash != p.Hash) {
			err = s.diverged(p, change.Point{LSN: h.LastLSN, Hash: hash})
		}
		return refs[i].wal + 1, err
	case p.LSN > last:
		return 0, s.diverged(p, change.Point{LSN: last})
	case len(refs) > 0 && i == 0: // before all that is kept: the first one says what was
		h, _, err := s.a.readHeader(refs[0].wal)
		if base := (change.Point{LSN: h.FirstLSN - 1, Hash: h.Prev}); err == nil && base != p {
			err = s.diverged(p, base)
		}
		return refs[0].wal, err
	case len(refs) == 0 && p == applied:
		return s.a.wal.Durable() + 1, nil
	case len(refs) == 0 && p.LSN == 0 && last == 0:
		return s.a.wal.Durable() + 1, nil
	}
	return 0, s.diverged(p, applied)
}

func (s *stream) diverged(theirs, ours change.Point) error {
	return fail.New(fail.Fenced, "attach", "group "+s.conf.Group,
		fmt.Sprintf("the journal's history ends at %v, this host's at %v: they are not the same", theirs, ours)).
		WithHint("this host's log was lost or replaced; restore the volume from the object store into a new group")
}

func (a *Agent) readHeader(index uint64) (change.Header, change.Hash, error) {
	b, err := a.wal.Read(index, nil)
	if err != nil {
		return change.Header{}, change.Hash{}, err
	}
	return change.ParseHeader(b)
}

// readFrame reads the whole frame at a WAL index into f, which refers to the bytes
// that it returns: buf, where that is large enough.
func (a *Agent) readFrame(index uint64, f *change.Frame, buf []byte) ([]byte, error) {
	b, err := a.wal.Read(index, buf)
	if err == nil {
		err = f.Reset(b)
	}
	return b, err
}
