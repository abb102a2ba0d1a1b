package pki

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// TestDialNamesTLS: a member that listens in clear takes a handshake for nonsense, and
// closes.
func TestDialNamesTLS(t *testing.T) {
	ca, out := t.TempDir(), t.TempDir()
	if err := InitCA(ca, time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Issue(ca, out, Peer{Role: Agent, Name: "a"}, true, time.Now()); err != nil {
		t.Fatal(err)
	}
	files := Files{Cert: filepath.Join(out, "agent-a.pem"), Key: filepath.Join(out, "agent-a.key"),
		CA: filepath.Join(out, CAFile)}
	for name, answer := range map[string]string{"closed": "", "nonsense": "PLXT and more that is no TLS"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if c, err := l.Accept(); err == nil {
				_, _ = c.Read(make([]byte, 4096))
				_, _ = c.Write([]byte(answer))
				_ = c.Close()
			}
		}()
		_, err = files.Dial(t.Context(), l.Addr().String())
		if err == nil || !strings.Contains(fail.HintOf(err), "tls") || !fail.Is(err, fail.Retry) {
			t.Errorf("%s: %v, hint %q", name, err, fail.HintOf(err))
		}
		_ = l.Close()
		<-done
	}
}
