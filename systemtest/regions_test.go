package systemtest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/child"
	"github.com/pollux-dr/pollux/internal/faultproxy"
	"github.com/pollux-dr/pollux/internal/nbdclient"
	"github.com/pollux-dr/pollux/internal/s3test"
)

var regionRounds = flag.Int("regions.rounds", 1, "rounds of the tests of failover between sites; for long runs")

// regions are sites with a host and an object store each, and a network from each host to each
// store that can be cut. They share one journal with two groups: near, which has ack: local, and
// far, which has ack: remote.
type regions struct {
	t     *testing.T
	r     *rand.Rand
	srv   *s3test.Server
	hosts []*host
	all   []*writer // of what is written at the seat
	runs  []*running
	since time.Time // of phase
}

// phase logs how long what was done last took.
func (x *regions) phase(name string) {
	x.t.Helper()
	if !x.since.IsZero() {
		x.t.Logf("%-24s %6.1f s", name, time.Since(x.since).Seconds())
	}
	x.since = time.Now()
}

// host is the one of a region.
type host struct {
	*site
	region string
	links  map[string]*faultproxy.Proxy // to the store of each region
}

// regionBytes is the size of each volume.
const regionBytes = 4 << 20

var groupsOfRegions = []string{"near", "far"}

// newRegions starts the first region's agent as the journal's seat. Each host replicates to the
// stores of some regions.
func newRegions(t *testing.T, r *rand.Rand, names []string, stores ...string) *regions {
	t.Helper()
	x := &regions{t: t, r: r, srv: startStore(t, s3test.VersityGW)}
	for _, name := range names {
		h := &host{region: name, links: map[string]*faultproxy.Proxy{}}
		h.site = newSite(t, siteConf{name: "host-" + name, url: "s3://remote/" + stores[0], endpoint: x.srv.Endpoint,
			credentials: x.srv.CredentialsFile, daemon: "standby"})
		for _, s := range stores {
			p, err := faultproxy.NewHTTP(strings.TrimPrefix(x.srv.Endpoint, "http://"), r.Uint64())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = p.Close() })
			h.links[s] = p
		}
		x.hosts = append(x.hosts, h)
		h.configure(stores)
	}
	return x
}

// configure writes the configuration of agent and standby. The target at this site, or the first one
// where there is none, is the one that is followed.
func (h *host) configure(stores []string) {
	h.t.Helper()
	follow := stores[0]
	if slices.Contains(stores, h.region) {
		follow = h.region
	}
	h.conf.url = "s3://remote/" + follow // for verbs
	y := fmt.Sprintf("name: %s\nsite: %s\nstate: %s\nruntime: %s\nsocket: %s\nmemory: 32MiB\nwal:\n  budget: 64MiB\n"+
		"  segment: 4MiB\nnbd:\n  unix: %s\nstandby:\n  target: %s\njournal:\n  log_budget: 64MiB\n  heartbeat: 1s\n"+
		"  targets:\n", h.conf.name, h.region, h.conf.state, h.shm, h.socket(), h.nbdSocket(), follow)
	for _, s := range stores {
		y += fmt.Sprintf("    - name: %s\n      site: %s\n      url: s3://remote/%s\n      endpoint: http://%s\n"+
			"      credentials_file: %s\n      requests: {rate: 0}\n", s, s, s, h.links[s].Addr(), h.conf.credentials)
	}
	h.writeConfig(y)
}

// begin makes the first host the seat, and its volumes.
func (x *regions) begin() {
	x.t.Helper()
	h := x.hosts[0]
	h.conf.daemon = "agent" // pollux standby refuses the state of a seat that no failover made
	h.mustStart()
	for _, g := range groupsOfRegions {
		h.volume(g, g+"-v", fmt.Sprint(regionBytes))
		w := newWriter(h.site, g, g+"-v", regionBytes, rand.New(rand.NewPCG(x.r.Uint64(), 1)))
		w.flushPart, w.pace = 6, 10*time.Millisecond // what is in the way of a writer is not its speed
		w.connect()
		x.all = append(x.all, w)
	}
	x.promise(h)
}

// promise gives the group far its promise, as soon as it can be kept.
func (x *regions) promise(seat *host) {
	x.t.Helper()
	until(x.t, 2*time.Minute, "all targets are in line", func() error {
		for _, t := range seat.status().Targets {
			if t.State != "" || t.Error != "" || t.Position == 0 {
				return fmt.Errorf("%+v", t)
			}
		}
		return nil
	})
	until(x.t, time.Minute, "group far has ack: remote", func() error {
		o := seat.pollux("group", "set", "far", "--ack", "remote")
		g := seat.group("far")
		if o.code != 0 || g.Ack != "remote" || g.AckKept != "remote" || g.State != "Replicating" {
			return fmt.Errorf("%s, %+v", o.stderr, g)
		}
		return nil
	})
}

// running is a writer at work.
type running struct {
	w    *writer
	end  context.CancelFunc
	done chan error
}

// run starts the writers.
func (x *regions) run() {
	x.runs = nil
	for _, w := range x.all {
		ctx, cancel := context.WithCancel(x.t.Context())
		r := &running{w: w, end: cancel, done: make(chan error, 1)}
		go func() { r.done <- w.run(ctx) }()
		x.runs = append(x.runs, r)
	}
}

func (x *regions) progress(n int64) {
	x.t.Helper()
	for _, w := range x.all {
		w.progress(n)
	}
}

// ended waits until the writers have: with an error, where the seat was lost to them.
func (x *regions) ended(runs []*running, lost bool) {
	x.t.Helper()
	for _, r := range runs {
		r.end()
		select {
		case err := <-r.done:
			var bad *wrong
			if errors.As(err, &bad) || !lost && err != nil {
				x.t.Fatalf("the writer of %s: %v", r.w.volume, err)
			}
			if lost && err == nil {
				x.t.Logf("the writer of %s had nothing under way", r.w.volume)
			}
		case <-time.After(time.Minute):
			x.t.Fatalf("the writer of %s waits still", r.w.volume)
		}
	}
}

// cut is a network to the store of a region that some hosts do not reach.
func (x *regions) cut(store string, f faultproxy.Faults, hosts ...*host) {
	for _, h := range hosts {
		h.links[store].Set(f)
	}
}

func (x *regions) heal() {
	for _, h := range x.hosts {
		for _, p := range h.links {
			p.Set(faultproxy.Faults{})
		}
	}
}

// failOver is the forced verb at a host, repeated as an operator would, and what it took.
func (h *host) failOver() time.Duration {
	h.t.Helper()
	began := time.Now()
	until(h.t, time.Minute, "the failover to "+h.region, func() error {
		if o := h.pollux("failover", "--force", "--yes", "--json", "-c", h.config()); o.code != 0 {
			return fmt.Errorf("code %d: %s", o.code, o.stderr)
		}
		return nil
	})
	return time.Since(began)
}

// follows waits until the images of the host's standby have what the writers know to be durable.
func (x *regions) follows(h *host, lsns map[string]uint64) {
	x.t.Helper()
	until(x.t, 3*time.Minute, "the standby at "+h.region+" follows", func() error {
		st, err := h.tryStatus()
		if err != nil || st.Standby == nil {
			return fmt.Errorf("%+v, %w", st, err)
		}
		n := 0
		for _, g := range st.Standby.Groups {
			for _, v := range g.Volumes {
				if v.State == "following" && v.LSN >= lsns[g.Name] {
					n++
				}
			}
		}
		if n < len(groupsOfRegions) {
			return fmt.Errorf("%+v", st.Standby)
		}
		return nil
	})
}

// durable is what of each group is durable elsewhere, by the seat.
func (h *host) durable() map[string]uint64 {
	h.t.Helper()
	out := map[string]uint64{}
	for _, g := range h.status().Groups {
		out[g.Name] = g.DurableLSN
	}
	return out
}

// serves reports whether clients are served at a host.
func (h *host) serves(volume string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	c, err := nbdclient.Dial(ctx, h.uri(volume), nil)
	if err != nil {
		return false
	}
	defer c.Close()
	return c.ReadAt(ctx, make([]byte, 512), 0) == nil
}

// superseded waits until a former seat says where its groups went on, and what of them never left it.
func (x *regions) superseded(h *host, old, now []*writer) {
	x.t.Helper()
	until(x.t, time.Minute, "the former seat at "+h.region+" is Superseded", func() error {
		st, err := h.tryStatus()
		if err != nil {
			return err
		}
		for i, w := range old {
			g, err := groupOf(st, w.group)
			branch := now[i].h.saved[0].lsn
			says := fmt.Sprintf("LSN %d to %d of agent %s never left this site", branch+1, g.LastLSN, h.conf.name)
			if g.LastLSN == branch {
				says = fmt.Sprintf("from LSN %d of agent %s", branch, h.conf.name)
			}
			if err != nil || g.State != api.Superseded || !strings.Contains(g.Reason, says) {
				return fmt.Errorf("%w, %s: %s; it does not say %q", err, g.State, g.Reason, says)
			}
		}
		return nil
	})
	for _, w := range old {
		if h.serves(w.volume) {
			x.t.Errorf("%s serves volume %s, and is Superseded", h.region, w.volume)
		}
	}
	if o := h.pollux("volume", "create", "late", "--group", "near", "--size", "1MiB"); o.code != 10 {
		x.t.Errorf("a verb at a superseded seat: code %d, %s", o.code, o.stderr)
	}
}

// holds compares the seat and each store with the models.
func (x *regions) holds(seat *host, stores ...string) {
	x.t.Helper()
	for _, w := range x.all {
		w.connect()
		w.verify()
		for _, s := range stores {
			n := *seat.site
			n.conf.url = "s3://remote/" + s
			until(x.t, time.Minute, "the store of "+s+" has all", func() error {
				if lsn := n.storeLastLSN(w.volume); lsn != w.h.lsn {
					return fmt.Errorf("group %s: LSN %d of %d", w.group, lsn, w.h.lsn)
				}
				return nil
			})
			got, _ := n.restore(w.volume, "")
			sameBytes(x.t, "volume "+w.volume+" in the store of "+s, got, w.h.image)
		}
	}
}

// failBack makes a former seat a standby, with the verb killed at random moments on the way, and
// starts that.
func (x *regions) failBack(h *host, kills int) {
	x.t.Helper()
	if h.agent.Running() {
		h.stop()
	}
	for range kills {
		x.killed(h, "failback", "--yes", "-c", h.config())
	}
	h.verb("failback", "--yes", "-c", h.config())
	if again := h.verb("failback", "--yes", "-c", h.config()); again["done"] != true {
		x.t.Errorf("the failback once more: %v", again)
	}
	h.conf.daemon = "standby"
	h.mustStart()
}

// killed runs a verb and kills it after a random time; done says that it had ended before.
func (x *regions) killed(h *host, args ...string) {
	x.t.Helper()
	p := h.launchVerb(args...)
	select {
	case <-p.Done():
	case <-time.After(time.Duration(x.r.IntN(400)) * time.Millisecond): // when is random, nothing is waited for
	}
	p.Kill()
}

// launchVerb starts a verb.
func (h *host) launchVerb(args ...string) *child.Process {
	h.t.Helper()
	log, err := os.OpenFile(filepath.Join(h.dir, "verbs.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		h.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, h.environ()
	p, err := child.Start(cmd)
	if err != nil {
		h.t.Fatal(err)
	}
	return p
}

func (h *host) freeze() { _ = syscall.Kill(h.agent.PID(), syscall.SIGSTOP) }
func (h *host) thaw()   { _ = syscall.Kill(h.agent.PID(), syscall.SIGCONT) }
