package systemtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/child"
	"github.com/pollux-dr/pollux/internal/s3test"
)

// follower is a standby of a site, in a process and a state directory of its own.
type follower struct {
	t       *testing.T
	site    *site
	dir     string
	process *child.Process
}

func newFollower(t *testing.T, s *site, more string) *follower {
	t.Helper()
	dir, err := os.MkdirTemp(shm, "")
	if err != nil {
		t.Fatal(err)
	}
	f := &follower{t: t, site: s, dir: dir}
	y := fmt.Sprintf("name: host2\nsite: elsewhere\nstate: %s\nruntime: %s\nsocket: %s\nmemory: 32MiB\nnbd:\n"+
		"  unix: %s\njournal:\n  targets:\n    - name: faraway\n      url: %s\n", f.state(), f.path("run"), f.socket(),
		f.path("nbd.sock"), s.conf.url)
	if s.conf.endpoint != "" {
		y += fmt.Sprintf("      endpoint: %s\n      credentials_file: %s\n", s.conf.endpoint, s.conf.credentials)
	}
	if err := os.WriteFile(f.path("standby.yaml"), []byte(y+"standby:\n"+more), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if f.process != nil {
			f.process.Kill()
		}
		if t.Failed() {
			b, _ := os.ReadFile(f.path("log")) // none is none
			t.Logf("end of the standby's log:\n%s", tail(string(b), 60))
		}
		_ = os.RemoveAll(f.dir)
	})
	return f
}

func (f *follower) path(name string) string { return filepath.Join(f.dir, name) }
func (f *follower) state() string           { return f.path("state") }
func (f *follower) socket() string          { return f.path("control.sock") }
func (f *follower) image(volume string) string {
	return filepath.Join(f.state(), "volumes", volume+".img")
}

func (f *follower) start() {
	f.t.Helper()
	log, err := os.OpenFile(f.path("log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		f.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program, "standby", "-c", f.path("standby.yaml"))
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, f.site.environ()
	if f.process, err = child.Start(cmd); err != nil {
		f.t.Fatal(err)
	}
}

func (f *follower) status() (*api.StandbyStatus, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var st api.Status
	if err := api.Dial(f.socket()).Call(ctx, api.VerbStatus, struct{}{}, &st); err != nil {
		return nil, err
	}
	return st.Standby, nil
}

// reached waits until a volume's image holds an LSN, and its group follows.
func (f *follower) reached(volume string, lsn uint64) {
	f.t.Helper()
	until(f.t, time.Minute, fmt.Sprintf("the standby has LSN %d of %s", lsn, volume), func() error {
		st, err := f.status()
		if err != nil {
			return err
		}
		for _, g := range st.Groups {
			for _, v := range g.Volumes {
				if v.Name == volume && v.LSN >= lsn && g.State == "following" && v.LagSeconds == 0 {
					return nil
				}
			}
		}
		return fmt.Errorf("%+v", st)
	})
}

// TestStandby: an agent writes under load into a bucket, and a standby elsewhere follows it,
// is killed again and again, and ends byte for byte at what the volume holds.
func TestStandby(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	srv := startStore(t, s3test.VersityGW)
	s := newSite(t, siteConf{url: "s3://remote/p", endpoint: srv.Endpoint, credentials: srv.CredentialsFile})
	s.mustStart()
	s.volume("exact", "one", "16MiB")
	w := newWriter(s, "exact", "one", exactBytes, rand.New(rand.NewPCG(r.Uint64(), 1)))
	w.connect()
	w.largeTrims = true
	stop := w.background()
	w.progress(300)
	f := newFollower(t, s, "")
	for range 12 {
		f.start()
		time.Sleep(time.Duration(50+r.IntN(700)) * time.Millisecond) // when is random, nothing is waited for
		f.process.Kill()
		w.progress(50)
	}
	f.start()
	s.verb("volume", "create", "two", "--group", "exact", "--size", "8MiB")
	w.progress(200)
	stop()
	s.drained("exact", time.Minute)
	last := s.group("exact").LastLSN
	f.reached("one", last)
	f.reached("two", last)
	f.check(t, w, s)
	f.cliStatus(t, s)
	if !f.process.End(syscall.SIGTERM, time.Minute) || f.process.ExitCode() != 0 {
		t.Errorf("it did not end in order: %d", f.process.ExitCode())
	}
	f.refusals(t, s)
}

// check compares the image with the model, with what the volume holds, and with a restore.
func (f *follower) check(t *testing.T, w *writer, s *site) {
	t.Helper()
	got, err := os.ReadFile(f.image("one"))
	if err != nil {
		t.Fatal(err)
	}
	sameBytes(t, "the image of one", got, w.h.image)
	w.connect()
	sameBytes(t, "the volume one", readAll(t, w.conn), got)
	twin, _ := s.restore("one", "")
	sameBytes(t, "the newest restore of one", twin, got)
}

// cliStatus looks at what an operator sees.
func (f *follower) cliStatus(t *testing.T, s *site) {
	t.Helper()
	for _, c := range []struct {
		args []string
		want []string
	}{{[]string{"status", "--socket", f.socket()}, []string{"exact", "secondary", "following", "as of", "host2"}},
		{[]string{"status", "--json", "--socket", f.socket()}, []string{`"as_of"`, `"lag_seconds"`, `"epoch"`}},
		{[]string{"status", "--check", "--socket", f.socket()}, []string{"OK: all groups follow: exact"}}} {
		cmd := exec.Command(program, c.args...)
		cmd.Env = s.environ()
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v: %v: %s", c.args, err, out)
		}
		for _, want := range c.want {
			if !strings.Contains(string(out), want) {
				t.Errorf("%v does not say %q:\n%s", c.args, want, out)
			}
		}
	}
}

// refusals: a standby does not follow in the state directory of an agent that has volumes.
func (f *follower) refusals(t *testing.T, s *site) {
	t.Helper()
	s.stop()
	cmd := exec.Command(program, "standby", "-c", s.config())
	cmd.Env = s.environ()
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 5 || !strings.Contains(string(out), "an agent that has volumes") {
		t.Errorf("in an agent's state directory: %v: %s", err, out)
	}
}
