package agent

import (
	"context"
	"time"
)

// InitialSync is how far the initial syncs of a group are that run now.
type InitialSync struct {
	Bytes       int64 // that their backings hold, of zeros only what is allocated
	CopiedBytes int64 // of them, read and put into the log where they are not zeros
	Since       time.Time
	running     int
}

// Percent is how much of it is done.
func (i *InitialSync) Percent() int {
	if i.Bytes == 0 {
		return 100
	}
	return int(float64(i.CopiedBytes) / float64(i.Bytes) * 100)
}

// Left is how long it takes from now on at the rate so far; false where that is not known.
func (i *InitialSync) Left(now time.Time) (time.Duration, bool) {
	took := now.Sub(i.Since)
	if i.CopiedBytes <= 0 || took <= 0 {
		return 0, false
	}
	return time.Duration(float64(i.Bytes-i.CopiedBytes) / float64(i.CopiedBytes) * float64(took)), true
}

// beginInitial counts a volume's initial sync in. What it returns counts bytes that were
// copied, and what ends it.
func (v *Volume) beginInitial(ctx context.Context) (copied func(n int64), end func(), err error) {
	bytes := int64(0)
	for pos := int64(0); pos < v.conf.SizeBytes && ctx.Err() == nil; {
		start, n, err := v.back.Data(pos)
		if err != nil {
			return nil, nil, err
		}
		if n == 0 {
			break
		}
		bytes, pos = bytes+min(start+n, v.conf.SizeBytes)-start, start+n
	}
	s := v.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.initial == nil {
		s.initial = &InitialSync{Since: time.Now()}
	}
	i := s.initial
	i.running++
	i.Bytes += bytes
	copied = func(n int64) {
		s.mu.Lock()
		defer s.mu.Unlock()
		i.CopiedBytes = min(i.CopiedBytes+n, i.Bytes)
	}
	end = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if i.running--; i.running == 0 {
			s.initial = nil
		}
	}
	return copied, end, nil
}

// initialStatus is nil where no initial sync runs. Called with mu held.
func (s *stream) initialStatus() *InitialSync {
	if s.initial == nil {
		return nil
	}
	out := *s.initial
	return &out
}
