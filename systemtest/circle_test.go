package systemtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/failback"
	"github.com/pollux-dr/pollux/control/promote"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/faultproxy"
	"github.com/pollux-dr/pollux/internal/s3test"
)

// place is a host at one of two sites, with a store at each. Either can be the seat of their journal,
// and then the other one follows. Its process is what its `site` calls the agent, a standby too.
type place struct {
	*site
	name  string            // of its site
	proxy *faultproxy.Proxy // its way to both stores
	unit  string            // the verb of its daemon, as its unit would start it
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
	conf := siteConf{name: host, url: "s3://" + name + "/p", endpoint: "http://" + proxy.Addr(),
		credentials: srv.CredentialsFile}
	p := &place{name: name, proxy: proxy, unit: "agent", site: newSite(t, conf)}
	y := fmt.Sprintf("name: %s\nsite: %s\nstate: %s\nruntime: %s\nsocket: %s\nmemory: 32MiB\nwal:\n"+
		"  budget: 256MiB\n  segment: 4MiB\nnbd:\n  unix: %s\nstandby:\n  target: %s\njournal:\n"+
		"  log_budget: 64MiB\n  targets:\n", host, name, p.conf.state, p.shm, p.socket(), p.nbdSocket(), name)
	for _, s := range []string{"seoul", "busan"} {
		y += fmt.Sprintf("    - {name: %s, site: %[1]s, url: \"s3://%[1]s/p\", endpoint: \"%s\", "+
			"credentials_file: %s, requests: {rate: 30, burst: 30}}\n", s, p.conf.endpoint, p.conf.credentials)
	}
	p.writeConfig(y)
	return p
}

// cutOff takes the stores away from this site, or gives them back.
func (p *place) cutOff(off bool) { p.proxy.Set(faultproxy.Faults{Refuse: off}) }

// follow starts a standby, and waits until it has whole images of all volumes.
func (p *place) follow() {
	p.t.Helper()
	p.unit = "standby"
	p.launchAs(p.unit)
	p.following()
}

// following waits until all of the journal's volumes follow.
func (p *place) following() {
	p.t.Helper()
	until(p.t, 3*time.Minute, p.name+" follows", func() error {
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

// restart starts what ran here before, which serves as the seat again.
func (p *place) restart() {
	p.t.Helper()
	p.launchAs(p.unit)
	p.asSeat()
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
	rep, began := &promote.Report{}, time.Now()
	until(p.t, time.Minute, "the failover is done", func() error {
		return p.report(rep, "failover", "--force", "--yes", "-c", p.config())
	})
	for _, v := range rep.Volumes {
		if !v.Warm {
			p.t.Errorf("volume %s was not warm at %s: %+v", v.Name, p.name, v)
		}
	}
	p.asSeat()
	p.t.Logf("forced failover to %s: LSN %d, %.1f s", p.name, rep.Groups[0].LSN, time.Since(began).Seconds())
	return rep
}

// handOver is `pollux failover --planned` from here to another site.
func (p *place) handOver(to *place) {
	p.t.Helper()
	rep, began := p.verb("failover", "--planned", "--to", to.name), time.Now()
	if rep["outcome"] != "taken up" {
		p.t.Fatalf("%v", rep)
	}
	to.asSeat()
	p.t.Logf("planned failover to %s: I/O held for %.1f s, served %.1f s later", to.name, rep["held_seconds"],
		time.Since(began).Seconds())
	p.unit = "standby"
	p.following() // by itself: it has nothing of its own
}

// isSuperseded waits until this host knows that the journal went on elsewhere, and what never left
// it; it returns what it says of its first group.
func (p *place) isSuperseded() (reason string) {
	p.t.Helper()
	until(p.t, time.Minute, p.name+" knows that it is superseded", func() error {
		st, err := p.tryStatus()
		if err != nil {
			return err
		}
		for _, g := range st.Groups {
			if g.State != "Superseded" || strings.Contains(g.Reason, "being found out") {
				return fmt.Errorf("group %s is %s: %s", g.Name, g.State, g.Reason)
			}
		}
		reason = st.Groups[0].Reason
		return nil
	})
	return reason
}

// failBack ends the former seat's agent, and makes it a standby that follows.
func (p *place) failBack() *failback.Report {
	p.t.Helper()
	if p.agent.Running() && !p.agent.End(syscall.SIGTERM, time.Minute) {
		p.t.Fatalf("%s ignores SIGTERM", p.name)
	}
	rep, began := &failback.Report{}, time.Now()
	tries := 0
	until(p.t, time.Minute, "the new seat has reached the store at "+p.name, func() error {
		tries++
		return p.report(rep, "failback", "--yes", "-c", p.config())
	})
	done := time.Now()
	p.follow()
	p.t.Logf("failback at %s: %.1f s, try %d %.1f s, %d bytes only there; then it followed after %.1f s", p.name,
		done.Sub(began).Seconds(), tries, rep.Seconds, rep.DivergentBytes, time.Since(done).Seconds())
	return rep
}

// report runs a verb and decodes what it reports. It returns an error where the exit code says that
// the same may work later.
func (p *place) report(rep any, args ...string) error {
	p.t.Helper()
	o := p.pollux(append(args, "--json")...)
	if o.code == fail.ExitCode(fail.New(fail.Retry, "", "", "")) {
		return errors.New(o.stderr)
	}
	if o.code != 0 {
		p.t.Fatalf("pollux %s: code %d: %s", strings.Join(args, " "), o.code, o.stderr)
	}
	return json.Unmarshal([]byte(o.stdout), rep)
}
