package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/transport"
)

const (
	sendTimeout = 30 * time.Second
	// windowAppends bounds the unacknowledged appends of a session. While it is
	// full, frames collect and travel together.
	windowAppends = 4
	maxReconnect  = 5 * time.Second
	// appendBytes is the size at which an append is full: Raft does best with 64 to
	// 256 KiB, and an entry must not stall the others.
	appendBytes = 512 << 10
)

// shipLoop keeps a session with the journal for ever: frames go out in WAL
// order, and after any failure again from where the journal says.
func (a *Agent) shipLoop(ctx context.Context) {
	wait := 10 * time.Millisecond
	for ctx.Err() == nil {
		start := time.Now()
		err := a.session(ctx)
		if ctx.Err() != nil {
			return
		}
		a.setShipError(err)
		if time.Since(start) > maxReconnect {
			wait = 10 * time.Millisecond
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		case <-a.wakeShip:
		}
		wait = min(2*wait, maxReconnect)
	}
}

func (a *Agent) setLive(ses *session) {
	a.mu.Lock()
	a.live = ses
	a.mu.Unlock()
}

func (a *Agent) setShipError(err error) {
	a.mu.Lock()
	same := a.shipErr != nil && err != nil && a.shipErr.Error() == err.Error()
	a.shipErr = err
	a.mu.Unlock()
	if err != nil && !same {
		a.opts.Logger.Warn("journal session ended; reconnecting", "err", err)
	}
}

// session is one connection's life.
type session struct {
	a       *Agent
	conn    *transport.Conn
	copies  bool // frames travel with their bodies
	streams map[change.StreamID]*stream
	window  chan struct{}
	mu      sync.Mutex
	sent    []inflightAppend // not yet committed
}

// inflightAppend is one append on its way: the window's place that it holds is free
// when the journal has committed last.
type inflightAppend struct {
	stream *stream
	last   uint64
}

func (a *Agent) session(ctx context.Context) error {
	raw, err := a.opts.Dial(ctx)
	if err != nil {
		if fe := (*fail.Error)(nil); errors.As(err, &fe) {
			return err // it says so itself
		}
		return fail.Wrap(fail.Retry, "connect to", "journal", err)
	}
	conn := transport.NewConn(raw, sendTimeout)
	if a.opts.Heartbeats {
		conn.SetIdleLimit(change.BeatLimit)
	}
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, conn.Close) // unblocks the receiver
	defer stop()
	defer conn.Close()

	ses := &session{a: a, conn: conn, streams: make(map[change.StreamID]*stream),
		window: make(chan struct{}, windowAppends)}
	restart := a.restartShip()
	start, err := ses.open()
	if err != nil {
		if fail.Is(err, fail.Refused) {
			a.opts.SetLeader("")
		}
		return err
	}
	a.setShipError(nil)
	a.setLive(ses)
	defer a.setLive(nil)
	g.Go(func() error { return ses.receive() })
	g.Go(func() error { return ses.send(ctx, start) })
	g.Go(func() error { // a new, paused or resumed stream needs a new session
		select {
		case <-restart:
			wake(a.wakeShip)
			return errRestart
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	err = g.Wait()
	if err == errRestart {
		return nil
	}
	a.opts.SetLeader("") // it may lead elsewhere by now
	return err
}

var errRestart = fail.New(fail.Retry, "", "", "streams changed")

// open introduces the agent and takes leases; it returns the WAL index to send
// from.
func (ses *session) open() (uint64, error) {
	hello := change.Hello{Agent: ses.a.opts.Name, Reference: ses.a.opts.Reference}
	var welcome change.Welcome
	err := ses.ask(change.MsgHello, hello, change.MsgWelcome, &welcome)
	if err == nil {
		err = welcome.Error.Err("greet", "journal")
	}
	if err != nil {
		ses.a.opts.SetLeader(welcome.Leader)
		return 0, err
	}
	if ses.a.opts.Heartbeats {
		if err := ses.a.PinJournal(welcome.Journal); err != nil {
			return 0, err
		}
	}
	ses.copies = !welcome.Reference
	start := ses.a.wal.Durable() + 1
	for _, s := range ses.a.snapshotStreams() {
		if s.paused() {
			continue
		}
		var at change.Attached
		if err := ses.ask(change.MsgAttach, change.Attach{Stream: s.conf.ID}, change.MsgAttached, &at); err != nil {
			return 0, err
		}
		from, err := ses.enter(s, &at)
		if err != nil && !fail.Is(err, fail.Fenced) && !fail.Is(err, fail.Damaged) {
			return 0, err // passing: the next session tries again
		}
		if err != nil {
			ses.a.opts.Logger.Error("stream cannot go on", "group", s.conf.Group, "err", err)
			continue
		}
		ses.streams[s.conf.ID] = s
		start = min(start, from)
	}
	return start, nil
}

func (ses *session) ask(typ change.MessageType, req any, want change.MessageType, resp any) error {
	if err := ses.conn.Send(uint16(typ), change.Encode(req)); err != nil {
		return err
	}
	for {
		got, b, err := ses.conn.Recv()
		if err != nil {
			return err
		}
		switch change.MessageType(got) {
		case want:
			return change.Decode(b, resp)
		case change.MsgAck: // of a stream attached just before
			if err := ses.ack(b); err != nil {
				return err
			}
		case change.MsgBeat:
		default:
			return fail.New(fail.Damaged, "receive from", "journal",
				fmt.Sprintf("message type %d in place of %d", got, want))
		}
	}
}

// receive takes acknowledgements until the connection ends.
func (ses *session) receive() error {
	for {
		typ, b, err := ses.conn.Recv()
		if err != nil {
			return err
		}
		if change.MessageType(typ) == change.MsgBeat {
			continue
		}
		if change.MessageType(typ) != change.MsgAck {
			return fail.New(fail.Damaged, "receive from", "journal", fmt.Sprintf("unexpected message type %d", typ))
		}
		if err := ses.ack(b); err != nil {
			return err
		}
	}
}

func (ses *session) ack(b []byte) error {
	var ack change.Ack
	if err := change.Decode(b, &ack); err != nil {
		return err
	}
	s := ses.streams[ack.Stream]
	if s == nil {
		return nil
	}
	if err := ack.Fault.Err("extend", "group "+s.conf.Group); err != nil {
		if fail.Is(err, fail.Fenced) {
			s.setFault(err)
			ses.a.opts.Logger.Error("stream is fenced", "group", s.conf.Group, "err", err)
		}
		return err
	}
	s.acked(&ack)
	ses.settle(s, ack.Committed.LSN)
	return nil
}

// settle gives back the window's places of appends that are committed.
func (ses *session) settle(s *stream, committed uint64) {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	keep := ses.sent[:0]
	for _, m := range ses.sent {
		if m.stream == s && m.last <= committed {
			<-ses.window
			continue
		}
		keep = append(keep, m)
	}
	ses.sent = keep
}

// send reads the WAL from start on and appends frames to the journal. A frame
// leaves only when it is durable here: the reader sees no others.
func (ses *session) send(ctx context.Context, start uint64) error {
	r := ses.a.wal.NewReader(max(start, ses.a.wal.First()))
	var batch change.Append
	var owner *stream
	bytes := 0
	flush := func() error {
		if len(batch.Items) == 0 {
			return nil
		}
		select {
		case ses.window <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		owner.mu.Lock()
		last := owner.ship.sent
		batch.Lease = owner.ship.lease
		owner.mu.Unlock()
		ses.mu.Lock()
		ses.sent = append(ses.sent, inflightAppend{owner, last})
		ses.mu.Unlock()
		err := ses.conn.Send(uint16(change.MsgAppend), batch.Parts()...)
		batch.Items, bytes = batch.Items[:0], 0
		return err
	}
	var p pacer
	for next := start; ; {
		if len(batch.Items) > 0 && ses.a.wal.Durable() < next {
			if p.wait(ctx, ses.a) {
				continue
			}
			if err := flush(); err != nil {
				return err
			}
			p.sent()
		}
		index, frame, err := r.Next(ctx)
		if err != nil {
			return err
		}
		next = index + 1
		p.frame()
		h, _, err := change.ParseHeader(frame)
		if err != nil {
			return fail.At("read WAL entry", fmt.Sprint(index), err)
		}
		s := ses.streams[h.Stream]
		if s == nil {
			continue
		}
		if ok, err := s.advance(&h); err != nil {
			return err
		} else if !ok {
			continue
		}
		full := len(batch.Items) == change.MaxAppendItems || bytes+len(frame) > appendBytes
		if owner != s || full {
			if err := flush(); err != nil {
				return err
			}
			owner, batch.Stream = s, h.Stream
		}
		s.mu.Lock()
		s.ship.sent = h.LastLSN
		s.mu.Unlock()
		item := change.AppendItem{Ref: index, Header: slices.Clone(frame[:change.HeaderBytes])}
		if ses.copies {
			item.Body = slices.Clone(frame[change.HeaderBytes:])
			bytes += len(frame)
		}
		batch.Items = append(batch.Items, item)
	}
}
