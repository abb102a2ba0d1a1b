package agent

import (
	"cmp"
	"time"

	"github.com/pollux-dr/pollux/agent/arena"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/wal"
)

// StreamStatus is where a stream stands.
type StreamStatus struct {
	Conf       StreamConf
	LastLSN    uint64 // newest acknowledged write
	DurableLSN uint64 // in the agent's WAL
	Committed  change.Point
	Released   uint64
	RemoteLSN  uint64 // in every remote target
	Lag        time.Duration
	LagBytes   int64 // plain bytes not yet durable remotely, estimated from the WAL
	Attached   bool
	Kept       EffectiveAck
	Fault      error // the stream must not be extended from here
	FullErr    error // the WAL takes no more
	Suspended  error // a backing was missing at the start: nothing of the group is served
	BackErr    error // a backing was cut under us, or could not be synced
	ApplyErr   error // applying to the backing is delayed
	// CheckpointErr is why the last checkpoint failed: the WAL is not trimmed then.
	CheckpointErr error
	Overflow      *Overflow
	Initial       *InitialSync
}

// Status is where the agent stands.
type Status struct {
	Streams  []StreamStatus
	Arena    arena.Usage
	WAL      wal.Stats
	ShipErr  error // why there is no session with the journal, or nil
	Err      error // fatal
	Slow     bool  // writers are throttled
	NewArena bool  // this start lost the arena: a new device generation

	Frames, PlainBytes, StoredBytes, RecoveredWrites int64
}

// Status returns a consistent enough picture for people and monitoring.
func (a *Agent) Status() Status {
	a.mu.Lock()
	st := Status{ShipErr: a.shipErr, Err: a.err, NewArena: !a.kept}
	a.mu.Unlock()
	st.Arena, st.WAL, st.Slow = a.mem.Usage(), a.wal.Stats(), a.slow.Load()
	st.Frames, st.PlainBytes = a.count.frames.Load(), a.count.plain.Load()
	st.StoredBytes, st.RecoveredWrites = a.count.stored.Load(), a.count.recovered.Load()
	for _, s := range a.snapshotStreams() {
		st.Streams = append(st.Streams, s.status())
	}
	return st
}

func (s *stream) status() StreamStatus {
	lag := s.lag()
	s.mu.Lock()
	defer s.mu.Unlock()
	return StreamStatus{
		Conf: s.conf, LastLSN: s.order.nextLSN - 1, DurableLSN: s.wal.durableLSN, Committed: s.ship.committed,
		Released: s.ship.released, RemoteLSN: s.remote(), Lag: lag, LagBytes: s.lagBytes(),
		Attached: s.ship.attached, Kept: s.keptNow(), Overflow: s.overflow.status(), Initial: s.initialStatus(),
		Fault: s.ship.fault, FullErr: s.wal.fullErr, Suspended: s.suspended,
		BackErr: cmp.Or(s.backings.cutErr, s.backings.syncErr), ApplyErr: s.apply.err, CheckpointErr: s.ckpt.err,
	}
}
