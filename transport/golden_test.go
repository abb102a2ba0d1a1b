package transport

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/golden"
)

// TestGoldenMessage: a message on the wire, head and payload, is what it was.
func TestGoldenMessage(t *testing.T) {
	near, far := net.Pipe()
	sent := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(far)
		sent <- b
	}()
	c := NewConn(near, time.Minute)
	if err := c.Send(4711, []byte(`{"agent":`), []byte(`"host-a"}`)); err != nil {
		t.Fatal(err)
	}
	c.Close()
	b := golden.Same(t, "message", <-sent)

	near, far = net.Pipe()
	go func() {
		_, _ = far.Write(b)
		_ = far.Close()
	}()
	c = NewConn(near, time.Minute)
	defer c.Close()
	typ, payload, err := c.Recv()
	if err != nil || typ != 4711 || !bytes.Equal(payload, []byte(`{"agent":"host-a"}`)) {
		t.Errorf("message %d %q, %v", typ, payload, err)
	}
}
