package agent

import (
	"fmt"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/notify"
)

// shipState is what a stream knows of its journal. Guarded by stream.mu, apart from told,
// which has a lock of its own.
type shipState struct {
	lease     change.Lease
	attached  bool
	committed change.Point // accepted by the journal
	released  uint64       // the journal needs no bytes up to here
	durable   uint64       // was in every remote target at some time
	remote    uint64       // is in every remote target: goes back when another one becomes required
	voters    int          // of the journal, as it said last
	sent      uint64       // handed to the present session
	mayHave   uint64       // the journal was sent no more than this
	moved     time.Time    // when it last got further
	copies    bool         // it takes frames with their bodies
	// consistent: its log of the stream has a point, with no gap behind it, as far as it
	// said last.
	consistent bool
	gap        change.Point // where the newest gap leads to, as it said when the stream was attached
	fault      error        // why this stream must not be extended from here

	told notify.Notifier // broadcast after each word of the journal, and when the stream ends
}

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
	defer s.ship.told.Broadcast()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ship.lease, s.ship.attached = at.Lease, true
	s.ship.committed, s.ship.sent, s.ship.consistent = at.Committed, at.Committed.LSN, !at.Unsound
	s.ship.gap, s.ship.moved = at.Gap, time.Now()
	s.ship.released = max(s.ship.released, at.Released)
	s.ship.durable, s.ship.voters = max(s.ship.durable, at.Durable), at.Voters
	s.ship.remote = at.Durable
	s.evicted.lag.drop(s.ship.durable)
	s.overflow.settle(s.ship.durable)
	s.progress.broadcast()
	return from, nil
}

func (s *stream) setFault(err error) {
	s.mu.Lock()
	s.ship.fault = err
	s.mu.Unlock()
}

// acked takes the journal's word for what it no longer needs.
func (s *stream) acked(ack *change.Ack) {
	s.mu.Lock()
	if ack.Committed.LSN >= s.ship.committed.LSN { // else it is older than what Attached said
		if s.ship.committed != ack.Committed {
			s.ship.moved = time.Now()
		}
		s.ship.remote = ack.Durable
		s.ship.committed, s.ship.consistent = ack.Committed, !ack.Unsound
	}
	s.ship.voters = ack.Voters
	afterAll := s.overflow.afterAll(&s.ship) && (s.ship.consistent || s.suspended == nil) // see enter
	s.ship.released = max(s.ship.released, ack.Released)
	s.ship.durable = max(s.ship.durable, ack.Durable)
	s.evicted.lag.drop(s.ship.durable)
	s.overflow.settle(s.ship.durable)
	s.progress.broadcast()
	s.mu.Unlock()
	s.ship.told.Broadcast()
	s.restoreAck()
	if afterAll {
		s.a.restartSessions()
	}
}

// advance reports whether the frame is the next one to send; earlier ones are
// there already, and a later one means that the WAL has a gap.
func (s *stream) advance(h *change.Header) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.overflow.holds(s.ship.sent) {
		return false, errRestart // what is to be sent has been dropped
	}
	if h.FirstLSN > s.ship.sent+1 {
		why := fmt.Sprintf("the WAL goes from LSN %d to %d", s.ship.sent, h.FirstLSN)
		s.ship.fault = fail.New(fail.Damaged, "ship", "group "+s.conf.Group, why).
			WithHint("restore the group's volumes from the object store")
		return false, s.ship.fault
	}
	if h.FirstLSN == s.ship.sent+1 {
		s.ship.mayHave = max(s.ship.mayHave, h.LastLSN)
		return true, nil
	}
	return false, nil
}
