package systemtest

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/child"
	"github.com/pollux-dr/pollux/internal/nbdclient"
)

// siteConf are the settings that tests vary; zero values take defaults fit for
// a small machine.
type siteConf struct {
	name                       string // of the agent; default host1
	daemon                     string // the verb that runs it; default agent
	program                    string // default the one that is tested
	url, endpoint, credentials string // of the target; "": a file:// store beside the state
	memory, walBudget          string
	state                      string
	env                        []string
	journal                    []string // addresses of one elsewhere, which has the target
	more                       string   // lines of agent.yaml
	member                     string   // lines of the embedded journal
	target                     string   // lines of its target
}

// site is one host with its agent.
type site struct {
	t     *testing.T
	conf  siteConf
	dir   string         // on disk
	shm   string         // on tmpfs: arena and sockets
	agent *child.Process // nil before the first start
}

// startTimeout is generous: the machine may be busy with other tests.
const startTimeout = 60 * time.Second

func newSite(t *testing.T, c siteConf) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "pst-")
	if err != nil {
		t.Fatal(err)
	}
	run, err := os.MkdirTemp(shm, "")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, conf: c, dir: dir, shm: run}
	if s.conf.state == "" {
		s.conf.state = filepath.Join(dir, "state")
	}
	if s.conf.url == "" {
		s.conf.url = "file://" + filepath.Join(dir, "store")
	}
	t.Cleanup(s.cleanup)
	s.configure()
	return s
}

// cleanup ends the agent, and shows its log when the test has failed.
func (s *site) cleanup() {
	if s.agent != nil {
		s.agent.Kill()
	}
	if s.t.Failed() {
		s.t.Logf("end of the agent's log:\n%s", tail(s.logText(), 60))
	}
	_ = os.RemoveAll(s.dir)
	_ = os.RemoveAll(s.shm)
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// configure writes agent.yaml.
func (s *site) configure() {
	or := func(v, def string) string {
		if v == "" {
			return def
		}
		return v
	}
	y := fmt.Sprintf("name: %s\nstate: %s\nruntime: %s\nsocket: %s\nmemory: %s\n", or(s.conf.name, "host1"),
		s.conf.state, s.shm, s.socket(), or(s.conf.memory, "32MiB"))
	y += fmt.Sprintf("wal:\n  budget: %s\n  segment: 4MiB\nnbd:\n  unix: %s\n", or(s.conf.walBudget, "256MiB"),
		s.nbdSocket())
	if len(s.conf.journal) > 0 {
		y += fmt.Sprintf("journal:\n  addresses: [%s]\n", strings.Join(s.conf.journal, ", "))
		s.writeConfig(y + s.conf.more)
		return
	}
	y += "journal:\n" + s.conf.member
	y += fmt.Sprintf("  log_budget: 64MiB\n  targets:\n    - name: faraway\n      url: %s\n      requests: {rate: 0}\n",
		s.conf.url)
	if s.conf.endpoint != "" {
		y += fmt.Sprintf("      endpoint: %s\n      credentials_file: %s\n", s.conf.endpoint, s.conf.credentials)
	}
	y += s.conf.target
	s.writeConfig(y)
}

func (s *site) writeConfig(y string) {
	s.t.Helper()
	if err := os.WriteFile(s.config(), []byte(y), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) config() string    { return filepath.Join(s.dir, "agent.yaml") }
func (s *site) socket() string    { return filepath.Join(s.shm, "control.sock") }
func (s *site) nbdSocket() string { return filepath.Join(s.shm, "nbd.sock") }
func (s *site) logPath() string   { return filepath.Join(s.dir, "agent.log") }
func (s *site) storeDir() string  { return strings.TrimPrefix(s.conf.url, "file://") }

func (s *site) logText() string {
	b, _ := os.ReadFile(s.logPath()) // none is none
	return string(b)
}

// launch starts the site's daemon and does not wait until it serves.
func (s *site) launch() {
	s.t.Helper()
	s.launchAs(cmp.Or(s.conf.daemon, "agent"))
}

// launchAs starts the daemon of a verb with the site's configuration.
func (s *site) launchAs(verb string) {
	s.t.Helper()
	log, err := os.OpenFile(s.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(cmp.Or(s.conf.program, program), verb, "-c", s.config())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = s.environ()
	if s.agent, err = child.Start(cmd); err != nil {
		s.t.Fatal(err)
	}
}

// environ is ours without the variables that would change what is tested.
func (s *site) environ() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "AWS_") && !strings.HasPrefix(v, "POLLUX_") {
			env = append(env, v)
		}
	}
	return append(append(env, "POLLUX_SOCKET="+s.socket()), s.conf.env...)
}

// start brings the agent up and waits until it answers. It returns an error
// when the process ends instead.
func (s *site) start() error {
	s.t.Helper()
	s.launch()
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if _, err := s.tryStatus(); err == nil {
			return nil
		}
		if !s.agent.Running() {
			return fmt.Errorf("the agent ended with code %d: %s", s.agent.ExitCode(), tail(s.logText(), 3))
		}
	}
	s.t.Fatalf("the agent does not serve after %v", startTimeout)
	return nil
}

func (s *site) mustStart() {
	s.t.Helper()
	if err := s.start(); err != nil {
		s.t.Fatal(err)
	}
}

// stop ends the agent in order.
func (s *site) stop() {
	s.t.Helper()
	if !s.agent.End(syscall.SIGTERM, 90*time.Second) {
		s.t.Fatal("the agent ignores SIGTERM")
	}
	if c := s.agent.ExitCode(); c != 0 {
		s.t.Fatalf("the agent stopped with code %d: %s", c, tail(s.logText(), 5))
	}
}

func (s *site) tryStatus() (api.Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var st api.Status
	err := api.Dial(s.socket()).Call(ctx, api.VerbStatus, struct{}{}, &st)
	return st, err
}

func (s *site) status() api.Status {
	s.t.Helper()
	st, err := s.tryStatus()
	if err != nil {
		s.t.Fatal(err)
	}
	return st
}

// groupOf picks a group out of a status.
func groupOf(st api.Status, name string) (api.GroupStatus, error) {
	for _, g := range st.Groups {
		if g.Name == name {
			return g, nil
		}
	}
	return api.GroupStatus{}, fmt.Errorf("no group %s in the status", name)
}

func (s *site) group(name string) api.GroupStatus {
	s.t.Helper()
	g, err := groupOf(s.status(), name)
	if err != nil {
		s.t.Fatal(err)
	}
	return g
}

// volume creates a group and a volume in it.
func (s *site) volume(group, volume, size string) {
	s.t.Helper()
	s.verb("group", "create", group)
	s.verb("volume", "create", volume, "--group", group, "--size", size)
}

func (s *site) uri(volume string) string {
	return "nbd+unix:///" + volume + "?socket=" + s.nbdSocket()
}

func (s *site) dial(volume string) *nbdclient.Conn {
	s.t.Helper()
	c, err := nbdclient.Dial(s.t.Context(), s.uri(volume), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// drained waits until the store holds every acknowledged write.
func (s *site) drained(group string, limit time.Duration) {
	s.t.Helper()
	until(s.t, limit, "the store holds all of group "+group, func() error {
		g := s.group(group)
		if g.DurableLSN == g.LastLSN && g.LagSeconds == 0 {
			return nil
		}
		return fmt.Errorf("%+v", g)
	})
}
