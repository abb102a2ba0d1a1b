package systemtest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/faultproxy"
	"github.com/pollux-dr/pollux/internal/s3test"
)

// TestBudgets keeps the store away until the journal's budget and then the agent's
// are used up: writers wait, without an error, and all goes on with the store.
func TestBudgets(t *testing.T) {
	t.Parallel()
	srv := startStore(t, s3test.VersityGW)
	proxy, err := faultproxy.NewHTTP(strings.TrimPrefix(srv.Endpoint, "http://"), 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	conf := s3Conf(srv, "http://"+proxy.Addr())
	c := newCluster(t, 3)
	c.store, c.endpoint, c.credentials, c.logBudget = conf.url, conf.endpoint, conf.credentials, "64MiB"
	c.form()
	conf.journal, conf.walBudget = c.addresses(), "32MiB"
	s := newSite(t, conf)
	s.mustStart()
	s.volume("g", "v", "16MiB")
	w := newWriter(s, "g", "v", exactBytes, newRand(t))
	w.connect()
	stop := w.background()
	w.progress(50)
	proxy.Set(faultproxy.Faults{Refuse: true})
	until(t, 2*time.Minute, "the writers wait", func() error {
		st := s.status()
		g, err := groupOf(st, "g")
		if err != nil || g.State != "Throttled" || st.Journal.LogBytes < 60<<20 {
			return fmt.Errorf("%+v %+v %v", g, st.Journal, err)
		}
		return nil
	})
	w.mustBlock("faraway")
	c.leader().kill() // and whoever leads next has no more room
	w.mustBlock("")
	proxy.Set(faultproxy.Faults{})
	w.progress(200)
	stop()
	s.drained("g", 2*time.Minute)
	if newest := w.checkNewest(); newest != w.h.lsn {
		t.Errorf("the twin ends at LSN %d, the model at %d", newest, w.h.lsn)
	}
}
