package journal

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/raft"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/transport"
)

// Cluster says how a member reaches the others and is reached.
type Cluster struct {
	// Address is where others reach this member: host:port.
	Address string
	// Peers are the addresses of other members. A member that has no journal yet
	// asks there to be let in.
	Peers []string
	// Dial connects to a member.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// DiskStall is how long an append to Raft's log may take before a leader gives
	// up: it would go on telling the others that it is well.
	DiskStall time.Duration
}

const (
	defaultClusterElection = time.Second
	defaultDiskStall       = 5 * time.Second
	raftTimeout            = 10 * time.Second
	raftPool               = 3
	dialTimeout            = 3 * time.Second
)

// raftTransport is Raft's transport, which can be closed.
type raftTransport interface {
	raft.Transport
	io.Closer
}

// openTransport prepares Raft's transport and returns this member's address.
func (j *Journal) openTransport() raft.ServerAddress {
	c := j.opts.Cluster
	if c == nil {
		addr, trans := raft.NewInmemTransport(aloneID)
		j.trans = trans
		return addr
	}
	if c.DiskStall == 0 {
		c.DiskStall = defaultDiskStall
	}
	j.layer = &streamLayer{ctx: j.ctx, cluster: c, member: &j.member, incoming: make(chan net.Conn),
		sealed: make(chan struct{}), closed: make(chan struct{})}
	j.trans = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: j.layer, MaxPool: raftPool,
		MaxRPCsInFlight: 1, // more can wedge a follower while heartbeats go on: hashicorp/raft#612
		Timeout:         raftTimeout, Logger: raftLogger(j.opts.Logger), ServerAddressProvider: j.layer})
	return raft.ServerAddress(c.Address)
}

// streamLayer carries Raft's connections over the address that agents use too: a
// connection becomes Raft's by its first message.
type streamLayer struct {
	ctx      context.Context // ends with the journal
	cluster  *Cluster
	member   *member
	raft     atomic.Pointer[raft.Raft] // Raft dials before NewRaft has returned
	incoming chan net.Conn
	seal     sync.Once
	sealed   chan struct{} // nothing comes in or goes out any more
	once     sync.Once
	closed   chan struct{}
}

var _ raft.StreamLayer = (*streamLayer)(nil)

func (l *streamLayer) Accept() (net.Conn, error) {
	select {
	case c := <-l.incoming:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Seal ends what comes in and goes out before Raft itself ends. To its transport an Accept
// that failed before the transport was closed is an error, so that one goes on waiting.
func (l *streamLayer) Seal() { l.seal.Do(func() { close(l.sealed) }) }

// Close is for Raft's transport, when it is closed.
func (l *streamLayer) Close() error {
	l.Seal()
	l.once.Do(func() { close(l.closed) })
	return nil
}

type memberAddr string

func (memberAddr) Network() string  { return "tcp" }
func (a memberAddr) String() string { return string(a) }

func (l *streamLayer) Addr() net.Addr { return memberAddr(l.cluster.Address) }

// ServerAddr names a member to Dial: by its id too. The one who answers at its
// address may be new there, and must not speak for what the old one promised.
func (l *streamLayer) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	if string(id) == l.member.id { // for a header; nobody dials it
		return raft.ServerAddress(string(id) + "@" + l.cluster.Address), nil
	}
	var servers []raft.Server
	if r := l.raft.Load(); r != nil {
		servers = serversOf(r)
	}
	for _, s := range servers {
		if s.ID == id {
			return raft.ServerAddress(string(id) + "@" + string(s.Address)), nil
		}
	}
	return "", fail.New(fail.NotFound, "find", "member "+string(id), "no such member")
}

// leaderAddress is where the leader is reached, "" where none is known. Raft knows
// it by ServerAddr's name.
func leaderAddress(r *raft.Raft) string {
	address, id := r.LeaderWithID()
	return strings.TrimPrefix(string(address), string(id)+"@")
}

// Dial connects Raft to another member.
func (l *streamLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	select {
	case <-l.sealed:
		return nil, net.ErrClosed
	default:
	}
	ctx, cancel := context.WithTimeout(l.ctx, min(timeout, dialTimeout))
	defer cancel()
	member, at, ok := strings.Cut(string(address), "@")
	if !ok {
		return nil, fail.New(fail.NotFound, "connect Raft to", at, "no member has that address")
	}
	conn, err := l.cluster.dial(ctx, at)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, conn.Close)
	defer stop()
	hello := change.RaftHello{Journal: l.member.journalID(), From: l.member.id, To: member}
	if err := ask(conn, change.MsgRaft, hello, change.MsgRaftReady, nil); err != nil {
		conn.Close()
		return nil, err
	}
	return conn.Raw()
}

// dial connects to a member.
func (c *Cluster) dial(ctx context.Context, address string) (*transport.Conn, error) {
	raw, err := c.Dial(ctx, address)
	if err != nil {
		return nil, fail.Wrap(fail.Retry, "connect to", "journal at "+address, err)
	}
	return transport.NewConn(raw, sendTimeout), nil
}

// ask sends a first message and takes its answer; a journal may refuse by Welcome.
func ask(conn *transport.Conn, typ change.MessageType, req any, want change.MessageType, resp any) error {
	if err := conn.Send(uint16(typ), change.Encode(req)); err != nil {
		return err
	}
	got, b, err := conn.Recv()
	if err != nil {
		return err
	}
	if change.MessageType(got) == change.MsgWelcome {
		var w change.Welcome
		if err := change.Decode(b, &w); err != nil {
			return err
		}
		return w.Error.Err("ask", "journal at "+conn.Peer())
	}
	if change.MessageType(got) != want {
		return unexpected(got)
	}
	if resp == nil {
		return nil
	}
	return change.Decode(b, resp)
}

// ask dials a member, asks once, and hangs up.
func (c *Cluster) ask(ctx context.Context, address string, typ change.MessageType, req any,
	want change.MessageType, resp any) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := c.dial(ctx, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, conn.Close)
	defer stop()
	return ask(conn, typ, req, want, resp)
}

// take hands a member's connection to Raft. leave is called when Raft closes it. A
// journal that is alone has no layer.
func (l *streamLayer) take(conn *transport.Conn, b []byte, leave func()) error {
	var hello change.RaftHello
	if err := change.Decode(b, &hello); err != nil {
		return err
	}
	if l == nil {
		return fail.New(fail.Refused, "serve", "Raft", "this journal has no other members")
	}
	mine := l.member.journalID()
	if hello.Journal != mine || mine == uuid.Nil {
		return fail.New(fail.Refused, "serve", "Raft of journal "+hello.Journal.String(),
			"this is a member of another journal, or of none yet")
	}
	if hello.To != l.member.id {
		return fail.New(fail.Refused, "serve", "Raft for member "+hello.To, "here is member "+l.member.id+" now")
	}
	if err := conn.Send(uint16(change.MsgRaftReady)); err != nil {
		return err
	}
	raw, err := conn.Raw()
	if err != nil {
		return err
	}
	select {
	case l.incoming <- raftConn{raw, leave}:
		return nil
	case <-l.sealed:
		return net.ErrClosed
	}
}

// raftConn gives its place back when Raft closes it.
type raftConn struct {
	net.Conn
	leave func()
}

func (c raftConn) Close() error {
	c.leave()
	return c.Conn.Close()
}
