package journal

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/pki"
	"github.com/pollux-dr/pollux/transport"
)

// Serve takes connections of agents and of other members from l until ctx ends.
// Errors of one connection end that connection.
func (j *Journal) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	places := make(chan struct{}, maxSessions)
	var strangers strangers
	for {
		raw, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fail.Wrap(fail.Internal, "accept on", l.Addr().String(), err)
		}
		known := strangers.add(raw)
		wg.Go(func() {
			defer known()
			conn := transport.NewConn(raw, sendTimeout)
			if j.opts.Cluster != nil {
				conn.SetIdleLimit(greetTimeout)
			}
			stop := context.AfterFunc(ctx, conn.Close)
			defer stop()
			kept, err := j.serve(ctx, conn, raw, func() bool {
				known()
				select {
				case places <- struct{}{}:
					return true
				default:
					return false
				}
			}, func() { <-places })
			if !kept {
				conn.Close()
			}
			if errors.Is(err, transport.ErrClosed) { // each verb and each change of leader does that
				j.opts.Logger.Debug("the other end closed its connection to the journal", "peer", conn.Peer())
			} else if err != nil && ctx.Err() == nil && !errors.Is(err, errNotLeader) {
				j.opts.Logger.Info("a connection to the journal ended", "peer", conn.Peer(), "err", err)
			}
		})
	}
}

// strangers are connections that have not said yet what they are for. When there
// are too many, the oldest goes: nobody who says so at once is kept out.
type strangers struct {
	mu    sync.Mutex
	conns []net.Conn
}

const maxStrangers = 256

// add takes a connection; known, which may be called again, lets it go.
func (s *strangers) add(c net.Conn) (known func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) == maxStrangers {
		_ = s.conns[0].Close()
		s.conns = s.conns[1:]
	}
	s.conns = append(s.conns, c)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if i := slices.Index(s.conns, c); i >= 0 {
			s.conns = slices.Delete(s.conns, i, i+1)
		}
	}
}

// greetTimeout is how long the first message of a connection may take.
const greetTimeout = 10 * time.Second

// serve takes a connection's first message, which says what it is for. kept says
// that somebody else has it now. enter takes a place among the sessions, if there
// is one, and leave gives it back.
func (j *Journal) serve(ctx context.Context, conn *transport.Conn, raw net.Conn, enter func() bool, leave func()) (kept bool, err error) {
	typ, b, err := conn.Recv() // shakes hands first
	if err != nil {
		return false, err
	}
	conn.SetIdleLimit(0)
	peer, err := pki.PeerOf(raw)
	if err != nil {
		return false, err
	}
	if err := allowed(peer, change.MessageType(typ)); err != nil {
		_ = conn.Send(uint16(change.MsgWelcome), change.Encode(change.Welcome{Error: change.FaultOf(err)}))
		return false, err
	}
	if !enter() {
		err := fail.New(fail.Retry, "serve", conn.Peer(), fmt.Sprintf("%d connections are served already", maxSessions))
		_ = conn.Send(uint16(change.MsgWelcome), change.Encode(change.Welcome{Error: change.FaultOf(err)}))
		return false, err
	}
	defer leave()
	switch change.MessageType(typ) {
	case change.MsgHello:
		ses := &session{j: j, peer: peer, conn: conn, leases: map[change.StreamID]change.Lease{}, told: map[change.StreamID]change.Ack{}}
		err = ses.run(ctx, b)
		return false, fail.At("serve", "agent "+ses.agent, err)
	case change.MsgFollow:
		return false, j.serveFollower(ctx, conn, peer, b)
	case change.MsgMember:
		return false, conn.Send(uint16(change.MsgMemberStatus), change.Encode(j.memberStatus()))
	case change.MsgJoin:
		return false, j.serveJoin(ctx, conn, b)
	case change.MsgSubmit:
		return false, j.serveSubmit(conn, peer, b)
	case change.MsgRaft:
		var hello change.RaftHello
		if err = change.Decode(b, &hello); err == nil {
			err = j.takeRaft(conn, &hello)
		}
		if err != nil {
			_ = conn.Send(uint16(change.MsgWelcome), change.Encode(change.Welcome{Error: change.FaultOf(err)}))
		}
		return err == nil, err
	}
	return false, unexpected(typ)
}

func (j *Journal) serveJoin(ctx context.Context, conn *transport.Conn, b []byte) error {
	var join change.Join
	if err := change.Decode(b, &join); err != nil {
		return err
	}
	var resp change.Joined
	resp.Journal, _, _ = j.ID()
	err := j.letIn(ctx, &join)
	if resp.Error = change.FaultOf(err); err != nil && !j.Leads() {
		leader := j.leaderAddress()
		resp.Leader = leader
	}
	return conn.Send(uint16(change.MsgJoined), change.Encode(resp))
}
