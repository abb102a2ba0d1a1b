package nbd

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/block/blocktest"
)

// Shutdown completes and answers what was received, and closes idle clients.
func TestShutdown(t *testing.T) {
	mem := blocktest.NewMem(testSize)
	s, socket := serve(t, Options{Exports: exports{"": mem}})
	idle, busy := goWire(t, socket, "", false), goWire(t, socket, "", false)
	entered, release := make(chan struct{}), make(chan struct{})
	mem.SetHook(func(context.Context, blocktest.Op, int64, int64) error {
		entered <- struct{}{}
		<-release
		return nil
	})
	var once sync.Once
	answer := func() { once.Do(func() { close(release) }) }
	t.Cleanup(answer) // or a failure would hang
	busy.write(requestMessage(0, cmdFlush, 1, 0, 0))
	<-entered
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(context.Background()) }()
	idle.wantClosed()
	if _, err := net.Dial("unix", socket); err == nil {
		t.Error("still listening")
	}
	answer()
	if e := busy.simple(1); e != nbdOK {
		t.Errorf("error %d", e)
	}
	busy.wantClosed()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// drainAfter runs do just before a connection that has negotiated loses its
// deadline.
type drainAfter struct {
	net.Conn
	do func()
}

func (d *drainAfter) SetDeadline(t time.Time) error {
	if t.IsZero() {
		d.do()
	}
	return d.Conn.SetDeadline(t)
}

func (d *drainAfter) SetWriteDeadline(t time.Time) error {
	if t.IsZero() {
		d.do()
	}
	return d.Conn.SetWriteDeadline(t)
}

// A connection that is drained in the moment in which its negotiation ends is
// closed like any other.
func TestShutdownAfterNegotiation(t *testing.T) {
	s := New(Options{Exports: exports{"": blocktest.NewMem(testSize)}})
	client, server := net.Pipe()
	defer client.Close()
	s.start(&drainAfter{server, func() {
		for _, c := range s.snapshot() {
			c.drain()
		}
	}}, s.own)
	w := &wire{t: t, nc: client}
	_ = client.SetDeadline(time.Now().Add(5 * time.Second))
	w.read(18)
	w.write(be32(handshakeFixedNewstyle | handshakeNoZeroes))
	w.option(optGo, goData(""))
	w.wantReplies(optGo, repInfo, repAck)
	w.wantClosed()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// A device that never answers cannot hold up Shutdown beyond its context, nor
// Close at all.
func TestShutdownOfStuckDevice(t *testing.T) {
	for _, graceful := range []bool{true, false} {
		mem := blocktest.NewMem(testSize)
		s, socket := serve(t, Options{Exports: exports{"": mem}})
		w := goWire(t, socket, "", false)
		entered := make(chan struct{}, 1)
		mem.SetHook(func(ctx context.Context, _ blocktest.Op, _, _ int64) error {
			entered <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		})
		w.write(requestMessage(0, cmdFlush, 1, 0, 0))
		<-entered
		if !graceful {
			_ = s.Close()
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown: %v", err)
		}
		cancel()
	}
}

func TestServeEndsWithContext(t *testing.T) {
	s := New(Options{Exports: exports{}})
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, l) }()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	_ = s.Close()
	l, _ = net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err := s.Serve(context.Background(), l); err != nil {
		t.Errorf("Serve after Close: %v", err)
	}
}

// Detach answers ESHUTDOWN to what is running and to all that follows, and
// leaves other devices alone.
func TestDetach(t *testing.T) {
	a, b := blocktest.NewMem(testSize), blocktest.NewMem(testSize)
	s, socket := serve(t, Options{Exports: exports{"a": a, "b": b}})
	wa, wb := goWire(t, socket, "a", false), goWire(t, socket, "b", false)
	entered := make(chan struct{}, 1)
	a.SetHook(func(ctx context.Context, _ blocktest.Op, _, _ int64) error {
		entered <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	})
	wa.write(requestMessage(0, cmdFlush, 1, 0, 0))
	<-entered
	s.Detach(a)
	if e := wa.simple(1); e != nbdESHUTDOWN {
		t.Errorf("running flush: error %d", e)
	}
	for _, n := range []uint32{512, 1 << 20} {
		wa.write(append(requestMessage(0, cmdWrite, 2, 0, n), pattern(int(n), 1)...))
		if e := wa.simple(2); e != nbdESHUTDOWN {
			t.Errorf("later write: error %d", e)
		}
	}
	wb.alive()
}

// After NBD_CMD_DISC all that came before it is answered.
func TestDisconnectCompletesRequests(t *testing.T) {
	mem := blocktest.NewMem(testSize)
	mem.SetHook(func(_ context.Context, op blocktest.Op, _, _ int64) error {
		time.Sleep(10 * time.Millisecond)
		return nil
	})
	_, socket := serve(t, Options{Exports: exports{"": mem}})
	w := goWire(t, socket, "", false)
	msg := append(requestMessage(cmdFlagFUA, cmdWrite, 1, 0, 512), pattern(512, 9)...)
	msg = append(msg, requestMessage(0, cmdDisc, 2, 0, 0)...)
	w.write(msg)
	if e := w.simple(1); e != nbdOK {
		t.Errorf("error %d", e)
	}
	w.wantClosed()
	wantBytes(t, "durable", mem.Durable()[:512], pattern(512, 9))
}
