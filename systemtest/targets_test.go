package systemtest

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/faultproxy"
	"github.com/pollux-dr/pollux/internal/s3test"

	"strings"
)

// TestTwoTargets keeps two object stores at once, each with its own log, one of them
// optional: that one's outage holds back nothing, and both can be restored from.
func TestTwoTargets(t *testing.T) {
	t.Parallel()
	srv := startStore(t, s3test.VersityGW)
	proxy, err := faultproxy.NewHTTP(strings.TrimPrefix(srv.Endpoint, "http://"), 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	s3 := s3Conf(srv, "http://"+proxy.Addr())
	c := newCluster(t, 3)
	c.target = fmt.Sprintf("  - name: spare\n    url: %s\n    endpoint: %s\n    credentials_file: %s\n    "+
		"optional: true\n    requests: {rate: 0}\n", s3.url, s3.endpoint, s3.credentials)
	c.form()
	s := newSite(t, siteConf{journal: c.addresses(), url: c.store})
	s.mustStart()
	s.volume("g", "v", "16MiB")
	w := newWriter(s, "g", "v", exactBytes, newRand(t))
	w.connect()
	stop := w.background()
	w.progress(300)
	proxy.Set(faultproxy.Faults{Refuse: true})
	until(t, time.Minute, "the status names the spare store and its lag", func() error {
		for _, x := range s.status().Targets {
			if x.Name == "spare" && x.Error != "" && x.Optional && x.LagSeconds > 0.5 && x.BacklogBytes > 0 {
				return nil
			}
		}
		return fmt.Errorf("%+v", s.status().Targets)
	})
	w.progress(300)
	stop()
	s.drained("g", time.Minute) // the required one
	c.leader().kill()           // the backlog of the other is with every member
	proxy.Set(faultproxy.Faults{})
	until(t, time.Minute, "the spare store catches up", func() error {
		for _, x := range s.status().Targets {
			if x.Name == "spare" && x.Error == "" && x.LagSeconds == 0 && x.Position > 1 {
				return nil
			}
		}
		return fmt.Errorf("%+v", s.status().Targets)
	})
	if newest := w.checkNewest(); newest != w.h.lsn {
		t.Errorf("the required store ends at LSN %d, the model at %d", newest, w.h.lsn)
	}
	other := *s
	other.conf.url, other.conf.endpoint, other.conf.credentials = s3.url, srv.Endpoint, s3.credentials
	other.dir = filepath.Dir(s.config())
	w.site = &other
	if newest := w.checkNewest(); newest != w.h.lsn {
		t.Errorf("the spare store ends at LSN %d, the model at %d", newest, w.h.lsn)
	}
}

// TestOptionalTargetAway keeps an optional store away while more is written than the
// budgets of WAL and journal, with a restart in between: no writer is held back, the status
// says that it is let go, and it is whole again after the store is back.
func TestOptionalTargetAway(t *testing.T) {
	t.Parallel()
	srv := startStore(t, s3test.VersityGW)
	proxy, err := faultproxy.NewHTTP(strings.TrimPrefix(srv.Endpoint, "http://"), 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	s3 := s3Conf(srv, "http://"+proxy.Addr())
	target := fmt.Sprintf("    - name: spare\n      url: %s\n      endpoint: %s\n      credentials_file: %s\n", s3.url,
		s3.endpoint, s3.credentials)
	s := newSite(t, siteConf{walBudget: "32MiB", target: target + "      optional: true\n      requests: {rate: 0}\n"})
	s.mustStart()
	s.volume("g", "v", "16MiB")
	w := newWriter(s, "g", "v", exactBytes, newRand(t))
	w.connect()
	spare := func() (out api.TargetStatus) {
		st := s.status()
		for _, x := range st.Targets {
			if x.Name == "spare" {
				out = x
			}
		}
		if g, err := groupOf(st, "g"); err != nil || g.State == "Throttled" || g.State == "Suspended" {
			t.Fatalf("the group is held back: %+v, %v", g, err)
		}
		return out
	}
	written := func(bytes int64) {
		t.Helper()
		until(t, 2*time.Minute, "more than the budgets is written", func() error {
			x, stored := spare(), s.status().Agent.StoredBytes
			if stored < bytes || x.State != "let go" || x.Error == "" || x.LagSeconds == 0 {
				return fmt.Errorf("%d bytes of frames; %+v", stored, x)
			}
			return nil
		})
	}
	stop := w.background()
	w.progress(100)
	proxy.Set(faultproxy.Faults{Refuse: true})
	written(80 << 20)
	stop()
	s.stop()
	s.mustStart()
	w.connect()
	stop = w.background()
	written(40 << 20) // since the restart
	stop()
	w.pace = 5 * time.Millisecond
	stop = w.background()
	proxy.Set(faultproxy.Faults{})
	until(t, 2*time.Minute, "the spare store is filled under load", func() error {
		if x := spare(); x.State != "" || x.Error != "" {
			return fmt.Errorf("%+v", x)
		}
		return nil
	})
	w.progress(100)
	stop()
	s.drained("g", time.Minute)
	until(t, time.Minute, "the spare store has everything", func() error {
		if x := spare(); x.LagSeconds > 0 {
			return fmt.Errorf("%+v", x)
		}
		return nil
	})
	if newest := w.checkNewest(); newest != w.h.lsn {
		t.Errorf("the required store ends at LSN %d, the model at %d", newest, w.h.lsn)
	}
	other := *s
	other.conf.url, other.conf.endpoint, other.conf.credentials = s3.url, srv.Endpoint, s3.credentials
	w.site = &other
	if newest := w.checkNewest(); newest != w.h.lsn {
		t.Errorf("the spare store ends at LSN %d, the model at %d", newest, w.h.lsn)
	}
}

// TestTwoJournalsOnePrefix pastes one journal's target into another's configuration:
// the second writes nothing there and says whose it is.
func TestTwoJournalsOnePrefix(t *testing.T) {
	first, second := newCluster(t, 1), newCluster(t, 1)
	first.form()
	until(t, startTimeout, "the first has claimed its log", func() error {
		st, err := first.members[0].status()
		if err == nil && (len(st.Targets) == 0 || st.Targets[0].Position < 2) {
			err = fmt.Errorf("%+v", st.Targets)
		}
		return err
	})
	second.store = first.store
	second.form()
	until(t, startTimeout, "the second says whose it is", func() error {
		st, err := second.members[0].status()
		if err == nil && (len(st.Targets) == 0 || !strings.Contains(st.Targets[0].Error, "belongs to journal")) {
			err = fmt.Errorf("%+v", st.Targets)
		}
		return err
	})
	id := func(c *cluster) string {
		l, err := c.members[0].list()
		if err != nil {
			t.Fatal(err)
		}
		return l.Journal
	}
	out := first.pollux("dump", "log", "--store", first.store)
	if !strings.Contains(out, id(first)) || strings.Contains(out, id(second)) {
		t.Errorf("the log is of another journal:\n%s", out)
	}
}
