package journal

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/notify"
	"github.com/pollux-dr/pollux/internal/pki"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/transport"
)

const (
	// maxPipelined bounds the appends of one session that Raft has not yet
	// answered; beyond it the connection is not read.
	maxPipelined = 16
	sendTimeout  = 30 * time.Second
)

// server answers whoever connects to this member: agents, daemons that follow the
// control state, and other members.
type server struct {
	opts     *Options
	fsm      *fsm
	logs     *logStore
	entries  *entryReader
	lead     *lead
	members  *membership
	proposer *proposer
	layer    *streamLayer
	changed  *notify.Notifier // after every applied batch
	info     func() change.JournalInfo
}

// welcome answers an agent and returns a context that ends with the lead under
// which it was welcomed; an error ends the connection.
func (s *server) welcome(ctx context.Context, conn *transport.Conn, object string, reference bool) (
	context.Context, func(), error) {
	id := s.fsm.figures().id
	w := change.Welcome{Journal: id.Journal.String(), Epoch: id.Epoch, Reference: reference}
	lead, _ := s.lead.now()
	if lead == nil {
		w.Leader, w.Error = s.members.leader(), change.FaultOf(s.members.notLeader("serve", object))
		if s.opts.Cluster != nil && w.Leader == s.opts.Cluster.Address {
			w.Leader = "" // soon
		}
	}
	if err := conn.Send(uint16(change.MsgWelcome), change.Encode(w)); err != nil {
		return nil, nil, err
	}
	if lead == nil {
		return nil, nil, errNotLeader
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(lead, cancel)
	return ctx, func() { stop(); cancel() }, nil
}

// errNotLeader ends a connection whose other end was told in a Welcome that this member
// does not lead; there is nothing to log about it.
var errNotLeader = fail.New(fail.Retry, "", "", "this member does not lead")

// session is one agent's connection.
type session struct {
	*server
	conn  *transport.Conn
	peer  pki.Peer
	agent string

	mu     sync.Mutex                       // held while Attached is sent
	leases map[change.StreamID]change.Lease // attached streams
	told   map[change.StreamID]change.Ack
}

type pending struct {
	stream change.StreamID
	future raft.ApplyFuture
}

func (s *session) run(ctx context.Context, b []byte) error {
	var hello change.Hello
	if err := change.Decode(b, &hello); err != nil {
		return err
	}
	s.agent = hello.Agent
	if err := isAgent(s.peer, s.agent); err != nil {
		_ = s.conn.Send(uint16(change.MsgWelcome), change.Encode(change.Welcome{Error: change.FaultOf(err)}))
		return err
	}
	reference := hello.Reference && s.entries.source != nil && s.entries.References()
	ctx, end, err := s.welcome(ctx, s.conn, "agent "+s.agent, reference)
	if err != nil {
		return err
	}
	defer end()
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

func unexpected(typ uint16) error {
	return fail.New(fail.Damaged, "receive from", "agent", fmt.Sprintf("unexpected message type %d", typ))
}

// receive reads requests. Appends are proposed at once and answered in order.
func (s *session) receive(ctx context.Context, queue chan<- pending) error {
	pace := newPace()
	for {
		typ, b, err := s.conn.Recv()
		if err != nil {
			return err
		}
		if change.MessageType(typ) != change.MsgAppend {
			if err := pace.Wait(ctx); err != nil {
				return err
			}
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
		case change.MsgResync:
			var r change.Resync
			if err := change.Decode(b, &r); err != nil {
				return err
			}
			if err := s.resync(&r); err != nil {
				return err
			}
		case change.MsgAppend:
			if err := s.logs.waitRoom(ctx); err != nil {
				return err
			}
			a, err := change.ParseAppend(b) // refuse nonsense before it is in Raft's log
			if err != nil {
				return err
			}
			if err := a.Check(); err != nil {
				return err
			}
			s.mu.Lock()
			mine := s.leases[a.Stream] == a.Lease
			s.mu.Unlock()
			if !mine {
				return fail.New(fail.Fenced, "append to", a.Stream.String(), "this session has no such lease")
			}
			if err := s.proposer.mayExtend(); err != nil {
				return err
			}
			p := pending{stream: a.Stream, future: s.proposer.start(tagAppend, b)}
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

func (s *session) attach(at *change.Attach) error {
	epoch := s.fsm.figures().id.Epoch
	_, err := s.proposer.Propose(state.KindLease, state.LeaseGrant{Stream: at.Stream, Agent: s.agent, Epoch: epoch})
	return s.attached(at.Stream, err)
}

// resync takes a gap in a stream, or the end of a resync, into the log.
func (s *session) resync(r *change.Resync) error {
	s.mu.Lock()
	lease, mine := s.leases[r.Stream]
	s.mu.Unlock()
	if !mine && r.End > 0 {
		return nil // of a group that is paused just now
	}
	if !mine {
		return fail.New(fail.Fenced, "resync", r.Stream.String(), "this session has no lease on it")
	}
	if r.End > 0 {
		_, err := s.proposer.Propose(state.KindResyncEnd,
			state.ResyncEnd{Stream: r.Stream, Lease: lease, To: r.To, LSN: r.End})
		if fail.Is(err, fail.NotFound) {
			return nil // said twice; an ack tells that it has ended
		}
		return err // another gap than the newest: the next session learns which that is
	}
	_, err := s.proposer.Propose(state.KindResyncBegin,
		state.ResyncBegin{Stream: r.Stream, Lease: lease, Gap: state.Gap{From: r.From, To: r.To}})
	return s.attached(r.Stream, err)
}

// attached answers with where a stream stands, or why not. No Ack of the stream goes
// out before: the agent would not know the stream yet, and never hear it again.
func (s *session) attached(id change.StreamID, err error) error {
	resp := change.Attached{Stream: id, Error: change.FaultOf(err)}
	if err != nil {
		return s.conn.Send(uint16(change.MsgAttached), change.Encode(resp))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var ack change.Ack
	s.fsm.read(func(v view) {
		stream := v.state().Streams[id]
		resp.Lease, resp.Gap = stream.Lease, stream.NewestGap()
		ack = v.ack(id, int(s.members.voters.Load()))
	})
	resp.Committed, resp.Released, resp.Durable = ack.Committed, ack.Released, ack.Durable
	resp.Voters, resp.Unsound = ack.Voters, ack.Unsound
	s.leases[id], s.told[id] = resp.Lease, ack
	return s.conn.Send(uint16(change.MsgAttached), change.Encode(resp))
}

// answer waits for Raft's word on each append. A refusal goes to the agent and
// ends the session; progress is reported by report.
func (s *session) answer(queue <-chan pending) error {
	for p := range queue {
		r, err := s.proposer.wait(p.future)
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

// report tells the agent whenever one of its streams has moved, and beats where a
// network lies between: silence means that there is none.
func (s *session) report(ctx context.Context) error {
	var beat <-chan time.Time
	if s.opts.Cluster != nil {
		tick := time.NewTicker(change.BeatEvery)
		defer tick.Stop()
		beat = tick.C
	}
	for {
		changed := s.changed.Next()
		for _, ack := range s.news() {
			if err := s.conn.Send(uint16(change.MsgAck), change.Encode(ack)); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-beat:
			if err := s.conn.Send(uint16(change.MsgBeat)); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// news is where streams stand that have moved since the agent was told.
func (s *session) news() (out []change.Ack) {
	s.mu.Lock()
	defer s.mu.Unlock()
	voters := int(s.members.voters.Load())
	s.fsm.read(func(v view) {
		for id := range s.leases {
			if ack := v.ack(id, voters); ack != s.told[id] {
				s.told[id] = ack
				out = append(out, ack)
			}
		}
	})
	return out
}
