package systemtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/promote"
	"github.com/pollux-dr/pollux/internal/child"
	"github.com/pollux-dr/pollux/internal/s3test"
)

// TestStandbyTakesOver: the primary is killed under load, and its standby takes over in its own
// process, killed in the middle of that as well. What the new site serves is what was acknowledged
// at the point that it says, which is no earlier than what the store was known to have; writers go
// on there, in the same log; and the standby's unit, restarted, is the agent.
func TestStandbyTakesOver(t *testing.T) {
	t.Parallel()
	for _, kills := range []int{0, 25} {
		t.Run(fmt.Sprintf("%d kills", kills), func(t *testing.T) { takeOver(t, kills) })
	}
}

func takeOver(t *testing.T, kills int) {
	r := newRand(t)
	srv := startStore(t, s3test.VersityGW)
	s := newSite(t, siteConf{url: "s3://remote/p", endpoint: srv.Endpoint, credentials: srv.CredentialsFile,
		target: "      site: elsewhere\nsite: seoul\n"})
	s.mustStart()
	s.volume("exact", "one", "16MiB")
	w := newWriter(s, "exact", "one", exactBytes, rand.New(rand.NewPCG(r.Uint64(), 1)))
	w.connect()
	f := newFollower(t, s, "  groups: [exact]\n")
	f.start()
	done := make(chan error, 1)
	go func() { done <- w.run(context.Background()) }()
	w.progress(500)
	f.follows("one")
	w.progress(500)
	durable := s.group("exact").DurableLSN
	s.agent.Kill()
	var bad *wrong
	if err := <-done; errors.As(err, &bad) {
		t.Fatal(bad)
	}
	for range kills {
		cmd := exec.Command(program, f.verb()...)
		cmd.Env = s.environ()
		p, err := child.Start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(r.IntN(500)) * time.Millisecond) // when is random, nothing is waited for
		f.process.Kill()
		p.Kill()
		f.start()
	}
	began := time.Now()
	rep := f.failOver()
	if rep.Epoch != 2 || rep.FromSite != "seoul" {
		t.Errorf("%+v", rep)
	}
	n := f.asSite()
	until(t, time.Minute, "the new site serves", func() error {
		if !f.process.Running() { // it found the verb at work, and its unit starts it again
			f.start()
		}
		_, err := n.tryStatus()
		return err
	})
	acknowledged := w.h.lsn
	w = w.goOnAt(n, durable)
	t.Logf("durable LSN %d, goes on from %d, acknowledged %d; RPO %.3f s, RTO %.3f s, %.3f s with the CLI", durable,
		w.h.lsn, acknowledged, rep.RPOSeconds, rep.RTOSeconds, time.Since(began).Seconds())
	stop := w.background()
	w.progress(300)
	stop()
	w.verify()
	until(t, time.Minute, "the log goes on", func() error {
		if got := n.storeLastLSN("one"); got < w.h.lsn {
			return fmt.Errorf("the store is at LSN %d of %d", got, w.h.lsn)
		}
		return nil
	})
	w.checkNewest()
	f.process.Kill() // its unit starts it again
	f.start()
	until(t, time.Minute, "the unit serves", func() error { _, err := n.tryStatus(); return err })
	w.connect()
	w.verify()
	if again := f.failOver(); !again.Done {
		t.Errorf("once more: %+v", again)
	}
}

// follows waits until a volume's image does.
func (f *follower) follows(volume string) {
	f.t.Helper()
	until(f.t, time.Minute, "the standby follows "+volume, func() error {
		st, err := f.status()
		if err != nil {
			return err
		}
		for _, g := range st.Groups {
			for _, v := range g.Volumes {
				if v.Name == volume && v.State == "following" {
					return nil
				}
			}
		}
		return fmt.Errorf("%+v", st)
	})
}

func (f *follower) verb() []string {
	return []string{"failover", "--force", "--yes", "--json", "-c", f.path("standby.yaml")}
}

// failOver repeats the verb until it is done, as an operator would.
func (f *follower) failOver() *promote.Report {
	f.t.Helper()
	rep := &promote.Report{}
	until(f.t, time.Minute, "the failover is done", func() error {
		o := f.site.pollux(f.verb()...)
		if o.code != 0 {
			return fmt.Errorf("code %d: %s", o.code, o.stderr)
		}
		return json.Unmarshal([]byte(o.stdout), rep)
	})
	return rep
}

// asSite is the host of the standby as that of the agent which it has become.
func (f *follower) asSite() *site {
	return &site{t: f.t, conf: f.site.conf, dir: f.dir, shm: f.dir}
}
