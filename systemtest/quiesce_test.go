package systemtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// hooked is a site whose group has hooks: the first makes a file `still` and says so in
// `log`, the second removes it.
func hooked(t *testing.T, pre string) *site { return hookedFor(t, "2s", pre) }

func hookedFor(t *testing.T, limit, pre string) *site {
	t.Helper()
	s := newSite(t, siteConf{})
	for name, text := range map[string]string{"pre": pre, "post": "echo post >> log; rm -f still"} {
		script := fmt.Sprintf("#!/bin/sh\ncd %s\n%s\n", s.dir, text)
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(s.config())
	if err != nil {
		t.Fatal(err)
	}
	s.writeConfig(string(b) + fmt.Sprintf("quiesce:\n  - {group: g, pre: [%s/pre, now], post: [%s/post], limit: %s}\n",
		s.dir, s.dir, limit))
	s.mustStart()
	s.volume("g", "v", "1MiB")
	return s
}

func (s *site) still() bool {
	_, err := os.Stat(filepath.Join(s.dir, "still"))
	return err == nil
}

// goesOn waits until the application does not stand still any more.
func (s *site) goesOn(t *testing.T, posts int) {
	t.Helper()
	until(t, 20*time.Second, "the application goes on", func() error {
		b, _ := os.ReadFile(filepath.Join(s.dir, "log"))
		if n := strings.Count(string(b), "post"); s.still() || n != posts {
			return fmt.Errorf("still: %v, %d times gone on:\n%s", s.still(), n, b)
		}
		return nil
	})
}

// TestQuiesce: the application goes on whatever happens, and a bookmark is there only
// when it stood still for it.
func TestQuiesce(t *testing.T) {
	refused := fail.ExitCode(fail.New(fail.Refused, "", "", ""))
	t.Run("good", func(t *testing.T) {
		s := hooked(t, "touch still; echo pre $1 >> log")
		v := s.verb("bookmark", "add", "b", "--group", "g", "--quiesce")
		if v["quiesced"] != true {
			t.Errorf("%v", v)
		}
		s.goesOn(t, 1)
		s.verb("bookmark", "add", "c", "--group", "g")
		s.goesOn(t, 1)
	})
	t.Run("hook fails", func(t *testing.T) {
		s := hooked(t, "touch still; echo no space left in backup area; exit 3")
		o := s.pollux("bookmark", "add", "b", "--group", "g", "--quiesce")
		if o.code != refused || !strings.Contains(o.stderr, "no space left in backup area") {
			t.Errorf("%d: %s", o.code, o.stderr)
		}
		s.goesOn(t, 1)
		if v := s.verb("bookmark", "ls"); len(v["bookmarks"].([]any)) != 0 {
			t.Errorf("%v", v)
		}
	})
	t.Run("hook hangs", func(t *testing.T) {
		s := hooked(t, "touch still; sleep 100")
		o := s.pollux("bookmark", "add", "b", "--group", "g", "--quiesce")
		if o.code != refused || !strings.Contains(o.stderr, "too long") {
			t.Errorf("%d: %s", o.code, o.stderr)
		}
		s.goesOn(t, 1)
	})
	t.Run("agent killed", func(t *testing.T) {
		s := hooked(t, "touch still; sleep 1.5")
		cmd := exec.Command(program, "bookmark", "add", "b", "--group", "g", "--quiesce")
		cmd.Env = s.environ()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		until(t, 10*time.Second, "it stands still", func() error {
			if !s.still() {
				return errors.New("not yet")
			}
			return nil
		})
		s.agent.Kill()
		_ = cmd.Wait()
		s.goesOn(t, 1)
	})
	t.Run("caller leaves", func(t *testing.T) {
		s := hookedFor(t, "10m", "touch still; sleep 600")
		cmd := exec.Command(program, "bookmark", "add", "b", "--group", "g", "--quiesce")
		cmd.Env = s.environ()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		until(t, 10*time.Second, "it stands still", func() error {
			if !s.still() {
				return errors.New("not yet")
			}
			return nil
		})
		start := time.Now()
		s.verb("group", "set", "g", "--rpo-target", "7")
		s.verb("bookmark", "add", "c", "--group", "g")
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("other verbs waited %v for the hook", took)
		}
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		s.goesOn(t, 1)
	})
	t.Run("none configured", func(t *testing.T) {
		s := hooked(t, "true")
		s.verb("group", "create", "h")
		s.verb("volume", "create", "w", "--group", "h", "--size", "1MiB")
		if o := s.pollux("bookmark", "add", "b", "--group", "h", "--quiesce"); o.code == 0 ||
			!strings.Contains(o.stderr, "quiesce:") {
			t.Errorf("%d: %s", o.code, o.stderr)
		}
	})
}

// TestClone makes volumes of a point and of a mount that was written to.
func TestClone(t *testing.T) {
	s := newSite(t, siteConf{})
	s.mustStart()
	const size = 8 << 20
	s.volume("g", "v", "8MiB")
	conn, img, r := s.dial("v"), make([]byte, size), rand.NewChaCha8([32]byte{6})
	noise(t, conn, img, r, 600)
	s.mark("g", "b")
	want := append([]byte{}, img...)
	noise(t, conn, img, r, 100)
	s.drained("g", time.Minute)
	dir := t.TempDir()
	s.verb("group", "create", "copies")
	args := append([]string{"clone", "v", "w", "--at", "b", "--group", "copies", "--backing",
		filepath.Join(dir, "w.img")}, s.storeArgs()...)
	if v := s.verb(append(args, "--dry-run")...); v["volume"].(map[string]any)["ready"] != false ||
		s.pollux("volume", "changed", "w").code == 0 {
		t.Errorf("%v", v) // it says what would be made, and makes nothing
	}
	s.verb(args...)
	sameBytes(t, "clone of a point", readAll(t, s.dial("w")), want)
	noise(t, s.dial("w"), want, r, 50)
	m := s.mount("v", "--at", "b", "--writable")
	mine := readAll(t, m.conn)
	noise(t, m.conn, mine, r, 50)
	s.verb("clone", m.said["uri"].(string), "x", "--group", "copies", "--backing", filepath.Join(dir, "x.img"))
	m.end(t)
	sameBytes(t, "clone of a mount", readAll(t, s.dial("x")), mine)
	s.drained("copies", time.Minute)
	for name, want := range map[string][]byte{"w": want, "x": mine, "v": img} {
		got, _ := s.restore(name, "")
		sameBytes(t, "twin of "+name, got, want)
	}
	if o := s.pollux(args...); o.code != fail.ExitCode(fail.New(fail.Exists, "", "", "")) {
		t.Errorf("again: %d, %s", o.code, o.stderr)
	}
}
