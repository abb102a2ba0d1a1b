package systemtest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbdclient"
)

// twinMount is a running pollux mount.
type twinMount struct {
	cmd  *exec.Cmd
	said map[string]any
	conn *nbdclient.Conn
	out  *locked
}

// locked is a buffer that is read while it is written.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// mount serves a volume's point and connects to it.
func (s *site) mount(args ...string) *twinMount {
	s.t.Helper()
	return s.mountBy(append(append([]string{"mount"}, args...), s.storeArgs()...)...)
}

// mountBy runs a verb that serves a volume, and connects to it.
func (s *site) mountBy(args ...string) *twinMount {
	s.t.Helper()
	m := &twinMount{out: new(locked)}
	m.cmd = exec.Command(program, append(args, "--json")...)
	m.cmd.Stderr, m.cmd.Env = m.out, s.environ()
	stdout, err := m.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = m.cmd.Process.Kill(); _ = m.cmd.Wait() })
	if err := json.NewDecoder(bufio.NewReader(stdout)).Decode(&m.said); err != nil {
		_ = m.cmd.Wait()
		s.t.Fatalf("pollux %v: %v: %s", args, err, m.out)
	}
	if m.conn, err = nbdclient.Dial(s.t.Context(), m.said["uri"].(string), nil); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = m.conn.Close() })
	return m
}

func (m *twinMount) end(t *testing.T) {
	t.Helper()
	_ = m.conn.Close()
	_ = m.cmd.Process.Signal(syscall.SIGTERM)
	if err := m.cmd.Wait(); err != nil {
		t.Errorf("mount ended with %v: %s", err, m.out)
	}
}

// TestTwinMounts mounts several points at once while replication goes on: each shows
// its point, takes writes of its own, and one that was hydrated does without the store.
func TestTwinMounts(t *testing.T) {
	s := newSite(t, siteConf{})
	s.mustStart()
	const size = 32 << 20
	s.volume("g", "v", "32MiB")
	conn, img, r := s.dial("v"), make([]byte, size), rand.NewChaCha8([32]byte{3})
	points, names := map[string][]byte{}, []string{"one", "two", "three"}
	for _, name := range names {
		noise(t, conn, img, r, 2000)
		s.mark("g", name)
		points[name] = bytes.Clone(img)
	}
	tmp := t.TempDir()
	var mounts []*twinMount
	for i, name := range names {
		args := []string{"v", "--at", name, "--cache", tmp, "--nbd", filepath.Join(tmp, name)}
		if i > 0 {
			args = append(args, "--writable", "--cache-size", "4MiB")
		}
		mounts = append(mounts, s.mount(args...))
	}
	noise(t, conn, img, r, 500) // replication goes on
	for i, name := range names {
		m, want := mounts[i], points[name]
		sameBytes(t, "mounted at "+name, readAll(t, m.conn), want)
		err := m.conn.WriteAt(t.Context(), []byte(name), 5000, 0)
		if (err == nil) != (i > 0) {
			t.Errorf("%s: a write: %v", name, err)
		}
		if i > 0 {
			copy(want[5000:], name)
			noise(t, m.conn, want, r, 300)
			sameBytes(t, "written to at "+name, readAll(t, m.conn), want)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(tmp, "pollux-*")); len(left) > 0 {
		t.Errorf("a mount leaves files that a kill would leave: %v", left)
	}
	if o := s.pollux(append([]string{"mount", "v", "--nbd", filepath.Join(tmp, "one")}, s.storeArgs()...)...); o.code !=
		fail.ExitCode(fail.New(fail.Exists, "", "", "")) {
		t.Errorf("on a socket in use: %d, %s", o.code, o.stderr)
	}
	for _, m := range mounts[:2] {
		m.end(t)
	}
	if got := s.checkTwin(t, conn, img); got == 0 {
		t.Error("nothing is in the twin")
	}
	// One comes home, and the store goes away.
	want, _ := s.restore("v", "two")
	h := s.mount("v", "--at", "two", "--writable", "--hydrate", "--cache", tmp)
	copy(want[100:], "mine")
	if err := h.conn.WriteAt(t.Context(), []byte("mine"), 100, 0); err != nil {
		t.Fatal(err)
	}
	until(t, time.Minute, "the mount is hydrated", func() error {
		if !strings.Contains(h.out.String(), "hydrated: the store is not needed") {
			return errors.New(h.out.String())
		}
		return nil
	})
	s.agent.Kill()
	if err := os.Rename(s.storeDir(), s.storeDir()+".away"); err != nil {
		t.Fatal(err)
	}
	sameBytes(t, "without a store", readAll(t, h.conn), want)
	h.end(t)
}

// checkTwin drains, and compares the newest point with the volume.
func (s *site) checkTwin(t *testing.T, conn *nbdclient.Conn, want []byte) uint64 {
	t.Helper()
	s.drained("g", time.Minute)
	b, lsn := s.restore("v", "")
	sameBytes(t, "newest twin", b, want)
	return lsn
}
