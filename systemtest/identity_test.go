package systemtest

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/fail"
)

// smallBytes is the size of volumes in tests that are not about load.
const smallBytes = 4 << 20

// newSmall is a site with one small volume that has been written to, and whose
// store holds all of it.
func newSmall(t *testing.T) (*site, *writer) {
	t.Helper()
	s := newSite(t, siteConf{})
	s.mustStart()
	s.volume("g", "v", "4MiB")
	w := newWriter(s, "g", "v", smallBytes, newRand(t))
	w.write(200)
	s.drained("g", time.Minute)
	return s, w
}

// write carries out n requests and a flush.
func (w *writer) write(n int) {
	w.site.t.Helper()
	w.connect()
	for range n {
		if err := w.do(randomOp(w.rand, 0, w.h.size)); err != nil {
			w.site.t.Fatal(err)
		}
	}
	if err := w.conn.Flush(w.site.t.Context()); err != nil {
		w.site.t.Fatal(err)
	}
	w.flushed.Store(w.h.lsn)
}

// runAgent starts the agent in the expectation that it ends by itself.
func (s *site) runAgent() outcome {
	s.t.Helper()
	return s.pollux("agent", "-c", s.config())
}

func TestSecondAgentRefused(t *testing.T) {
	s, w := newSmall(t)
	o := s.runAgent()
	wantError(t, "second agent", o, fail.Refused, s.conf.state)
	w.write(10) // the first goes on
	w.verify()
}

// TestWrongJournalRefused loses the state directory and starts afresh over the
// same prefix: the new journal must not touch the old one's log.
func TestWrongJournalRefused(t *testing.T) {
	s, w := newSmall(t)
	s.stop()
	if err := os.RemoveAll(s.conf.state); err != nil {
		t.Fatal(err)
	}
	s.mustStart()
	s.volume("g", "v", "4MiB")
	other := newWriter(s, "g", "v", smallBytes, w.rand)
	other.write(50)
	s.mustBeFenced()
	if g := s.group("g"); g.DurableLSN != 0 {
		t.Errorf("it claims that LSN %d is in the store", g.DurableLSN)
	}
	if o := s.pollux("status", "--check"); o.code != 2 {
		t.Errorf("status --check: code %d, %q; want 2", o.code, o.stdout)
	}
	t.Run("StatusSaysWhatToDo", func(t *testing.T) {
		if o := s.pollux("status", "--check"); !strings.Contains(o.stdout, "prefix of its own") {
			t.Errorf("no hint: %q", o.stdout)
		}
	})
	if lsn := w.checkNewest(); lsn != w.h.lsn {
		t.Errorf("the store ends at LSN %d now, at %d before", lsn, w.h.lsn)
	}
}

func (s *site) mustBeFenced() {
	s.t.Helper()
	until(s.t, 20*time.Second, "the group is fenced", func() error {
		if g := s.group("g"); g.State != "Fenced" || g.Reason == "" {
			return fail.New(fail.Retry, "", "", g.State+": "+g.Reason)
		}
		return nil
	})
}

// TestOldStateRefused puts a backup of the whole state directory back after
// more was uploaded. Going on from it would give LSNs a second time.
func TestOldStateRefused(t *testing.T) {
	for _, x := range []struct {
		name      string
		powerLoss bool // the arena is gone too
		kill      bool // the newer state was not stopped in order
	}{{"stopped", false, false}, {"killed", false, true}, {"power loss", true, true}} {
		t.Run(x.name, func(t *testing.T) {
			s, w := newSmall(t)
			s.stop()
			backup := filepath.Join(s.dir, "backup")
			copyTree(t, s.conf.state, backup)
			s.mustStart()
			w.write(100)
			s.drained("g", time.Minute)
			if s.stop(); x.kill {
				s.mustStart()
				w.write(20)
				s.drained("g", time.Minute)
				s.agent.Kill()
			}
			if err := os.RemoveAll(s.conf.state); err != nil {
				t.Fatal(err)
			}
			copyTree(t, backup, s.conf.state)
			if x.powerLoss {
				removeArena(t, s)
			}
			s.mustNotExtend(w)
		})
	}
}

// mustNotExtend starts the agent on a state that is older than its store: it
// refuses, or serves but is fenced. The store keeps the newer history.
func (s *site) mustNotExtend(w *writer) {
	s.t.Helper()
	if err := s.start(); err != nil {
		s.t.Logf("refused: %v", err)
	} else {
		// It may serve, as long as nothing of that reaches the store.
		if c := s.dial("v"); c.WriteAt(s.t.Context(), make([]byte, 512), 0, 0) == nil {
			_ = c.Flush(s.t.Context())
		}
		s.mustBeFenced()
		s.t.Logf("fenced: %s", s.group("g").Reason)
	}
	if lsn := w.checkNewest(); lsn != w.h.lsn {
		s.t.Errorf("the store ends at LSN %d now, at %d before", lsn, w.h.lsn)
	}
}

func removeArena(t *testing.T, s *site) {
	t.Helper()
	arenas, err := filepath.Glob(filepath.Join(s.shm, "arena-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range arenas {
		if err := os.Remove(a); err != nil {
			t.Fatal(err)
		}
	}
}

// copyTree copies a directory, holes as holes, as the snapshot of a block device
// would: the mark of a backing, which names its inode, holds for the copy too.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	out, err := exec.Command("cp", "-a", "--sparse=always", from, to).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	const attr = "user.pollux.backing"
	inode := regexp.MustCompile(`inode \d+ born \d+:`)
	err = filepath.WalkDir(to, func(path string, d fs.DirEntry, err error) error {
		var st unix.Statx_t
		mark := make([]byte, 1024)
		n, xerr := 0, err
		if err == nil && d.Type().IsRegular() {
			n, xerr = unix.Getxattr(path, attr, mark)
		}
		if n == 0 || xerr != nil {
			return err
		}
		if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
			return err
		}
		return unix.Setxattr(path, attr,
			inode.ReplaceAll(mark[:n], fmt.Appendf(nil, "inode %d born %d:", st.Ino, st.Btime.Sec*1e9+
				int64(st.Btime.Nsec))), 0)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// wantError holds what a verb says against the rules: one line that names the
// thing, and the right code.
func wantError(t *testing.T, what string, o outcome, kind fail.Kind, names ...string) {
	t.Helper()
	if want := fail.ExitCode(fail.New(kind, "", "", "")); o.code != want {
		t.Errorf("%s: code %d, want %d (%v): %s", what, o.code, want, kind, o.stderr)
	}
	var lines []string
	for line := range strings.Lines(o.stderr) {
		if strings.HasPrefix(line, "pollux: ") {
			lines = append(lines, line)
		}
	}
	if len(lines) != 1 {
		t.Errorf("%s: %d error lines, want 1:\n%s", what, len(lines), o.stderr)
	}
	for _, n := range names {
		if !strings.Contains(o.stderr, n) {
			t.Errorf("%s: the error does not name %q: %s", what, n, o.stderr)
		}
	}
	if strings.Contains(o.stderr, "panic") || strings.Contains(o.stderr, "goroutine ") {
		t.Errorf("%s: a panic:\n%s", what, o.stderr)
	}
	if o.stdout != "" {
		t.Errorf("%s: something on standard output: %q", what, o.stdout)
	}
}
