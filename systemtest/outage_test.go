package systemtest

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/faultproxy"
	"github.com/pollux-dr/pollux/internal/s3test"
)

// startStore runs a real S3 server with a bucket.
func startStore(t *testing.T, kind string) *s3test.Server {
	t.Helper()
	srv, err := s3test.StartVerbose(t.Context(), kind, t.TempDir(), func(m string) { t.Log(m) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Stop() })
	if err := srv.CreateBucket(t.Context(), "remote"); err != nil {
		t.Fatal(err)
	}
	return srv
}

func s3Conf(srv *s3test.Server, endpoint string) siteConf {
	return siteConf{url: "s3://remote/journal1", endpoint: endpoint, credentials: srv.CredentialsFile}
}

// TestStoreOutage takes the store away in every way under load: clients see no
// error, the status says what is wrong, and in the end nothing is missing.
func TestStoreOutage(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	srv := startStore(t, s3test.VersityGW)
	proxy, err := faultproxy.NewHTTP(strings.TrimPrefix(srv.Endpoint, "http://"), r.Uint64())
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	s := newSite(t, s3Conf(srv, "http://"+proxy.Addr()))
	s.mustStart()
	s.verb("group", "create", "g", "--rpo-target", "1")
	s.verb("volume", "create", "v", "--group", "g", "--size", "16MiB")
	w := newWriter(s, "g", "v", exactBytes, r)
	w.pace = 2 * time.Millisecond
	w.connect()
	stop := w.background()

	for range 3 {
		if err := srv.Kill(); err != nil {
			t.Fatal(err)
		}
		s.mustLag("faraway")
		if err := srv.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.mustRecover()
	}
	for _, f := range []struct {
		name string
		faultproxy.Faults
		lags bool   // nothing comes through
		why  string // what the status then says
	}{
		{"stall", faultproxy.Faults{Stall: true}, true, ""}, // see TestStalledStoreIsNamed
		{"refuse", faultproxy.Faults{Refuse: true}, true, "faraway"},
		{"503", faultproxy.Faults{Status: http.StatusServiceUnavailable, StatusPart: 1}, true, "faraway"},
		{"403", faultproxy.Faults{Status: http.StatusForbidden, StatusPart: 1}, true, "faraway"},
		{"half 500", faultproxy.Faults{Status: http.StatusInternalServerError, StatusPart: 0.5}, false, ""},
		{"lost replies", faultproxy.Faults{DropReply: 0.5}, false, ""},
		{"cut", faultproxy.Faults{CutAfter: 300 << 10}, false, ""},
		{"slow", faultproxy.Faults{Delay: 200 * time.Millisecond}, false, ""},
	} {
		t.Log("fault:", f.name)
		proxy.Set(f.Faults)
		if f.lags {
			s.mustLag(f.why)
		}
		w.progress(200)
		proxy.Set(faultproxy.Faults{})
		s.mustRecover()
	}
	stop()
	w.verify()
	s.drained("g", time.Minute)
	if lsn := w.checkNewest(); lsn != w.h.lsn {
		t.Fatalf("the newest point is LSN %d, want %d", lsn, w.h.lsn)
	}
	w.checkRestore(r.Uint64N(w.h.lsn), r.Uint64N(w.h.lsn))
}

// mustLag waits until the status says that group g is behind, and why.
func (s *site) mustLag(why string) {
	s.t.Helper()
	until(s.t, 15*time.Second, "the status tells of the outage", func() error {
		g := s.group("g")
		if (g.State == "Lagging" || g.State == "Throttled") && strings.Contains(g.Reason, why) {
			return nil
		}
		return fmt.Errorf("state %s, reason %q", g.State, g.Reason)
	})
}

func (s *site) mustRecover() {
	s.t.Helper()
	until(s.t, time.Minute, "replication goes on", func() error {
		if g := s.group("g"); g.State != "Replicating" {
			return fmt.Errorf("state %s, reason %q, lag %v", g.State, g.Reason, g.LagSeconds)
		}
		return nil
	})
}

// TestStalledStoreIsNamed: a store that takes connections and never answers is
// the hardest fault to see from outside, so the status has to name it, long
// before a request times out.
func TestStalledStoreIsNamed(t *testing.T) {
	srv := startStore(t, s3test.VersityGW)
	proxy, err := faultproxy.NewHTTP(strings.TrimPrefix(srv.Endpoint, "http://"), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	s := newSite(t, s3Conf(srv, "http://"+proxy.Addr()))
	s.mustStart()
	s.verb("group", "create", "g", "--rpo-target", "1")
	s.verb("volume", "create", "v", "--group", "g", "--size", "1MiB")
	s.drained("g", time.Minute)
	proxy.Set(faultproxy.Faults{Stall: true})
	if err := s.dial("v").WriteAt(t.Context(), []byte("x"), 0, 0); err != nil {
		t.Fatal(err)
	}
	s.mustLag("faraway")
}

// TestFullWAL keeps the store away until the WAL's budget is used up: writers
// block, without an error and without losing anything, even if the agent is
// killed then; and all goes on when the store is back.
func TestFullWAL(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	srv := startStore(t, s3test.VersityGW)
	c := s3Conf(srv, srv.Endpoint)
	c.walBudget, c.memory = "16MiB", "8MiB"
	s := newSite(t, c)
	s.mustStart()
	s.volume("g", "v", "16MiB")
	w := newWriter(s, "g", "v", exactBytes, r)
	w.connect()
	s.drained("g", time.Minute)
	if err := srv.Kill(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- w.run(t.Context()) }()
	w.mustBlock("faraway")
	s.agent.Kill()
	if err := <-done; err == nil {
		t.Fatal("the writer did not notice that the agent was killed")
	}
	s.mustStart() // with a full WAL, and no store
	w.connect()
	w.settle()
	w.verify()
	stop := w.background()
	w.mustBlock("faraway")
	before := w.ops.Load()
	if err := srv.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.progress(100)
	stop()
	t.Logf("blocked after %d requests", before)
	w.verify()
	s.drained("g", time.Minute)
	if lsn := w.checkNewest(); lsn != w.h.lsn {
		t.Fatalf("the newest point is LSN %d, want %d", lsn, w.h.lsn)
	}
	w.checkRestore(r.Uint64N(w.h.lsn))
	if g := s.group("g"); g.State != "Replicating" {
		t.Errorf("state %s (%s) in the end", g.State, g.Reason)
	}
}

// mustBlock waits until no request has been answered for two seconds; the status
// must say that the group is throttled, and why.
func (w *writer) mustBlock(why string) {
	w.site.t.Helper()
	last, since := w.ops.Load(), time.Now()
	until(w.site.t, time.Minute, "the writer is blocked", func() error {
		if now := w.ops.Load(); now != last {
			last, since = now, time.Now()
		}
		if time.Since(since) < 2*time.Second {
			return errors.New("it still writes")
		}
		return nil
	})
	if g := w.site.group("g"); g.State != "Throttled" || !strings.Contains(g.Reason, why) {
		w.site.t.Errorf("writers are blocked in state %s: %q does not name %q", g.State, g.Reason, why)
	}
}

// TestMinIO is the second opinion: another S3 server, killed once under load.
func TestMinIO(t *testing.T) {
	r := newRand(t)
	srv := startStore(t, s3test.MinIO)
	s := newSite(t, s3Conf(srv, srv.Endpoint))
	s.mustStart()
	s.volume("g", "v", "16MiB")
	w := newWriter(s, "g", "v", exactBytes, r)
	w.pace = time.Millisecond
	w.connect()
	stop := w.background()
	w.progress(500)
	if err := srv.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.progress(500)
	stop()
	s.drained("g", time.Minute)
	s.agent.Kill()
	if lsn := w.checkNewest(); lsn != w.h.lsn {
		t.Fatalf("the newest point is LSN %d, want %d", lsn, w.h.lsn)
	}
	w.checkRestore(r.Uint64N(w.h.lsn), r.Uint64N(w.h.lsn))
}
