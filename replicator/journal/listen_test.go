package journal

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/pki"
	"github.com/pollux-dr/pollux/transport"
)

// scarce is a listener that finds no file descriptor for a connection when it is told.
type scarce struct {
	net.Listener
	fail atomic.Bool
}

func (l *scarce) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil && l.fail.CompareAndSwap(true, false) {
		_ = c.Close()
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return c, err
}

// serveAt serves a journal on another listener, until the test ends.
func serveAt(t *testing.T, j *Journal, l net.Listener) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- j.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

// call connects and, where it says a hello, waits for the answer.
func call(t *testing.T, dial func() (net.Conn, error), hello bool) (*transport.Conn, error) {
	t.Helper()
	raw, err := dial()
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = raw.Close() })
	_ = raw.SetDeadline(time.Now().Add(5 * time.Second))
	conn := transport.NewConn(raw, time.Second)
	if !hello {
		return conn, nil
	}
	if err := conn.Send(uint16(change.MsgHello), change.Encode(change.Hello{Agent: "a"})); err != nil {
		return conn, err
	}
	_, _, err = conn.Recv()
	return conn, err
}

// TestAcceptErrors: a want of file descriptors is waited out, whatever sessions there are.
func TestAcceptErrors(t *testing.T) {
	c := newClusterTest(t, 1)
	c.form()
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &scarce{Listener: raw}
	serveAt(t, c.leader(), l)
	dial := func() (net.Conn, error) { return net.Dial("tcp", raw.Addr().String()) }
	if _, err := call(t, dial, true); err != nil { // a session that stays
		t.Fatal(err)
	}
	l.fail.Store(true)
	_, _ = call(t, dial, true) // finds no descriptor
	if _, err := call(t, dial, true); err != nil {
		t.Errorf("after one failed accept nobody is served any more: %v", err)
	}
}

// TestListenerLost: a journal whose listener is gone says so, sessions or none.
func TestListenerLost(t *testing.T) {
	c := newClusterTest(t, 1)
	c.form()
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.leader().Serve(t.Context(), raw) }()
	if _, err := call(t, func() (net.Conn, error) { return net.Dial("tcp", raw.Addr().String()) }, true); err != nil {
		t.Fatal(err)
	}
	_ = raw.Close()
	select {
	case err := <-done:
		if err == nil {
			t.Error("it is no error")
		}
	case <-time.After(10 * time.Second):
		t.Error("Serve does not return, so that nobody knows")
	}
}

// TestSessionsOfACertificate: one certificate's holder loses its own oldest sessions when
// it opens too many, and nobody else's.
func TestSessionsOfACertificate(t *testing.T) {
	c := newClusterTest(t, 1)
	c.form()
	dir := t.TempDir()
	now := time.Now()
	if err := pki.InitCA(dir, now); err != nil {
		t.Fatal(err)
	}
	files := func(p pki.Peer) pki.Files {
		cert, _, err := pki.Issue(dir, dir, p, true, now)
		if err != nil {
			t.Fatal(err)
		}
		return pki.Files{Cert: cert, Key: cert[:len(cert)-len(".pem")] + ".key", CA: dir + "/" + pki.CAFile}
	}
	l, err := files(pki.Peer{Role: pki.Journal, Name: "j"}).Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveAt(t, c.leader(), l)
	hello := func(name string) *transport.Conn {
		f := files(pki.Peer{Role: pki.Agent, Name: name})
		raw, err := f.Dial(t.Context(), l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = raw.Close() })
		_ = raw.SetDeadline(time.Now().Add(20 * time.Second))
		conn := transport.NewConn(raw, time.Second)
		err = conn.Send(uint16(change.MsgHello), change.Encode(change.Hello{Agent: name}))
		if err == nil {
			_, _, err = conn.Recv()
		}
		if err != nil {
			t.Fatalf("agent %s: %v", name, err)
		}
		return conn
	}
	other := hello("b")
	first := hello("a")
	for range maxPerPeer {
		hello("a")
	}
	for err == nil { // beats, until it has ended
		_, _, err = first.Recv()
	}
	if _, _, err := other.Recv(); err != nil { // a beat
		t.Errorf("another certificate's session: %v", err)
	}
}

// TestSilentConnections: those who never say what they want keep nobody out.
func TestSilentConnections(t *testing.T) {
	c := newClusterTest(t, 1)
	c.form()
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveAt(t, c.leader(), raw)
	dial := func() (net.Conn, error) { return net.Dial("tcp", raw.Addr().String()) }
	first, err := call(t, dial, false)
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxNewcomers {
		if _, err := call(t, dial, false); err != nil {
			t.Fatal(fmt.Sprint(i, " ", err))
		}
	}
	if _, err := call(t, dial, true); err != nil {
		t.Errorf("silent connections keep others out: %v", err)
	}
	if _, _, err := first.Recv(); err == nil {
		t.Error("the first of them is still there")
	}
}
