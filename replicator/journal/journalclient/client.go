package journalclient

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/notify"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/transport"
)

// Options configure a Client.
type Options struct {
	Agent  string
	Finder *transport.Finder
	Logger *slog.Logger
	// Pin, if set, is told which journal answers, and refuses any other than the
	// one that it was told of first.
	Pin func(journal string) error
}

// Client is a journal on other hosts. It is safe for concurrent use.
type Client struct {
	o       Options
	changed notify.Notifier

	mu      sync.Mutex
	state   *state.State
	filling *state.State // a new copy, until all of it is here
	info    change.JournalInfo
	synced  bool
	conn    *transport.Conn // nil without a session
	err     error           // why there is none
	next    uint64
	waiting map[uint64]chan change.Proposed
}

const (
	sendTimeout = 10 * time.Second
	// connectWait is how long Propose waits for a connection, proposeTimeout for an
	// answer.
	connectWait    = 5 * time.Second
	proposeTimeout = 20 * time.Second
	maxReconnect   = 2 * time.Second
)

// New makes a client; Run connects it.
func New(o Options) *Client {
	return &Client{o: o, state: state.New(), waiting: map[uint64]chan change.Proposed{},
		err: fail.New(fail.Retry, "reach", "journal", "not yet connected")}
}

// Run keeps a session until ctx ends.
func (c *Client) Run(ctx context.Context) {
	wait := 20 * time.Millisecond
	for ctx.Err() == nil {
		start := time.Now()
		err := c.session(ctx)
		if ctx.Err() != nil {
			return
		}
		c.lost(err)
		if time.Since(start) > maxReconnect {
			wait = 20 * time.Millisecond
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, maxReconnect)
	}
}

// lost ends what waited for an answer: nobody knows whether it was done.
func (c *Client) lost(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil || err.Error() != c.err.Error() {
		c.o.Logger.Warn("no session with the journal; connecting again", "err", err, "hint", fail.HintOf(err))
	}
	c.err, c.conn, c.filling = err, nil, nil
	for id, ch := range c.waiting {
		delete(c.waiting, id)
		ch <- change.Proposed{ID: id, Error: change.FaultOf(fail.New(fail.Retry, "propose to", "journal",
			"the connection was lost before its answer: "+err.Error()).
			WithHint("look whether it was done, and repeat it if not"))}
	}
	c.changed.Broadcast()
}

func (c *Client) session(ctx context.Context) error {
	raw, err := c.o.Finder.Dial(ctx)
	if err != nil {
		return err
	}
	conn := transport.NewConn(raw, sendTimeout)
	conn.SetIdleLimit(change.BeatLimit)
	defer conn.Close()
	stop := context.AfterFunc(ctx, conn.Close)
	defer stop()
	if err := c.greet(conn); err != nil {
		return err
	}
	for {
		typ, b, err := conn.Recv()
		if err == nil {
			err = c.take(conn, change.MessageType(typ), b)
		}
		if err != nil {
			c.o.Finder.SetLeader("")
			return err
		}
	}
}

func (c *Client) greet(conn *transport.Conn) error {
	if err := conn.Send(uint16(change.MsgFollow),
		change.Encode(change.Follow{Agent: c.o.Agent, Level: state.Level})); err != nil {
		c.o.Finder.SetLeader("")
		return err
	}
	typ, b, err := conn.Recv()
	if err == nil && change.MessageType(typ) != change.MsgWelcome {
		err = unexpected(typ)
	}
	var w change.Welcome
	if err == nil {
		err = change.Decode(b, &w)
	}
	if err == nil {
		err = w.Error.Err("ask", "journal at "+conn.Peer())
	}
	if err == nil && c.o.Pin != nil {
		err = c.o.Pin(w.Journal)
	}
	if err != nil {
		c.o.Finder.SetLeader(w.Leader)
	}
	return err
}

func unexpected(typ uint16) error {
	return fail.New(fail.Damaged, "receive from", "journal", "unexpected message "+change.MessageType(typ).String())
}

// take handles one message.
func (c *Client) take(conn *transport.Conn, typ change.MessageType, b []byte) error {
	switch typ {
	case change.MsgBeat:
		return nil
	case change.MsgState:
		var u change.StateUpdate
		if err := change.Decode(b, &u); err != nil {
			return err
		}
		return c.update(conn, &u)
	case change.MsgProposed:
		var p change.Proposed
		if err := change.Decode(b, &p); err != nil {
			return err
		}
		c.mu.Lock()
		ch := c.waiting[p.ID]
		delete(c.waiting, p.ID)
		c.mu.Unlock()
		if ch != nil {
			ch <- p
		}
		return nil
	}
	return unexpected(uint16(typ))
}

// update brings the copy up to date. A new copy replaces the old one when the
// first figures come: they follow all of it.
func (c *Client) update(conn *transport.Conn, u *change.StateUpdate) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if u.Reset {
		c.filling = state.New()
	}
	into := c.state
	if c.filling != nil {
		into = c.filling
	}
	for _, k := range u.Keys {
		if err := into.Load(k.Key, k.Value); err != nil {
			return err
		}
	}
	if u.Info != nil {
		c.info = *u.Info
		if c.filling != nil {
			c.state, c.filling = c.filling, nil
		}
		if c.conn == nil {
			c.o.Logger.Info("session with the journal", "leader", conn.Peer())
		}
		c.conn, c.err, c.synced = conn, nil, true
	}
	c.changed.Broadcast()
	return nil
}

// Changed returns a channel that is closed when the copy changes next.
func (c *Client) Changed() <-chan struct{} { return c.changed.Next() }

// Synced reports whether there is a copy at all.
func (c *Client) Synced() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.synced
}

// View calls fn with the control state, which it must neither keep nor change.
func (c *Client) View(fn func(*state.State)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fn(c.state)
}

// ID names the journal, its epoch and its site; nil before the first session.
func (c *Client) ID() (id uuid.UUID, epoch uint64, site string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.info.Journal, c.info.Epoch, c.info.Site
}

// Info is where the journal stood when it was heard last; without a session
// nobody is known to lead.
func (c *Client) Info() change.JournalInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	info := c.info
	if c.err != nil {
		info.Leader = ""
	}
	return info
}

// Superseded says where the journal went on, if that was heard of; nil while its seat is there.
func (c *Client) Superseded() *change.Superseded {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.info.Superseded
}

// Err says why there is no session; nil: there is one.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Propose has the journal apply a command and returns its journal index. The copy
// holds its effect by then.
func (c *Client) Propose(kind state.Kind, v any) (uint64, error) {
	return c.propose(kind, v, connectWait)
}

func (c *Client) propose(kind state.Kind, v any, patience time.Duration) (uint64, error) {
	command := state.Encode(kind, v)
	connect, deadline := time.After(patience), time.After(proposeTimeout)
	ch := make(chan change.Proposed, 1)
	for {
		changed := c.Changed()
		c.mu.Lock()
		conn, why := c.conn, c.err
		c.next++
		id := c.next
		if conn != nil {
			c.waiting[id] = ch
		}
		c.mu.Unlock()
		if conn != nil {
			if err := conn.Send(uint16(change.MsgPropose),
				change.Encode(change.Propose{ID: id, Command: command})); err != nil {
				conn.Close() // lost answers
			}
			return c.await(id, ch, deadline)
		}
		select {
		case <-changed:
		case <-connect:
			return 0, fail.New(fail.Retry, "propose to", "journal", why.Error()).
				WithHint("is a majority of the journal's members up?")
		}
	}
}

// Submit is Propose whose index does not matter, and which does not wait for a
// connection.
func (c *Client) Submit(kind state.Kind, v any) error {
	_, err := c.propose(kind, v, time.Second)
	return err
}

func (c *Client) await(id uint64, ch <-chan change.Proposed, deadline <-chan time.Time) (uint64, error) {
	select {
	case p := <-ch:
		return p.Index, p.Error.Err("", "")
	case <-deadline:
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
		return 0, fail.New(fail.Retry, "propose to", "journal", "no answer").
			WithHint("look whether it was done, and repeat it if not")
	}
}
