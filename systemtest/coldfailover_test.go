package systemtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/child"
	"github.com/pollux-dr/pollux/internal/s3test"
)

// TestColdFailover: a site is lost. Another takes over and serves in one command, with a volume of
// which nothing is here: it is written to and read under load while it comes from the store, gc runs
// meanwhile, and the process is killed again and again. In the end every byte is what both sites
// have written, in the image and in the store.
func TestColdFailover(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	srv := startStore(t, s3test.VersityGW)
	a := newSite(t, siteConf{url: "s3://remote/p", endpoint: srv.Endpoint, credentials: srv.CredentialsFile})
	a.mustStart()
	a.volume("exact", "one", "16MiB")
	w := newWriter(a, "exact", "one", exactBytes, rand.New(rand.NewPCG(r.Uint64(), 1)))
	w.connect()
	stop := w.background()
	w.progress(600)
	stop()
	a.drained("exact", time.Minute)
	a.agent.Kill()

	b := newSite(t, siteConf{name: "host2", url: a.conf.url, endpoint: a.conf.endpoint,
		credentials: a.conf.credentials})
	b.placed("hydrate_rate: 1B")
	b.takeOver()
	w.site = b
	w.connect()
	if h := b.status().Agent.Hydrating; len(h) != 1 || h[0].Volume != "one" || h[0].LeftBytes == 0 {
		t.Fatalf("hydrating: %+v", h)
	}
	halfway := 0
	for round := range 12 {
		if round == 9 { // and now as fast as it can
			b.placed("")
		}
		run := make(chan error, 1)
		go func() { run <- w.run(context.Background()) }()
		w.progress(10 + r.Int64N(30))
		if round%4 == 1 {
			b.verb(append([]string{"gc", "--grace", "0s"}, b.storeArgs()...)...)
		}
		if len(b.status().Agent.Hydrating) > 0 {
			halfway++
		}
		b.agent.Kill()
		var bad *wrong
		if err := <-run; errors.As(err, &bad) {
			t.Fatal(bad)
		}
		b.mustStart()
		w.connect()
		w.settle()
	}
	if halfway < 6 {
		t.Errorf("it was killed %d times while it was filled: too few to show anything", halfway)
	}
	until(t, time.Minute, "all is here, and the bookmark is gone", func() error {
		marks := b.pollux("bookmark", "ls")
		if h := b.status().Agent.Hydrating; len(h) > 0 || strings.Contains(marks.stdout, "failover-") {
			return fmt.Errorf("%+v, %s", h, marks.stdout)
		}
		return nil
	})
	w.verify()
	b.stop()
	got, err := os.ReadFile(b.conf.state + "/volumes/one.img")
	if err != nil {
		t.Fatal(err)
	}
	sameBytes(t, "the image", got, w.h.image)
	b.mustStart()
	until(t, time.Minute, "the store has all", func() error {
		if lsn := b.storeLastLSN("one"); lsn != w.h.lsn {
			return fmt.Errorf("LSN %d of %d", lsn, w.h.lsn)
		}
		return nil
	})
	w.checkNewest()
	w.checkRestore(r.Uint64N(w.h.lsn + 1))
}

// placed writes the configuration of a host at another site, with lines of its own.
func (s *site) placed(lines string) {
	s.t.Helper()
	s.configure()
	y, err := os.ReadFile(s.config())
	if err != nil {
		s.t.Fatal(err)
	}
	first, rest, _ := strings.Cut(string(y), "\n")
	s.writeConfig(first + "\nsite: elsewhere\n" + lines + "\n" + rest)
}

// takeOver is `pollux failover --force --serve`, in the agent's place.
func (s *site) takeOver() {
	s.t.Helper()
	log, err := os.OpenFile(s.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program, "failover", "--force", "--yes", "--serve", "-c", s.config())
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, s.environ()
	if s.agent, err = child.Start(cmd); err != nil {
		s.t.Fatal(err)
	}
	until(s.t, startTimeout, "the new site serves", func() error {
		_, err := s.tryStatus()
		return err
	})
}
