package adminhttp

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// serveTest serves handler on a unix socket and returns how to connect to it.
func serveTest(t *testing.T, handler http.Handler) func() net.Conn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	h := HTTP{Log: slog.New(slog.DiscardHandler), Spawn: func(part func() error) {
		wg.Go(func() {
			if err := part(); err != nil {
				t.Errorf("it ended: %v", err)
			}
		})
	}}
	h.Serve(l, handler)
	t.Cleanup(func() { h.Close(); wg.Wait() })
	return func() net.Conn {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
}

func get(t *testing.T, dial func() net.Conn, ctx context.Context) (*http.Response, error) {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return dial(), nil }}}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://pollux/", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	return c.Do(r)
}

// TestSilentClients: those that connect and say nothing, half a header, or nothing more
// keep nobody out.
func TestSilentClients(t *testing.T) {
	for _, say := range []string{"", "POST / HTTP/1.1\r\nHost", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"} {
		dial := serveTest(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "answer")
		}))
		first := dial()
		for i := range maxSilent + 1 {
			c := first
			if i > 0 {
				c = dial()
			}
			if _, err := io.WriteString(c, say); err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(say, "\r\n\r\n") { // idle once it is answered
				if _, err := c.Read(make([]byte, 1000)); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = first.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.Copy(io.Discard, first); err != nil {
			t.Errorf("after %q: the oldest was not ended: %v", say, err)
		}
		resp, err := get(t, dial, t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
}

// TestTooManyRequests: there is a bound, those beyond it are told, and a place is free
// when its client has gone.
func TestTooManyRequests(t *testing.T) {
	in := make(chan struct{}, maxRequests)
	release := make(chan struct{})
	dial := serveTest(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		in <- struct{}{}
		select {
		case <-r.Context().Done():
		case <-release:
		}
	}))
	status := func() int {
		resp, err := get(t, dial, t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	for range maxRequests {
		go func() {
			if resp, err := get(t, dial, ctx); err == nil {
				_ = resp.Body.Close()
			}
		}()
	}
	for range maxRequests {
		<-in
	}
	if got := status(); got != http.StatusServiceUnavailable {
		t.Errorf("one request more: %d", got)
	}
	leave()
	close(release)
	for end := time.Now().Add(10 * time.Second); status() != http.StatusOK; { // the server learns of it by itself
		if time.Now().After(end) {
			t.Fatal("the places of clients that have gone stay taken")
		}
	}
}

// TestSlowBody: a request whose body does not come does not stay.
func TestSlowBody(t *testing.T) {
	dial := serveTest(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was carried out") }))
	c := dial()
	if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(2 * bodyTimeout))
	b, err := io.ReadAll(c)
	if err != nil || !strings.Contains(string(b), "400 Bad Request") {
		t.Errorf("%q, %v", b, err)
	}
}
