package agent

import (
	"fmt"
	"slices"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// locate finds the frame that ends at p in the WAL and returns the index after
// it.
func (s *stream) locate(p change.Point) (uint64, error) {
	s.mu.Lock()
	refs := slices.Clone(s.wal.refs)
	applied := s.ckpt.saved.Applied
	last := max(s.wal.appendedLSN, s.wal.durableLSN)
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
