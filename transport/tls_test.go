package transport

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// TestOneSideOfTLS: where one end speaks TLS and the other does not, both name it.
func TestOneSideOfTLS(t *testing.T) {
	says := func(what string, err error, words string) {
		t.Helper()
		if err == nil || !strings.Contains(fail.Explain(err), words) {
			t.Errorf("%s: %v, hint %q; it should say %q", what, err, fail.HintOf(err), words)
		}
	}
	x, y := net.Pipe()
	go func() {
		_ = tls.Client(x, &tls.Config{InsecureSkipVerify: true}).Handshake()
	}()
	a := NewConn(y, time.Minute)
	_, _, err := a.Recv()
	a.Close()
	_ = x.Close()
	says("a client's TLS", err, "the peer speaks TLS")

	x, y = net.Pipe()
	client := NewConn(x, time.Minute)
	server := NewConn(tls.Server(y, &tls.Config{}), time.Minute)
	sent := make(chan struct{})
	go func() { _ = client.Send(1, []byte("hello")); close(sent) }()
	_, _, err = server.Recv()
	server.Close()
	<-sent
	says("no TLS from a client", err, "the peer does not speak TLS")
	client.Close()

	silent := NewConn(closes{}, time.Minute)
	if err := silent.Send(1, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	_, _, err = silent.Recv()
	says("closed before an answer", err, "tls")
	if !errors.Is(err, ErrClosed) {
		t.Errorf("%v is not ErrClosed", err)
	}
	_, _, err = receiver(nil).Recv()
	if strings.Contains(fail.Explain(err), "tls") {
		t.Errorf("a connection that was never used: %v", err)
	}
}

// closes takes all and closes without an answer.
type closes struct{ net.Conn }

func (closes) Read([]byte) (int, error)         { return 0, io.EOF }
func (closes) Write(b []byte) (int, error)      { return len(b), nil }
func (closes) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (closes) SetWriteDeadline(time.Time) error { return nil }
