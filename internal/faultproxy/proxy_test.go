package faultproxy

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// setup returns a proxy to an echoing HTTP server, a client, and the count of
// the requests that reached the server.
func setup(t *testing.T) (*Proxy, *http.Client, *atomic.Int64) {
	t.Helper()
	var served atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		served.Add(1)
		_, _ = w.Write(body)
	}))
	t.Cleanup(srv.Close)
	p, err := NewHTTP(strings.TrimPrefix(srv.URL, "http://"), 1)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(func() {
		client.CloseIdleConnections()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p, client, &served
}

func put(ctx context.Context, p *Proxy, c *http.Client, body []byte) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+p.Addr()+"/x", bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, b, err
}

func mustPut(t *testing.T, p *Proxy, c *http.Client, body []byte) {
	t.Helper()
	code, got, err := put(t.Context(), p, c, body)
	if err != nil || code != 200 || !bytes.Equal(got, body) {
		t.Fatalf("put: %d, %d bytes, %v", code, len(got), err)
	}
}

func TestForward(t *testing.T) {
	p, c, _ := setup(t)
	for _, n := range []int{0, 1, 100, 1 << 20} {
		mustPut(t, p, c, make([]byte, n))
	}
}

func TestRefuse(t *testing.T) {
	p, c, served := setup(t)
	mustPut(t, p, c, []byte("x"))
	p.Set(Faults{Refuse: true})
	if _, _, err := put(t.Context(), p, c, []byte("x")); err == nil {
		t.Error("not refused")
	}
	p.Set(Faults{})
	mustPut(t, p, c, []byte("x"))
	if n := served.Load(); n != 2 {
		t.Errorf("the server saw %d requests", n)
	}
}

func TestStallEnds(t *testing.T) {
	p, c, served := setup(t)
	mustPut(t, p, c, []byte("x")) // so that an open connection stalls too
	p.Set(Faults{Stall: true})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := put(ctx, p, c, []byte("x")); err == nil {
		t.Error("did not stall")
	}
	if n := served.Load(); n != 1 {
		t.Errorf("the server saw %d requests", n)
	}
	done := make(chan error)
	go func() {
		_, _, err := put(t.Context(), p, c, []byte("y"))
		done <- err
	}()
	p.Set(Faults{})
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestDelay(t *testing.T) {
	p, c, _ := setup(t)
	p.Set(Faults{Delay: 30 * time.Millisecond})
	begin := time.Now()
	mustPut(t, p, c, []byte("x"))
	if d := time.Since(begin); d < 30*time.Millisecond {
		t.Errorf("took %v", d)
	}
}

func TestCutAfter(t *testing.T) {
	p, c, served := setup(t)
	p.Set(Faults{CutAfter: 50_000})
	if _, _, err := put(t.Context(), p, c, make([]byte, 1<<20)); err == nil {
		t.Error("the request was not cut")
	}
	if n := served.Load(); n != 0 {
		t.Errorf("the server saw %d whole requests", n)
	}
	if _, b, err := put(t.Context(), p, c, make([]byte, 40_000)); err == nil {
		t.Errorf("the reply was not cut: %d bytes", len(b))
	}
	if n := served.Load(); n != 1 {
		t.Errorf("the server saw %d whole requests", n)
	}
}

func TestDropReply(t *testing.T) {
	p, c, served := setup(t)
	p.Set(Faults{DropReply: 1})
	for want := int64(1); want <= 3; want++ {
		if _, _, err := put(t.Context(), p, c, []byte("x")); err == nil {
			t.Error("the reply was not dropped")
		}
		if n := served.Load(); n != want {
			t.Errorf("the server saw %d requests, want %d", n, want)
		}
	}
}

func TestStatus(t *testing.T) {
	p, c, served := setup(t)
	for _, status := range []int{503, 500, 403, 429} {
		p.Set(Faults{Status: status, StatusPart: 1})
		code, body, err := put(t.Context(), p, c, make([]byte, 100_000))
		if err != nil || code != status || !bytes.Contains(body, []byte("<Error>")) {
			t.Errorf("%d: %d, %q, %v", status, code, body, err)
		}
	}
	if n := served.Load(); n != 0 {
		t.Errorf("the server saw %d requests", n)
	}
	p.Set(Faults{Status: 503, StatusPart: 0.5})
	refused := 0
	for range 100 {
		code, _, err := put(t.Context(), p, c, nil)
		if err != nil {
			t.Fatal(err)
		}
		if code == 503 {
			refused++
		}
	}
	if refused < 30 || refused > 70 {
		t.Errorf("%d of 100 were refused, want about half", refused)
	}
}

func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	p, err := NewTCP(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	r := bufio.NewReader(c)
	for _, line := range []string{"one\n", "two\n"} {
		if _, err := io.WriteString(c, line); err != nil {
			t.Fatal(err)
		}
		if got, err := r.ReadString('\n'); got != line || err != nil {
			t.Fatalf("echo %q, %v", got, err)
		}
	}
	p.Set(Faults{CutAfter: 20})
	_, _ = io.WriteString(c, strings.Repeat("x", 100)+"\n")
	if got, err := r.ReadString('\n'); err == nil {
		t.Errorf("not cut: %q", got)
	}
}

// TestCloseWhileBusy closes with connections in every state.
func TestCloseWhileBusy(t *testing.T) {
	p, c, _ := setup(t)
	mustPut(t, p, c, []byte("x"))
	p.Set(Faults{Stall: true})
	done := make(chan error)
	go func() {
		_, _, err := put(t.Context(), p, c, []byte("y"))
		done <- err
	}()
	idle, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = idle.Close() }()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err == nil {
		t.Error("the request of a closed proxy went through")
	}
}
