package systemtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/nbdclient"
)

const (
	crowdClients  = 4
	registerBytes = 4096
	crowdVolume   = "4MiB"
)

// crowd are clients of the registers of a volume, and all that they were answered.
type crowd struct {
	t             *testing.T
	began         time.Time
	group, volume string
	value         atomic.Uint32 // the newest that was written
}

func newCrowd(t *testing.T, group, volume string) *crowd {
	return &crowd{t: t, began: time.Now(), group: group, volume: volume}
}

func (c *crowd) now() int64 { return time.Since(c.began).Nanoseconds() }

// place of a register: some are neighbours, others are far away.
func registerAt(reg int) int64 { return int64(reg/2)<<20 + int64(reg%2)*registerBytes }

// registerBlock is what a register holds.
func registerBlock(value uint32) []byte {
	b := make([]byte, registerBytes)
	for i := 0; value != 0 && i < len(b); i += 8 {
		binary.LittleEndian.PutUint32(b[i:], value)
		binary.LittleEndian.PutUint32(b[i+4:], uint32(i))
	}
	return b
}

// readRegister returns the value of a register, which is one write's as a whole.
func readRegister(conn *nbdclient.Conn, reg int) (uint32, error) {
	b := make([]byte, registerBytes)
	if err := conn.ReadAt(context.Background(), b, registerAt(reg)); err != nil {
		return 0, err
	}
	value := binary.LittleEndian.Uint32(b)
	if !bytes.Equal(b, registerBlock(value)) {
		return 0, &wrong{fmt.Sprintf("register %d is torn: it begins with %x, of write %d", reg, b[:16], value)}
	}
	return value, nil
}

// registersOf reads all of them, while nobody writes.
func registersOf(t *testing.T, conn *nbdclient.Conn) (values [registers]uint32) {
	t.Helper()
	for reg := range values {
		var err error
		if values[reg], err = readRegister(conn, reg); err != nil {
			t.Fatal(err)
		}
	}
	return values
}

// shift is what the crowd does at one seat, until it is stopped or all have lost their connection.
type shift struct {
	*crowd
	seat   *place
	cancel context.CancelFunc
	done   chan struct{} // closed when all clients have ended
	// watched is how many wait for what the clients do.
	watched atomic.Int32
	conns   []*nbdclient.Conn

	mu      sync.Mutex
	ops     []regOp
	under   [crowdClients]regOp // way; call 0 is none
	durable uint64              // the newest LSN that the seat said to be in the far store
	bad     error
}

// work starts a shift at a seat.
func (c *crowd) work(p *place, r *rand.Rand) *shift {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	s := &shift{crowd: c, seat: p, cancel: cancel, done: make(chan struct{})}
	var clients sync.WaitGroup
	for client := range crowdClients {
		conn, rr := p.dial(c.volume), rand.New(rand.NewPCG(r.Uint64(), 0))
		s.conns = append(s.conns, conn)
		clients.Go(func() { s.client(ctx, client, conn, rr) })
	}
	var sampler sync.WaitGroup
	sampler.Go(func() { s.sample(ctx) })
	go func() {
		clients.Wait()
		cancel()
		sampler.Wait()
		close(s.done)
	}()
	return s
}

// client sends one request at a time, until one has no answer.
func (s *shift) client(ctx context.Context, client int, conn *nbdclient.Conn, r *rand.Rand) {
	for ctx.Err() == nil {
		pause := 50 // what they do meanwhile has to be checked, and makes the log longer
		if s.watched.Load() > 0 {
			pause = 8
		}
		time.Sleep(time.Duration(r.IntN(pause)) * time.Millisecond)
		o := regOp{client: client, reg: r.IntN(registers)}
		switch p := r.IntN(100); {
		case p < 10:
			o.kind = regFlush
		case p < 50:
			o.kind, o.value = regWrite, s.value.Add(1)
		}
		o.call = s.crowd.now()
		s.mu.Lock()
		s.under[client] = o
		s.mu.Unlock()
		err := s.ask(conn, &o)
		o.ret, o.unknown = s.crowd.now(), err != nil
		s.mu.Lock()
		s.ops = append(s.ops, o)
		s.under[client] = regOp{}
		if bad := (*wrong)(nil); errors.As(err, &bad) {
			s.bad = bad
		}
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (s *shift) ask(conn *nbdclient.Conn, o *regOp) (err error) {
	ctx := context.Background() // a request cannot be taken back
	switch o.kind {
	case regFlush:
		return conn.Flush(ctx)
	case regWrite:
		return conn.WriteAt(ctx, registerBlock(o.value), registerAt(o.reg), 0)
	default:
		o.value, err = readRegister(conn, o.reg)
		return err
	}
}

// sample asks the seat now and then for its newest LSN, which counts the writes.
func (s *shift) sample(ctx context.Context) {
	for ctx.Err() == nil {
		o := regOp{kind: regLSN, client: crowdClients, call: s.crowd.now()}
		st, err := s.seat.tryStatus()
		g, gerr := groupOf(st, s.group)
		if err == nil && gerr == nil && st.Standby == nil {
			o.lsn, o.ret = g.LastLSN, s.crowd.now()
			s.mu.Lock()
			s.ops, s.durable = append(s.ops, o), max(s.durable, g.DurableLSN)
			s.mu.Unlock()
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// handing notes that a hand-over begins.
func (s *shift) handing() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ops = append(s.ops, regOp{kind: regMark, client: crowdClients + 1, call: s.crowd.now(), unknown: true})
}

func (s *shift) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ops)
}

func (s *shift) durableLSN() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.durable
}

// progress waits for n more answers.
func (s *shift) progress(n int) {
	s.t.Helper()
	s.watched.Add(1)
	defer s.watched.Add(-1)
	want := s.count() + n
	until(s.t, time.Minute, "the clients go on", func() error {
		if got := s.count(); got < want {
			return fmt.Errorf("%d answers, want %d", got, want)
		}
		return nil
	})
}

// flushing waits until a flush that was sent after a moment has no answer yet.
func (s *shift) flushing(after int64) {
	s.t.Helper()
	s.watched.Add(1)
	defer s.watched.Add(-1)
	until(s.t, time.Minute, "a flush waits", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, o := range s.under {
			if o.kind == regFlush && o.call > after {
				return nil
			}
		}
		return errors.New("none does")
	})
}

// ended waits until all clients have lost their connection.
func (s *shift) ended() {
	s.t.Helper()
	select {
	case <-s.done:
	case <-time.After(time.Minute):
		s.t.Fatalf("the clients at %s are neither answered nor disconnected", s.seat.name)
	}
	if s.bad != nil {
		s.t.Fatal(s.bad)
	}
}

// stop ends the clients, whose requests are answered.
func (s *shift) stop() {
	s.t.Helper()
	s.cancel()
	s.ended()
}

// look reads everything at a seat, while nobody writes.
func (c *crowd) look(p *place) point {
	c.t.Helper()
	conn := p.dial(c.volume)
	defer conn.Close()
	return point{p.group(c.group).LastLSN, registersOf(c.t, conn)}
}
