package agent

import "sync"

// stream is this agent's part of one consistency group: one order of writes.
//
// A record passes: open frame -> sealed (order) -> appended to the WAL -> durable there
// (wal) -> written to the backings (apply) -> synced there (ckpt), and beside that from
// the WAL to the journal (ship). Each of these is a part with its own state, in the file
// with its name or the one that is named here.
//
// mu guards all parts, but for what a part says of itself, and is held briefly: nothing
// waits or touches a disk under it. The locks of the parts are held for longer, and
// taken before mu; among them the order is enc.mu or ckpt.mu, then backings.mu.
type stream struct {
	a *Agent
	// suspended is why nothing of this group is served or applied in this run: a
	// backing could not be opened. Set before the agent starts.
	suspended error

	mu       sync.Mutex
	conf     StreamConf // changed under Agent.mu and mu, so that with either it may be read
	progress progress
	initial  *InitialSync // while one of its volumes has one

	order    orderState
	enc      encodeState // encode.go
	wal      walState    // commit.go
	apply    applyState
	backings backingsState
	ckpt     checkpointState // checkpoint.go

	ship     shipState // shipstate.go
	ack      ackState
	overflow overflowState // overflow.go, resyncstate.go, resync.go
	evicted  evictedState  // lag.go, spilled.go
}

func newStream(a *Agent, conf StreamConf) *stream {
	s := &stream{a: a, conf: conf}
	s.progress.changed = make(chan struct{})
	s.order.nextLSN = 1
	s.wal.wakeCommit, s.wal.wakeSync = make(chan struct{}, 1), make(chan struct{}, 1)
	s.apply.wake, s.apply.wakeRoom = make(chan struct{}, 1), make(chan struct{}, 1)
	s.enc.frames.Codec = a.opts.codec()
	return s
}

func (s *stream) paused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conf.Paused
}
