package systemtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/replicator/state"
)

// levelFile came with feature level 1: the commit before it is the newest that knows none.
const levelFile = "replicator/state/level.go"

// earlierRelease builds the newest program of the repository's history that knows no feature
// levels, or that of the commit which POLLUX_EARLIER names.
func earlierRelease(t *testing.T) string {
	t.Helper()
	git := func(args ...string) string {
		args = append([]string{"-C", "..", "-c", "safe.directory=*"}, args...)
		out, err := exec.Command("git", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("git %s: %v: %s (this test needs the repository's history: git fetch --unshallow)",
				strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	commit := os.Getenv("POLLUX_EARLIER")
	if commit == "" {
		added := strings.Fields(git("log", "--diff-filter=A", "--format=%H", "--", levelFile))
		if len(added) == 0 {
			t.Fatalf("no commit of the history adds %s", levelFile)
		}
		commit = git("rev-parse", added[len(added)-1]+"^")
	}
	src := t.TempDir()
	archive := filepath.Join(src, "src.tar")
	git("archive", "-o", archive, commit)
	if out, err := exec.Command("tar", "-xf", archive, "-C", src).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	build := exec.Command("go", "build", "-o", filepath.Join(src, "earlier"), "./cmd/pollux")
	build.Dir, build.Env = src, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build of %s: %v: %s", commit, err, out)
	}
	t.Logf("the earlier release is commit %s", commit)
	return filepath.Join(src, "earlier")
}

// halted stops all members once they have applied the same, compares what each has, and
// returns it. They are started again.
func (c *cluster) halted() string {
	c.t.Helper()
	var state string
	until(c.t, startTimeout, "all members have applied the same", func() error {
		l, err := c.leader().list()
		if err != nil {
			return err
		}
		for _, m := range l.Members {
			if m.Error != "" || m.Applied != l.Members[0].Applied || m.Applied < m.Last {
				return fmt.Errorf("%+v", l)
			}
		}
		state, err = c.sameState()
		return err
	})
	return state
}

// sameState stops all members, in order, so that each has on disk what it applied. It is an
// error where they have not applied the same number of entries, and they are started again.
func (c *cluster) sameState() (string, error) {
	c.t.Helper()
	var ends sync.WaitGroup
	for _, m := range c.members {
		ends.Go(func() { m.process.End(syscall.SIGTERM, time.Minute) })
	}
	ends.Wait()
	states := make([][]string, len(c.members))
	for i, m := range c.members {
		states[i] = strings.Split(c.pollux("dump", "state", filepath.Join(m.state(), "journal")), "\n")
		m.start()
	}
	c.voters(len(c.members))
	for i := range states {
		if states[i][0] != states[0][0] {
			return "", fmt.Errorf("%s, and %s: an entry was on its way", states[0][0], states[i][0])
		}
		if diff := gocmp.Diff(states[0], states[i]); diff != "" {
			c.t.Fatalf("member %d has another state than member 0: %s", i, diff)
		}
	}
	return strings.Join(states[0], "\n"), nil
}

// lead makes a member the leader.
func (c *cluster) lead(m *memberProcess) {
	c.t.Helper()
	until(c.t, startTimeout, fmt.Sprintf("member %d leads", m.n), func() error {
		now := c.leader()
		if now == m {
			return nil
		}
		var l api.JournalMembers
		if err := now.call(api.VerbJournalTransfer, api.JournalTransfer{Member: m.dialled}, &l); err != nil {
			return err
		}
		return errors.New("not yet")
	})
}

// verbSoon runs a verb until it succeeds: the journal may be without a leader for a moment. What
// exists by then was made by a try whose answer was lost.
func (s *site) verbSoon(args ...string) {
	s.t.Helper()
	until(s.t, startTimeout, strings.Join(args, " "), func() error {
		if out := s.pollux(args...); out.code != 0 && !strings.Contains(out.stderr, "it exists") {
			return errors.New(out.stderr)
		}
		return nil
	})
}

// TestTwoReleases replaces the members of a journal one by one with ones of this build, under
// load, each release leading in turn: at each step all members have the same state, down to the
// last byte. Only when all are new is there what the earlier release does not know.
func TestTwoReleases(t *testing.T) {
	if os.Getenv("POLLUX_NO_HISTORY") != "" {
		t.Skip("the repository's history is not here; .ci/run says and counts it")
	}
	t.Parallel()
	earlier := earlierRelease(t)
	c := newCluster(t, 3)
	c.program = earlier
	c.form()
	s := newSite(t, siteConf{journal: c.addresses(), url: c.store, program: earlier})
	s.mustStart()
	s.volume("g", "v", "16MiB")
	r := newRand(t)
	w := newWriter(s, "g", "v", exactBytes, r)
	w.connect()
	change := func(step string) {
		t.Helper()
		stop := w.background()
		w.progress(200)
		s.verbSoon("group", "set", "g", "--rpo-target", "20s")
		s.verbSoon("group", "set", "g", "--rpo-target", "30s")
		stop()
		s.verbSoon("bookmark", "add", "b-"+step, "--group", "g")
		for last := s.group("g").LastLSN; w.h.lsn < last; { // one whose answer was lost took an LSN, too
			w.h.add(op{kind: opMark}, 1)
		}
	}
	for i, m := range c.members {
		change(fmt.Sprint("old-", i))
		m.kill()
		change(fmt.Sprint("without-", i))
		m.program = program
		m.start()
		c.voters(3)
		c.lead(m)
		change(fmt.Sprint("new-leads-", i))
		if i < 2 {
			c.lead(c.members[2])
			change(fmt.Sprint("old-leads-", i))
			if got := c.halted(); !strings.Contains(got, "feature level 0") {
				t.Fatalf("with %d new members:\n%s", i+1, got)
			}
		}
	}
	level := fmt.Sprintf("feature level %d,", state.Level) // this release's
	until(t, startTimeout, level, func() error {
		if got := c.halted(); !strings.Contains(got, level) || !strings.Contains(got, "journal/seat") {
			return errors.New(got)
		}
		return nil
	})
	change("old-agent") // which goes on as before
	s.stop()
	s.conf.program = ""
	s.mustStart()
	w.connect()
	change("new-agent")
	if got := c.halted(); !strings.Contains(got, `"revision":`) {
		t.Errorf("the group was not changed by a patch:\n%s", got)
	}
	s.drained("g", time.Minute)
	t.Logf("checked %d points", checkPoints(w, r))
}
