package journal

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/pki"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/transport"
)

const (
	// maxProposals bounds the commands of one follower that Raft has not answered.
	maxProposals = 64
	// commandsPerSecond is how fast one session may put commands, appends not among them,
	// into Raft's log; commandsAtOnce of them pass without a wait. An agent that starts with
	// thousands of groups needs that many.
	commandsPerSecond = 100
	commandsAtOnce    = 1000
)

// follower is the connection of a daemon that keeps a copy of the control state.
type follower struct {
	*server
	conn  *transport.Conn
	peer  pki.Peer
	agent string
	level int    // the feature level that it knows
	read  uint64 // news up to here were sent
	last  string // the last info sent

	mu      sync.Mutex
	answers []change.Proposed // to be sent after the state that they led to
	wake    chan struct{}
}

// serveFollower sends the control state, then what changes in it, and takes
// commands. An answer follows the change that the command made.
func (s *server) serveFollower(ctx context.Context, conn *transport.Conn, peer pki.Peer, b []byte) error {
	var hello change.Follow
	if err := change.Decode(b, &hello); err != nil {
		return err
	}
	if err := isAgent(peer, hello.Agent); err != nil {
		_ = conn.Send(uint16(change.MsgWelcome), change.Encode(change.Welcome{Error: change.FaultOf(err)}))
		return err
	}
	ctx, end, err := s.welcome(ctx, conn, "agent "+hello.Agent, false)
	if err != nil {
		return err
	}
	defer end()
	f := &follower{server: s, conn: conn, peer: peer, agent: hello.Agent, level: hello.Level,
		read: ^uint64(0), wake: make(chan struct{}, 1)}
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, conn.Close)
	defer stop()
	g.Go(func() error { return f.receive(ctx, g) })
	g.Go(func() error { return f.send(ctx) })
	return g.Wait()
}

// newPace is a session's token bucket for commands. Who is too fast waits: its connection is
// not read meanwhile.
func newPace() *rate.Limiter { return rate.NewLimiter(commandsPerSecond, commandsAtOnce) }

func (f *follower) receive(ctx context.Context, g *errgroup.Group) error {
	places := make(chan struct{}, maxProposals)
	pace := newPace()
	for {
		typ, b, err := f.conn.Recv()
		if err != nil {
			return err
		}
		if change.MessageType(typ) != change.MsgPropose {
			return unexpected(typ)
		}
		var p change.Propose
		if err := change.Decode(b, &p); err != nil {
			return err
		}
		if err := pace.Wait(ctx); err != nil {
			return err
		}
		places <- struct{}{}
		g.Go(func() error {
			answer := f.propose(f.peer, &p)
			f.mu.Lock()
			f.answers = append(f.answers, answer)
			f.mu.Unlock()
			<-places
			select {
			case f.wake <- struct{}{}:
			default:
			}
			return nil
		})
	}
}

// propose applies a command of somebody else, who must be allowed to.
func (s *server) propose(peer pki.Peer, p *change.Propose) change.Proposed {
	index, err := s.proposer.proposeChecked(p.Command, func(kind state.Kind, body []byte) error {
		return mayPropose(s.fsm.view, peer, kind, body)
	})
	return change.Proposed{ID: p.ID, Index: index, Error: change.FaultOf(err)}
}

func (s *server) serveSubmit(conn *transport.Conn, peer pki.Peer, b []byte) error {
	var p change.Propose
	if err := change.Decode(b, &p); err != nil {
		return err
	}
	answer := change.Proposed{ID: p.ID}
	if s.lead.Leads() {
		answer = s.propose(peer, &p)
	} else {
		answer.Error = change.FaultOf(s.members.notLeader("propose to", "journal"))
	}
	return conn.Send(uint16(change.MsgProposed), change.Encode(answer))
}

func (f *follower) send(ctx context.Context) error {
	beat := time.NewTicker(change.BeatEvery)
	defer beat.Stop()
	for {
		changed := f.changed.Next()
		f.mu.Lock()
		answers := f.answers
		f.answers = nil
		f.mu.Unlock()
		reset, err := f.update() // holds what the answers speak of
		if err != nil {
			return err
		}
		if reset { // the copy is complete with this
			f.last = ""
			if err := f.inform(); err != nil {
				return err
			}
		}
		for i := range answers {
			if err := f.conn.Send(uint16(change.MsgProposed), change.Encode(answers[i])); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-f.wake:
		case <-beat.C:
			if err := f.inform(); err != nil {
				return err
			}
		}
	}
}

// inform sends where the journal stands; where nothing changed, a beat.
func (f *follower) inform() error {
	info := f.info()
	if b := change.Encode(info); string(b) != f.last {
		f.last = string(b)
		return f.conn.Send(uint16(change.MsgState), change.Encode(change.StateUpdate{Info: &info}))
	}
	return f.conn.Send(uint16(change.MsgBeat))
}

// update sends what has changed in the control state since the last time, or all of
// it.
func (f *follower) update() (reset bool, err error) {
	updates, end, known := f.fsm.updates(f.agent, f.level, f.read)
	f.read = end
	if !known {
		if len(updates) == 0 {
			updates = make([]change.StateUpdate, 1)
		}
		updates[0].Reset = true
	}
	for i := range updates {
		if err := f.conn.Send(uint16(change.MsgState), change.Encode(updates[i])); err != nil {
			return false, err
		}
	}
	return !known, nil
}
