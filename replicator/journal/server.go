package journal

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/transport"
)

const (
	// maxPipelined bounds the appends of one session that Raft has not yet
	// answered; beyond it the connection is not read.
	maxPipelined = 16
	sendTimeout  = 30 * time.Second
	maxSessions  = 1024
)

// Serve takes agents' sessions from l until ctx ends. Errors of one session end
// that session.
func (j *Journal) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	places := make(chan struct{}, maxSessions)
	for {
		raw, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fail.Wrap(fail.Internal, "accept on", l.Addr().String(), err)
		}
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			conn := transport.NewConn(raw, sendTimeout)
			stop := context.AfterFunc(ctx, conn.Close)
			defer stop()
			defer conn.Close()
			ses := &session{j: j, conn: conn, leases: map[change.StreamID]change.Lease{}, told: map[change.StreamID]change.Ack{}}
			if err := ses.run(ctx); err != nil && ctx.Err() == nil {
				j.opts.Logger.Info("agent session ended", "agent", ses.agent, "err", err)
			}
		})
	}
}

// session is one agent's connection.
type session struct {
	j     *Journal
	conn  *transport.Conn
	agent string

	mu     sync.Mutex
	leases map[change.StreamID]change.Lease // attached streams
	told   map[change.StreamID]change.Ack
}

type pending struct {
	stream change.StreamID
	future raft.ApplyFuture
}

func (s *session) run(ctx context.Context) error {
	if err := s.greet(); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, s.conn.Close)
	defer stop()
	queue := make(chan pending, maxPipelined)
	g.Go(func() error {
		defer close(queue)
		return s.receive(ctx, queue)
	})
	g.Go(func() error { return s.answer(queue) })
	g.Go(func() error { return s.report(ctx) })
	return g.Wait()
}

func (s *session) greet() error {
	typ, b, err := s.conn.Recv()
	if err != nil {
		return err
	}
	var hello change.Hello
	if change.MessageType(typ) != change.MsgHello {
		return unexpected(typ)
	}
	if err := change.Decode(b, &hello); err != nil {
		return err
	}
	s.agent = hello.Agent
	id, epoch, _ := s.j.ID()
	w := change.Welcome{Journal: id.String(), Epoch: epoch, Reference: hello.Reference && s.j.source != nil}
	return s.conn.Send(uint16(change.MsgWelcome), change.Encode(w))
}

func unexpected(typ uint16) error {
	return fail.New(fail.Damaged, "receive from", "agent", fmt.Sprintf("unexpected message type %d", typ))
}

// receive reads requests. Appends are proposed at once and answered in order.
func (s *session) receive(ctx context.Context, queue chan<- pending) error {
	for {
		typ, b, err := s.conn.Recv()
		if err != nil {
			return err
		}
		switch change.MessageType(typ) {
		case change.MsgAttach:
			var at change.Attach
			if err := change.Decode(b, &at); err != nil {
				return err
			}
			if err := s.attach(&at); err != nil {
				return err
			}
		case change.MsgAppend:
			if err := s.j.waitBudget(ctx); err != nil {
				return err
			}
			a, err := change.ParseAppend(b) // refuse nonsense before it is in Raft's log
			if err != nil {
				return err
			}
			if err := checkBodies(&a); err != nil {
				return err
			}
			p := pending{stream: a.Stream, future: s.j.raft.Apply(append([]byte{tagAppend}, b...), applyTimeout)}
			select {
			case queue <- p:
			case <-ctx.Done():
				return ctx.Err()
			}
		default:
			return unexpected(typ)
		}
	}
}

// checkBodies refuses a frame whose bytes are not what its header says: once it
// is in the log, it must be uploadable.
func checkBodies(a *change.Append) error {
	for i := range a.Items {
		it := &a.Items[i]
		if it.Body == nil {
			continue
		}
		if _, err := change.Parse(slices.Concat(it.Header, it.Body)); err != nil {
			return err
		}
	}
	return nil
}

// waitBudget holds appends back while Raft's log is over its budget; commands,
// Uploaded among them, still pass and make room.
func (j *Journal) waitBudget(ctx context.Context) error {
	for {
		if st := j.wal.Stats(); st.LiveBytes <= st.BudgetBytes {
			return nil
		}
		if err := j.Snapshot(); err != nil {
			j.opts.Logger.Warn("snapshot failed", "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (s *session) attach(at *change.Attach) error {
	_, epoch, _ := s.j.ID()
	resp := change.Attached{Stream: at.Stream}
	_, err := s.j.Propose(state.KindLease, state.LeaseGrant{Stream: at.Stream, Agent: s.agent, Epoch: epoch})
	resp.Error = change.FaultOf(err)
	if err == nil {
		s.j.fsm.mu.RLock()
		resp.Lease = s.j.fsm.state.Streams[at.Stream].Lease
		ack := s.j.ackOf(at.Stream)
		s.j.fsm.mu.RUnlock()
		resp.Committed, resp.Released, resp.Durable = ack.Committed, ack.Released, ack.Durable
		s.mu.Lock()
		s.leases[at.Stream], s.told[at.Stream] = resp.Lease, ack
		s.mu.Unlock()
	}
	return s.conn.Send(uint16(change.MsgAttached), change.Encode(resp))
}

// ackOf is where a stream stands. Called with fsm.mu held.
func (j *Journal) ackOf(id change.StreamID) change.Ack {
	return change.Ack{Stream: id, Committed: j.fsm.points[id], Released: j.releasedLSN(id), Durable: j.requiredDurable(id)}
}

// answer waits for Raft's word on each append. A refusal goes to the agent and
// ends the session; progress is reported by report.
func (s *session) answer(queue <-chan pending) error {
	for p := range queue {
		r, err := s.j.wait(p.future)
		if err == nil {
			err = r.err
		}
		if err == nil {
			continue
		}
		ack := change.Ack{Stream: p.stream, Committed: r.point, Fault: change.FaultOf(err)}
		_ = s.conn.Send(uint16(change.MsgAck), change.Encode(ack)) // the session ends anyway
		return err
	}
	return nil
}

// report tells the agent whenever one of its streams has moved.
func (s *session) report(ctx context.Context) error {
	for {
		changed := s.j.Changed()
		for _, ack := range s.news() {
			if err := s.conn.Send(uint16(change.MsgAck), change.Encode(ack)); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *session) news() []change.Ack {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.j.fsm.mu.RLock()
	defer s.j.fsm.mu.RUnlock()
	var out []change.Ack
	for id := range s.leases {
		if ack := s.j.ackOf(id); ack != s.told[id] {
			s.told[id] = ack
			out = append(out, ack)
		}
	}
	return out
}
