package journal

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/listen"
	"github.com/pollux-dr/pollux/internal/pki"
	"github.com/pollux-dr/pollux/transport"
)

const (
	// maxNewcomers are connections that have not said yet what they are for, and
	// greetTimeout is how long their first message may take.
	maxNewcomers = 256
	greetTimeout = 10 * time.Second
	// maxSessions are those of agents and of followers, and maxMembers the connections of
	// other members: nobody can lock these out. maxPerPeer are one certificate's: an agent
	// has two sessions, a member half a dozen.
	maxSessions = 1024
	maxMembers  = 256
	maxPerPeer  = 32
)

// door is a listener's connections.
type door struct {
	newcomers         listen.Lobby
	sessions, members *listen.Places
}

func newDoor() *door {
	return &door{newcomers: listen.NewLobby(maxNewcomers), sessions: listen.NewPlaces(maxSessions, maxPerPeer),
		members: listen.NewPlaces(maxMembers, maxPerPeer)}
}

// enter takes a place for a connection whose first message is read.
func (d *door) enter(peer pki.Peer, raw net.Conn) (leave func(), err error) {
	places, limit := d.sessions, maxSessions
	if peer.Role == pki.Journal {
		places, limit = d.members, maxMembers
	}
	name := peer.String()
	if peer == pki.Local {
		name = "" // agents and members alike
	}
	leave, ok := places.Enter(name, func() { listen.Cut(raw) })
	if !ok {
		return nil, fail.New(fail.Retry, "serve", raw.RemoteAddr().String(),
			fmt.Sprintf("%d connections are served already", limit))
	}
	return leave, nil
}

// Serve takes connections of agents and of other members from l until ctx ends.
// Errors of one connection end that connection; that l is closed ends them all.
func (s *server) Serve(ctx context.Context, l net.Listener) error {
	log := listen.Sparse(s.opts.Logger)
	l = listen.Patient(l, log)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel() // the connections end before they are waited for
	door := newDoor()
	for {
		raw, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fail.Wrap(fail.Internal, "accept on", l.Addr().String(), err)
		}
		known := door.newcomers.Enter(func() { listen.Cut(raw) })
		wg.Go(func() {
			defer known()
			conn := transport.NewConn(raw, sendTimeout)
			conn.SetIdleLimit(greetTimeout)
			stop := context.AfterFunc(ctx, conn.Close)
			defer stop()
			kept, err := s.serve(ctx, conn, raw, known, door)
			if !kept {
				conn.Close()
			}
			if errors.Is(err, transport.ErrClosed) { // each verb and each change of leader does that
				log.Debug("the other end closed its connection to the journal", "peer", conn.Peer())
			} else if err != nil && ctx.Err() == nil && !errors.Is(err, errNotLeader) {
				log.Info("a connection to the journal ended", "peer", conn.Peer(), "err", err)
			}
		})
	}
}

// serve takes a connection's first message, which says what it is for; it is known
// then, and takes its place beyond the door. kept says that somebody else has it now.
func (s *server) serve(ctx context.Context, conn *transport.Conn, raw net.Conn, known func(), door *door) (
	kept bool, err error) {
	typ, b, err := conn.Recv() // shakes hands first
	if err != nil {
		return false, err
	}
	conn.SetIdleLimit(0)
	peer, err := pki.PeerOf(raw)
	if err != nil {
		return false, err
	}
	refuse := func(err error) (bool, error) {
		_ = conn.Send(uint16(change.MsgWelcome), change.Encode(change.Welcome{Error: change.FaultOf(err)}))
		return false, err
	}
	if err := allowed(peer, change.MessageType(typ)); err != nil {
		return refuse(err)
	}
	leave, err := door.enter(peer, raw)
	if err != nil {
		return refuse(err)
	}
	known()
	if change.MessageType(typ) == change.MsgRaft {
		if err := s.layer.take(conn, b, leave); err != nil {
			leave()
			return refuse(err)
		}
		return true, nil
	}
	defer leave()
	switch change.MessageType(typ) {
	case change.MsgHello:
		ses := &session{server: s, peer: peer, conn: conn, leases: map[change.StreamID]change.Lease{},
			told: map[change.StreamID]change.Ack{}}
		err = ses.run(ctx, b)
		return false, fail.At("serve", "agent "+ses.agent, err)
	case change.MsgFollow:
		return false, s.serveFollower(ctx, conn, peer, b)
	case change.MsgMember:
		return false, conn.Send(uint16(change.MsgMemberStatus), change.Encode(s.members.self()))
	case change.MsgJoin:
		return false, s.serveJoin(ctx, conn, b)
	case change.MsgSubmit:
		return false, s.serveSubmit(conn, peer, b)
	}
	return false, unexpected(typ)
}

func (s *server) serveJoin(ctx context.Context, conn *transport.Conn, b []byte) error {
	var join change.Join
	if err := change.Decode(b, &join); err != nil {
		return err
	}
	var resp change.Joined
	resp.Journal = s.fsm.figures().id.Journal
	err := s.members.admit(ctx, &join)
	if resp.Error = change.FaultOf(err); err != nil && !s.lead.Leads() {
		resp.Leader = s.members.leader()
	}
	return conn.Send(uint16(change.MsgJoined), change.Encode(resp))
}
