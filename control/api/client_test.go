package api

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/pki"
)

// frozen is a socket whose process is stopped: the kernel takes connections and what is
// sent, and nobody answers.
func frozen(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return path
}

// TestFrozenDaemon: no verb waits for ever for a daemon that says nothing.
func TestFrozenDaemon(t *testing.T) {
	c := Dial(frozen(t))
	c.limit = 100 * time.Millisecond
	err := c.Call(t.Context(), VerbGroupList, List{}, &[]Group{})
	if !fail.Is(err, fail.Retry) || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("a call: %v", err)
	}
	c = DialTLS("127.0.0.1:0", pki.Files{})
	if c.limit != silenceLimit {
		t.Errorf("a daemon on another host may be silent for %v", c.limit)
	}
	c = Dial(frozen(t))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Call(ctx, VerbStatus, struct{}{}, &Status{}); !fail.Is(err, fail.Retry) || fail.HintOf(err) == "" {
		t.Errorf("a call with a deadline of its own: %v", err)
	}
}

// TestLongVerb: one that takes longer than a daemon may be silent ends well, since the
// daemon says meanwhile that it is at it.
func TestLongVerb(t *testing.T) {
	const took = 3 * beatEvery
	m := newMux(nil)
	query(m, "long", func(ctx context.Context, _ struct{}) (string, error) {
		select {
		case <-time.After(took):
			return "done", nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	})
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := http.Server{Handler: m}
	go func() { _ = s.Serve(l) }()
	defer s.Close()
	c := Dial(path)
	c.limit = took * 2 / 3
	var resp string
	if err := c.Call(t.Context(), "long", struct{}{}, &resp); err != nil || resp != "done" {
		t.Errorf("%q, %v", resp, err)
	}
}
