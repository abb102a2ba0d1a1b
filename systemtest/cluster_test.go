package systemtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/child"
	"github.com/pollux-dr/pollux/internal/pki"
)

// cluster is a journal of several processes on loopback.
type cluster struct {
	t                     *testing.T
	dir                   string
	store                 string   // url
	endpoint, credentials string   // of the store, if it is S3
	more                  []string // addresses of members that are not ours
	target                string   // lines of one more target
	logBudget             string   // default 256MiB
	program               string   // default the one that is tested
	certs                 string   // directory of an authority's certificates; "": in clear
	members               []*memberProcess
}

// memberProcess is one `pollux journal`.
type memberProcess struct {
	c       *cluster
	n       int
	listen  string // where it listens
	dialled string // what others dial: a proxy, perhaps
	started func(m *memberProcess)
	disk    string // where its state is; "": beside its log
	control string // where operators on other hosts reach it, with certificates
	program string // default the cluster's
	process *child.Process
}

// freeAddress is a loopback address that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func newCluster(t *testing.T, n int) *cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "pct-")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, dir: dir, store: "file://" + filepath.Join(dir, "store")}
	t.Cleanup(c.cleanup)
	for i := range n {
		m := &memberProcess{c: c, n: i, listen: freeAddress(t)}
		m.dialled = m.listen
		c.members = append(c.members, m)
	}
	return c
}

// secure makes an authority; members that start from here on use it.
func (c *cluster) secure() {
	c.t.Helper()
	c.certs = filepath.Join(c.dir, "certs")
	c.pollux("tls", "init", "--ca", filepath.Join(c.dir, "ca"))
}

// tls issues a certificate and returns the lines of a configuration for it.
func (c *cluster) tls(role, name string) string {
	c.t.Helper()
	f := c.files(role, name)
	return fmt.Sprintf("tls: {cert: %s, key: %s, ca: %s}\n", f.Cert, f.Key, f.CA)
}

func (c *cluster) files(role, name string) pki.Files {
	c.t.Helper()
	c.pollux("tls", "issue", "--ca", filepath.Join(c.dir, "ca"), "--role", role, "--name", name, "--out", c.certs,
		"--replace")
	base := filepath.Join(c.certs, role+"-"+name)
	return pki.Files{Cert: base + ".pem", Key: base + ".key", CA: filepath.Join(c.certs, "ca.pem")}
}

// pollux runs a verb that must succeed.
func (c *cluster) pollux(args ...string) string {
	c.t.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		c.t.Fatalf("pollux %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (c *cluster) cleanup() {
	for _, m := range c.members {
		if m.process != nil {
			m.process.Kill()
		}
		if c.t.Failed() {
			c.t.Logf("end of member %d's log:\n%s", m.n, tail(m.logText(), 30))
		}
	}
	_ = os.RemoveAll(c.dir)
}

func (c *cluster) addresses() []string {
	var out []string
	for _, m := range c.members {
		out = append(out, m.dialled)
	}
	return append(out, c.more...)
}

func (m *memberProcess) path(name string) string {
	return filepath.Join(m.c.dir, fmt.Sprintf("m%d", m.n), name)
}
func (m *memberProcess) state() string {
	if m.disk != "" {
		return filepath.Join(m.disk, "state")
	}
	return m.path("state")
}
func (m *memberProcess) socket() string { return m.path("control.sock") }

func (m *memberProcess) logText() string {
	b, _ := os.ReadFile(m.path("log"))
	return string(b)
}

func (m *memberProcess) configure() {
	m.c.t.Helper()
	if err := os.MkdirAll(m.path(""), 0o700); err != nil {
		m.c.t.Fatal(err)
	}
	y := fmt.Sprintf("name: m%d\nstate: %s\nsocket: %s\nlisten: %s\nadvertise: %s\npeers: [%s]\nelection: "+
		"500ms\nlog_budget: %s\n", m.n, m.state(), m.socket(), m.listen, m.dialled, strings.Join(m.c.addresses(), ", "),
		cmp.Or(m.c.logBudget, "256MiB"))
	if m.c.certs != "" {
		m.control = freeAddress(m.c.t)
		y += fmt.Sprintf("control: {listen: %q}\n", m.control) + m.c.tls("journal", fmt.Sprint("m", m.n))
	}
	y += fmt.Sprintf("disk_stall: 2s\ntargets:\n  - name: faraway\n    url: %s\n    requests: {rate: 0}\n", m.c.store)
	if m.c.endpoint != "" {
		y += fmt.Sprintf("    endpoint: %s\n    credentials_file: %s\n", m.c.endpoint, m.c.credentials)
	}
	y += m.c.target
	if err := os.WriteFile(m.path("journal.yaml"), []byte(y), 0o600); err != nil {
		m.c.t.Fatal(err)
	}
}

// start brings a member up and waits until its control socket answers.
func (m *memberProcess) start() {
	t := m.c.t
	t.Helper()
	m.configure()
	log, err := os.OpenFile(m.path("log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(cmp.Or(m.program, m.c.program, program), "journal", "-c", m.path("journal.yaml"))
	cmd.Env = append(os.Environ(), clockFile+"="+m.path("clock"))
	cmd.Stdout, cmd.Stderr = log, log
	if m.process, err = child.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if m.started != nil {
		m.started(m)
	}
	until(t, startTimeout, fmt.Sprintf("member %d's socket", m.n), func() error {
		if !m.process.Running() {
			t.Fatalf("member %d ended with code %d:\n%s", m.n, m.process.ExitCode(), tail(m.logText(), 5))
		}
		_, err := m.list()
		return err
	})
}

func (m *memberProcess) kill() {
	m.process.Kill()
	m.process = nil
}

func (m *memberProcess) call(verb string, req, resp any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return api.Dial(m.socket()).Call(ctx, verb, req, resp)
}

func (m *memberProcess) list() (l api.JournalMembers, err error) {
	err = m.call(api.VerbJournalList, struct{}{}, &l)
	return l, err
}

// form starts all members and waits until each has a vote.
func (c *cluster) form() {
	c.t.Helper()
	for _, m := range c.members {
		m.start()
	}
	var l api.JournalMembers
	if err := c.members[0].call(api.VerbJournalInit, api.JournalInit{}, &l); err != nil {
		c.t.Fatal(err)
	}
	c.voters(len(c.members))
}

// voters waits until some member that runs knows n voters and no other members, and
// reaches all of them.
func (c *cluster) voters(n int) {
	c.t.Helper()
	until(c.t, startTimeout, fmt.Sprint(n, " voters"), func() error {
		var last api.JournalMembers
		for _, m := range c.members {
			if m.process == nil {
				continue
			}
			l, err := m.list()
			last = l
			if err != nil || l.Leader == "" || len(l.Members) != n {
				continue
			}
			all := true
			for _, x := range l.Members {
				all = all && x.Role != "joining" && x.Error == ""
			}
			if all {
				return nil
			}
		}
		return fmt.Errorf("%+v", last)
	})
}

// leader waits for the member that leads.
func (c *cluster) leader() *memberProcess {
	c.t.Helper()
	var lead *memberProcess
	until(c.t, startTimeout, "a leader", func() error {
		for _, m := range c.members {
			if m.process == nil {
				continue
			}
			var st api.Status
			if err := m.call(api.VerbStatus, struct{}{}, &st); err == nil && st.Journal.Leader {
				lead = m
				return nil
			}
		}
		return errors.New("none says that it leads")
	})
	return lead
}

// TestJournalCluster writes through an agent while members are killed, wiped and
// brought back; the twin in the store equals the primary at the end.
func TestJournalCluster(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.form()
	s := newSite(t, siteConf{journal: c.addresses(), url: c.store})
	s.mustStart()
	const size = 32 << 20
	s.volume("g", "v", "32MiB")
	r := rand.New(rand.NewPCG(1, 2))
	w := newWriter(s, "g", "v", size, r)
	w.connect()
	stop := w.background()
	w.progress(500)

	c.leader().kill()
	w.progress(500)
	for _, m := range c.members {
		if m.process == nil {
			m.start()
		}
	}
	c.voters(3)

	m := c.members[(c.leader().n+1)%3]
	m.kill()
	if err := os.RemoveAll(m.state()); err != nil {
		t.Fatal(err)
	}
	w.progress(300)
	m.start()
	c.voters(3)
	c.leader().kill()
	w.progress(300)

	stop()
	s.drained("g", time.Minute)
	t.Logf("checked %d points", checkPoints(w, r))
}

// TestGrow begins with an agent and its embedded journal, and makes that journal one
// of three under load, without an error at a client. Then the host of the agent is
// lost, and the twin holds all that was flushed under the promise of three.
func TestGrow(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	s := newSite(t, siteConf{url: c.store})
	s.mustStart()
	s.volume("g", "v", "16MiB")
	w := newWriter(s, "g", "v", exactBytes, newRand(t))
	w.connect()
	stop := w.background()
	w.progress(300)
	stop()

	// The one restart that it takes: the journal gets an address.
	address := freeAddress(t)
	s.stop()
	s.conf.member = fmt.Sprintf("  listen: %s\n  peers: [%s]\n", address, strings.Join(c.addresses(), ", "))
	s.configure()
	s.mustStart()
	w.connect()
	stop = w.background()
	w.progress(100)
	c.more = []string{address}
	for i, m := range c.members {
		m.start()
		until(t, startTimeout, "the journal has one more voter", func() error {
			if j := s.status().Journal; j.Voters != i+2 || j.Members != i+2 {
				return fmt.Errorf("%+v", j)
			}
			return nil
		})
		w.progress(100)
	}
	s.verb("group", "set", "g", "--ack", "journal")
	w.progress(300)
	stop()
	flushed := w.flushed.Load()
	s.agent.Kill()
	_ = os.RemoveAll(s.conf.state)
	until(t, time.Minute, "the twin holds what was flushed", func() error {
		if lsn := s.storeLastLSN("v"); lsn < flushed {
			return fmt.Errorf("LSN %d of %d", lsn, flushed)
		}
		return nil
	})
	t.Logf("flushed up to LSN %d, the twin holds %d", flushed, w.checkNewest())
}
