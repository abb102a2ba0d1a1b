package systemtest

import (
	"bytes"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// offsets is how an error says where in a file the damage is.
var offsets = regexp.MustCompile(`(byte|offset) \d+`)

// flip changes one bit of one byte and returns what undoes it.
func flip(t *testing.T, path string, off int64, r *rand.Rand) (undo func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	old := b
	b[0] ^= 1 << r.IntN(8)
	if _, err := f.WriteAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	return func() {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt(old[:], off); err != nil {
			t.Fatal(err)
		}
	}
}

// pick chooses a byte of a file, one that is not zero where it can: most of a
// preallocated file means nothing.
func pick(t *testing.T, path string, r *rand.Rand) int64 {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	off := 0
	for range 10000 {
		if off = r.IntN(len(b)); b[off] != 0 {
			break
		}
	}
	return int64(off)
}

func filesBelow(t *testing.T, dir, pattern string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		st, err := d.Info()
		if ok, _ := filepath.Match(pattern, d.Name()); ok && err == nil && st.Size() > 0 {
			out = append(out, path)
		}
		return err
	})
	if err != nil || len(out) == 0 {
		t.Fatalf("no file %s below %s: %v", pattern, dir, err)
	}
	return out
}

// TestDamagedObject flips bytes in the objects of the store. A restore then
// names object and offset, or is right all the same.
func TestDamagedObject(t *testing.T) {
	t.Parallel()
	s, w := newSmall(t)
	s.agent.Kill()
	objects := filesBelow(t, filepath.Join(s.storeDir(), "log"), "*")
	found := 0
	for range 60 {
		path := objects[w.rand.IntN(len(objects))]
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		off := w.rand.Int64N(st.Size())
		undo := flip(t, path, off, w.rand)
		out := filepath.Join(s.dir, "out")
		o := s.pollux(append([]string{"restore", "v", "--restart", "-o", out}, s.storeArgs()...)...)
		if o.code == 0 {
			got, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			sameBytes(t, "restored from a damaged "+filepath.Base(path), got, w.h.image)
			_ = os.Remove(out)
		} else {
			found++
			what := "byte flipped in " + filepath.Base(path)
			wantError(t, what, o, fail.Damaged, filepath.Base(path))
			if !offsets.MatchString(o.stderr) {
				t.Errorf("%s at %d: no offset in %s", what, off, o.stderr)
			}
			if _, err := os.Stat(out); err == nil {
				t.Errorf("%s: a file was left behind", what)
			}
		}
		undo()
	}
	t.Logf("%d of 60 refused", found)
	w.checkNewest()
}

// TestDamagedState flips bytes in the files of an agent that was killed. It
// then names file and offset, or serves what is right all the same.
func TestDamagedState(t *testing.T) {
	t.Parallel()
	s, w := newSmall(t)
	w.write(150)
	s.agent.Kill()
	pristine := filepath.Join(s.dir, "pristine")
	if err := os.Mkdir(pristine, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{s.conf.state, s.storeDir(), s.shm} {
		copyTree(t, dir, pristine)
	}
	for _, x := range []struct {
		dir, pattern string
		n            int
		named        bool // the error names the file and where in it
	}{
		{"agent/wal", "*", 12, true},
		{"agent", "*.json", 8, true},
		{"journal/raft", "*", 12, true},
		{"journal/state", "*", 10, false}, // Pebble's own words
	} {
		t.Run(strings.ReplaceAll(x.dir, "/", "-"), func(t *testing.T) {
			refused := 0
			for range x.n {
				s.putBack(t, pristine)
				files := filesBelow(t, filepath.Join(s.conf.state, x.dir), x.pattern)
				path := files[w.rand.IntN(len(files))]
				off := pick(t, path, w.rand)
				flip(t, path, off, w.rand)
				if !s.serveOrName(t, w, path, off, x.named) {
					refused++
				}
			}
			t.Logf("%d of %d refused", refused, x.n)
		})
	}
}

// TestDamagedLastFrameIsNamed flips a byte in the newest frame of the agent's
// WAL, which the journal has accepted and the store holds. To the WAL alone this
// looks like a torn write; but the journal knows better, and going on would
// serve a volume that has lost a flushed write.
func TestDamagedLastFrameIsNamed(t *testing.T) {
	s, w := newSmall(t)
	for range 20 {
		if err := w.do(op{n: 4096, off: 8192, seed: w.rand.Uint64()}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.conn.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.drained("g", time.Minute)
	s.agent.Kill()
	files := filesBelow(t, filepath.Join(s.conf.state, "agent/wal"), "0*.wal")
	newest := files[len(files)-1]
	b, err := os.ReadFile(newest)
	if err != nil {
		t.Fatal(err)
	}
	last := len(bytes.TrimRight(b, "\x00")) - 1
	flip(t, newest, int64(last), w.rand)
	s.serveOrName(t, w, newest, int64(last), true)
}

// TestDamagedJournalStateIsNamed flips a byte in the first record of Pebble's
// own log, which looks like a torn one to Pebble: it drops all that follows,
// Raft's term and vote and the journal's name among it. A journal that then
// makes up a new name is another journal over an old Raft log.
func TestDamagedJournalStateIsNamed(t *testing.T) {
	s, w := newSmall(t)
	s.agent.Kill()
	logs := filesBelow(t, filepath.Join(s.conf.state, "journal/state"), "*.log")
	flip(t, logs[len(logs)-1], 20, w.rand)
	if s.start() != nil {
		if c := s.agent.ExitCode(); c != fail.ExitCode(fail.New(fail.Damaged, "", "", "")) {
			t.Errorf("code %d: %s", c, tail(s.logText(), 2))
		}
		return
	}
	until(t, 5*time.Second, "it goes on as the same journal", func() error {
		if g := s.group("g"); g.State != "Replicating" || g.DurableLSN != w.h.lsn {
			return fail.New(fail.Damaged, "", "", g.State+": "+g.Reason)
		}
		return nil
	})
}

// putBack restores state, store and arena as they were at the kill.
func (s *site) putBack(t *testing.T, pristine string) {
	t.Helper()
	for _, dir := range []string{s.conf.state, s.storeDir(), s.shm} {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		copyTree(t, filepath.Join(pristine, filepath.Base(dir)), dir)
	}
}

// serveOrName starts the agent over damage and says whether it serves.
func (s *site) serveOrName(t *testing.T, w *writer, path string, off int64, named bool) bool {
	t.Helper()
	_ = os.Remove(s.logPath())
	what := "byte flipped in " + strings.TrimPrefix(path, s.conf.state)
	if s.start() != nil {
		o := outcome{code: s.agent.ExitCode(), stderr: s.logText()}
		if !named {
			if strings.Contains(o.stderr, "goroutine ") {
				t.Errorf("%s at %d: a panic:\n%s", what, off, tail(o.stderr, 30))
			}
			return false
		}
		wantError(t, what, o, fail.Damaged, filepath.Base(path))
		if isJSON := strings.HasSuffix(path, ".json"); !isJSON && !offsets.MatchString(o.stderr) {
			t.Errorf("%s at %d: no offset in %s", what, off, tail(o.stderr, 2))
		}
		return false
	}
	defer s.agent.Kill()
	c := s.dial("v")
	sameBytes(t, what, readAll(t, c), w.h.image)
	if lsn := s.group("g").LastLSN; lsn != w.h.lsn {
		t.Errorf("%s at %d: LSN %d after the restart, was %d", what, off, lsn, w.h.lsn)
	}
	until(t, 20*time.Second, what+": it replicates, or says what is wrong", func() error {
		g := s.group("g")
		if g.State != "Replicating" && g.Reason != "" || g.DurableLSN == g.LastLSN {
			return nil
		}
		return fail.New(fail.Retry, "", "", g.State)
	})
	if g := s.group("g"); g.DurableLSN == g.LastLSN {
		w.checkNewest()
	} else {
		t.Logf("%s at %d: %s, %s", what, off, g.State, g.Reason)
	}
	return true
}
