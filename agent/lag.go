package agent

import (
	"time"

	"github.com/pollux-dr/pollux/internal/clock"
)

// evictedState is what is remembered of frames that left the WAL before every required
// target had them. Guarded by stream.mu.
type evictedState struct {
	lag     lagMarks        // how old and how large they are
	changes *spilledChanges // which blocks they changed; nil: none, or that is not known
	// entered is up to where frames that the targets lack may leave the WAL: changes has them, or was given up.
	entered uint64
}

// oldest returns when the oldest record after lsn was acknowledged. Called with mu
// held.
func (s *stream) oldest(lsn uint64) (at int64, ok bool) {
	for i := range s.evicted.lag {
		if s.evicted.lag[i].Last > lsn {
			return s.evicted.lag[i].at, true
		}
	}
	for _, r := range s.wal.refs {
		if r.last > lsn {
			return r.at, true
		}
	}
	return s.order.oldest()
}

// whenWas turns what an earlier process wrote down into clock.SinceStart's time: below 0.
func (a *Agent) whenWas(t int64) int64 {
	return clock.SinceStart() - max(0, a.opts.Now().UnixNano()-t)
}

// lag is the age of the oldest acknowledged write that is not durable in the
// remote store.
func (s *stream) lag() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.oldest(min(s.ship.durable, s.ship.remote))
	if d := s.overflow.dropped; d != nil && (!ok || d.at < at) {
		at, ok = d.at, true
	}
	if !ok {
		return 0
	}
	return time.Duration(clock.SinceStart() - at)
}

// lagBytes counts what is open or sealed exactly, and of what is in the WAL the
// bytes there. Called with mu held.
func (s *stream) lagBytes() int64 {
	n := s.order.bytes() + s.evicted.lag.bytes()
	for i := len(s.wal.refs) - 1; i >= 0 && s.wal.refs[i].last > min(s.ship.durable, s.ship.remote); i-- {
		n += int64(s.wal.refs[i].bytes)
	}
	return n
}

// lagMarks remembers, of frames that the WAL no longer holds and the targets do not
// hold yet, how old and how large they are. It is bounded: when there are too many,
// two neighbours become one.
type lagMarks []lagMark

// lagMark stands for a run of frames.
type lagMark struct {
	Last  uint64 `json:"last"`  // LSN of the newest record
	Time  int64  `json:"time"`  // of the oldest record, ns
	Bytes int64  `json:"bytes"` // plain
	at    int64  // Time, by clock.SinceStart
}

const maxLagMarks = 4096

func (m *lagMarks) add(r *frameRef) {
	if len(*m) == maxLagMarks {
		for i := range maxLagMarks / 2 {
			a, b := (*m)[2*i], (*m)[2*i+1]
			(*m)[i] = lagMark{b.Last, a.Time, a.Bytes + b.Bytes, a.at}
		}
		*m = (*m)[:maxLagMarks/2]
	}
	*m = append(*m, lagMark{r.last, r.time, int64(r.bytes), r.at})
}

// drop forgets what the targets hold.
func (m *lagMarks) drop(durable uint64) {
	n := 0
	for n < len(*m) && (*m)[n].Last <= durable {
		n++
	}
	*m = append((*m)[:0], (*m)[n:]...)
}

func (m lagMarks) bytes() (n int64) {
	for i := range m {
		n += m[i].Bytes
	}
	return n
}

// summary is all of them as one mark, for a checkpoint; nil where there is none.
func (m lagMarks) summary() *lagMark {
	if len(m) == 0 {
		return nil
	}
	return &lagMark{m[len(m)-1].Last, m[0].Time, m.bytes(), m[0].at}
}
