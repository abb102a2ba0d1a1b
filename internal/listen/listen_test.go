package listen

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// failing is a listener whose first Accepts fail.
type failing struct {
	net.Listener
	errs []error
}

func (f *failing) Accept() (net.Conn, error) {
	if len(f.errs) > 0 {
		err := f.errs[0]
		f.errs = f.errs[1:]
		return nil, err
	}
	return f.Listener.Accept()
}

func TestPatientWaitsErrorsOut(t *testing.T) {
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &failing{Listener: raw}
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED,
		errors.New("of another kind")} {
		f.errs = append(f.errs, &net.OpError{Op: "accept", Err: e})
	}
	l := Patient(f, slog.New(slog.DiscardHandler))
	client, err := net.Dial("tcp", raw.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	c, err := l.Accept()
	if err != nil {
		t.Fatalf("a passing error ended the listener: %v", err)
	}
	_ = c.Close()

	for range 1000 { // until it is closed while it waits for a second
		f.errs = append(f.errs, &net.OpError{Op: "accept", Err: syscall.EMFILE})
	}
	ended := make(chan error)
	go func() {
		_, err := l.Accept()
		ended <- err
	}()
	_ = l.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed listener's Accept: %v", err)
	}
}

func TestPlaces(t *testing.T) {
	p := NewPlaces(4, 2)
	var ended []string
	enter := func(peer, name string) (leave func(), ok bool) {
		return p.Enter(peer, func() { ended = append(ended, name) })
	}
	must := func(peer, name string) func() {
		t.Helper()
		leave, ok := enter(peer, name)
		if !ok {
			t.Fatalf("%s found no place", name)
		}
		return leave
	}
	must("a", "a1")
	a2 := must("a", "a2")
	must("a", "a3") // at a1's cost
	must("", "x")
	y := must("", "y")
	if _, ok := enter("b", "b1"); ok {
		t.Error("a fifth got in")
	}
	must("a", "a4") // at a2's cost: the place is its own
	if got := strings.Join(ended, " "); got != "a1 a2" {
		t.Errorf("ended: %s", got)
	}
	a2() // too late, and again
	a2()
	y()
	must("b", "b1")
	if _, ok := enter("c", "c1"); ok {
		t.Error("a leave that was called twice made room twice")
	}
}

func TestLobbyLosesTheOldest(t *testing.T) {
	l := NewLobby(2)
	var ended []int
	leave := l.Enter(func() { ended = append(ended, 0) })
	for i := 1; i < 5; i++ {
		l.Enter(func() { ended = append(ended, i) })
	}
	leave() // of one that is gone already
	if len(ended) != 3 || ended[0] != 0 || ended[1] != 1 || ended[2] != 2 {
		t.Errorf("ended: %v", ended)
	}
}

func TestSparse(t *testing.T) {
	var b bytes.Buffer
	log := Sparse(slog.New(slog.NewTextHandler(&b, nil)))
	for range 1000 {
		log.With("remote", "r").Info("flood")
	}
	log.Info("another")
	if n := strings.Count(b.String(), "msg=flood"); n != linesPer {
		t.Errorf("%d lines of a flood", n)
	}
	if !strings.Contains(b.String(), "msg=another") {
		t.Error("a flood drowned another message")
	}
	b.Reset()
	r := slog.NewRecord(time.Now().Add(window), slog.LevelInfo, "flood", 0)
	if err := log.Handler().Handle(context.Background(), r); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "left_out=980") {
		t.Errorf("the line after a flood: %s", b.String())
	}
}
