package systemtest

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/failback"
	"github.com/pollux-dr/pollux/control/promote"
	"github.com/pollux-dr/pollux/internal/faultproxy"
	"github.com/pollux-dr/pollux/internal/s3test"
)

// place is a host at one of two sites, with a store at each. Either can be the seat of their journal,
// and then the other one follows. Its process is what its `site` calls the agent, a standby too.
type place struct {
	*site
	name  string            // of its site
	proxy *faultproxy.Proxy // its way to both stores
}

// newCircle makes the hosts of two sites. Nothing runs there yet.
func newCircle(t *testing.T) (seoul, busan *place) {
	t.Helper()
	srv := startStore(t, s3test.VersityGW)
	for _, bucket := range []string{"seoul", "busan"} {
		if err := srv.CreateBucket(t.Context(), bucket); err != nil {
			t.Fatal(err)
		}
	}
	return newPlace(t, srv, "seoul", "host1"), newPlace(t, srv, "busan", "host2")
}

func newPlace(t *testing.T, srv *s3test.Server, name, host string) *place {
	t.Helper()
	proxy, err := faultproxy.NewHTTP(strings.TrimPrefix(srv.Endpoint, "http://"), 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	p := &place{name: name, proxy: proxy, site: newSite(t, siteConf{name: host, url: "s3://" + name + "/p",
		endpoint: "http://" + proxy.Addr(), credentials: srv.CredentialsFile})}
	y := fmt.Sprintf("name: %s\nsite: %s\nstate: %s\nruntime: %s\nsocket: %s\nmemory: 32MiB\nwal:\n  budget: 256MiB\n"+
		"  segment: 4MiB\nnbd:\n  unix: %s\nstandby:\n  target: %s\njournal:\n  log_budget: 64MiB\n  targets:\n", host,
		name, p.conf.state, p.shm, p.socket(), p.nbdSocket(), name)
	for _, s := range []string{"seoul", "busan"} {
		y += fmt.Sprintf("    - {name: %s, site: %[1]s, url: \"s3://%[1]s/p\", endpoint: \"%s\", credentials_file: %s, "+
			"requests: {rate: 0}}\n", s, p.conf.endpoint, p.conf.credentials)
	}
	p.writeConfig(y)
	return p
}

// cutOff takes the stores away from this site, or gives them back.
func (p *place) cutOff(off bool) { p.proxy.Set(faultproxy.Faults{Refuse: off}) }

// follow starts a standby, and waits until it has whole images of all volumes.
func (p *place) follow() {
	p.t.Helper()
	p.launchAs("standby")
	p.following()
}

// following waits until all of the journal's volumes follow.
func (p *place) following() {
	p.t.Helper()
	until(p.t, time.Minute, p.name+" follows", func() error {
		st, err := p.tryStatus()
		switch {
		case err != nil:
			return err
		case st.Standby == nil || len(st.Standby.Groups) == 0:
			return fmt.Errorf("%+v", st.Standby)
		}
		for _, g := range st.Standby.Groups {
			if g.State != "following" || len(g.Volumes) == 0 {
				return fmt.Errorf("%+v", g)
			}
		}
		return nil
	})
}

// asSeat waits until this host, which is told to, is the agent of the journal and serves.
func (p *place) asSeat() {
	p.t.Helper()
	until(p.t, time.Minute, p.name+" serves", func() error {
		st, err := p.tryStatus()
		if err == nil && st.Standby != nil {
			err = fmt.Errorf("%+v", st.Standby)
		}
		return err
	})
}

// takeOver is `pollux failover --force`, with the images of the standby that runs here.
func (p *place) takeOver() *promote.Report {
	p.t.Helper()
	rep := &promote.Report{}
	p.report(rep, "failover", "--force", "--yes", "-c", p.config())
	for _, v := range rep.Volumes {
		if !v.Warm {
			p.t.Errorf("volume %s was not warm at %s: %+v", v.Name, p.name, v)
		}
	}
	p.asSeat()
	return rep
}

// handOver is `pollux failover --planned` from here to another site.
func (p *place) handOver(to *place) {
	p.t.Helper()
	if rep := p.verb("failover", "--planned", "--to", to.name); rep["outcome"] != "taken up" {
		p.t.Fatalf("%v", rep)
	}
	to.asSeat()
	p.isSuperseded()
}

// isSuperseded waits until this host knows that the journal went on elsewhere.
func (p *place) isSuperseded() {
	p.t.Helper()
	until(p.t, time.Minute, p.name+" knows that it is superseded", func() error {
		st, err := p.tryStatus()
		if err != nil {
			return err
		}
		for _, g := range st.Groups {
			if g.State != "Superseded" {
				return fmt.Errorf("group %s is %s: %s", g.Name, g.State, g.Reason)
			}
		}
		return nil
	})
}

// failBack ends the former seat's agent, and makes it a standby that follows.
func (p *place) failBack() *failback.Report {
	p.t.Helper()
	if p.agent.Running() && !p.agent.End(syscall.SIGTERM, time.Minute) {
		p.t.Fatalf("%s ignores SIGTERM", p.name)
	}
	rep := &failback.Report{}
	p.report(rep, "failback", "--yes", "-c", p.config())
	p.follow()
	return rep
}

// report runs a verb that must succeed, and decodes what it reports.
func (p *place) report(rep any, args ...string) {
	p.t.Helper()
	o := p.pollux(append(args, "--json")...)
	if o.code != 0 {
		p.t.Fatalf("pollux %s: code %d: %s", strings.Join(args, " "), o.code, o.stderr)
	}
	if err := json.Unmarshal([]byte(o.stdout), rep); err != nil {
		p.t.Fatalf("pollux %s: %v\n%s", strings.Join(args, " "), err, o.stdout)
	}
}
