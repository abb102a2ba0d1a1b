package systemtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbdclient"
)

// noise writes n random blocks of 4 KiB to a volume and to its model, and flushes.
func noise(t *testing.T, c *nbdclient.Conn, img []byte, r *rand.ChaCha8, n int) {
	t.Helper()
	rnd := rand.New(r)
	for range n {
		b := make([]byte, 4096)
		_, _ = io.ReadFull(r, b)
		off := rnd.Int64N(int64(len(img)/4096)) * 4096
		if err := c.WriteAt(t.Context(), b, off, 0); err != nil {
			t.Fatal(err)
		}
		copy(img[off:], b)
	}
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// mark sets a bookmark and waits until the store has it.
func (s *site) mark(group, name string) {
	s.t.Helper()
	s.verb("bookmark", "add", name, "--group", group)
	s.drained(group, time.Minute)
	until(s.t, time.Minute, "the store has bookmark "+name, func() error { // which comes behind its point
		v := s.verb(append([]string{"bookmark", "ls", "--group", group}, s.storeArgs()...)...)
		for _, b := range v["bookmarks"].([]any) {
			if b.(map[string]any)["name"] == name {
				return nil
			}
		}
		return fmt.Errorf("%v", v)
	})
}

// TestRestoreResumes kills restores, goes on toward newer points and back to older
// ones over what is there, and fetches only what it must.
func TestRestoreResumes(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteConf{})
	s.mustStart()
	const size = 64 << 20
	s.volume("g", "v", "64MiB")
	conn, img, r := s.dial("v"), make([]byte, size), rand.NewChaCha8([32]byte{1})
	noise(t, conn, img, r, 12000)
	if err := conn.Trim(t.Context(), 1<<20, 3<<20, 0); err != nil {
		t.Fatal(err)
	}
	clear(img[1<<20:][:3<<20])
	s.mark("g", "first")
	first := bytes.Clone(img)

	out := filepath.Join(s.dir, "image")
	args := append([]string{"restore", "v", "-o", out}, s.storeArgs()...)
	whole := s.verb(append(args, "--at", "first", "--dry-run")...)["fetch_bytes"].(float64)

	// Killed half way, and gone on from toward a newer point.
	cmd := exec.CommandContext(t.Context(), program, append(args, "--at", "first", "--limit", "6MiB")...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, 30*time.Second, "a restore says how far it is", func() error {
		_, err := os.Stat(out + ".partial.json")
		return err
	})
	_ = cmd.Process.Signal(syscall.SIGKILL)
	_ = cmd.Wait()
	if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
		t.Error("half an image bears the image's name")
	}
	noise(t, conn, img, r, 500)
	if err := conn.Trim(t.Context(), 20<<20, 1<<20, 0); err != nil {
		t.Fatal(err)
	}
	clear(img[20<<20:][:1<<20])
	s.mark("g", "second")
	second := bytes.Clone(img)
	v := s.verb(append(args, "--at", "second", "--verify")...)
	if got := v["read_bytes"].(float64); got > 0.95*whole || v["verified"] != true || v["base"] == nil {
		t.Errorf("went on with %.0f bytes of %.0f: %v", got, whole, v)
	}
	same := func(what string, want []byte) {
		t.Helper()
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		sameBytes(t, what, b, want)
		if left, _ := filepath.Glob(out + ".*"); len(left) > 0 {
			t.Errorf("%s: %v is left", what, left)
		}
	}
	same("resumed toward a newer point", second)

	// Over what is there: only what differs, forward and back.
	if o := s.pollux(append(args, "--at", "first")...); o.code != fail.ExitCode(fail.New(fail.Refused, "", "", "")) {
		t.Errorf("over an image, without --overwrite: %d, %s", o.code, o.stderr)
	}
	for _, at := range []struct {
		name string
		want []byte
	}{{"first", first}, {"second", second}} {
		v := s.verb(append(args, "--at", at.name, "--overwrite", "--yes", "--verify")...)
		if got := v["written_bytes"].(float64) + v["zeroed_bytes"].(float64); got > 500*4096+2<<20 ||
			v["read_bytes"].(float64) > whole {
			t.Errorf("to %s: %v", at.name, v)
		}
		same("over an image, to "+at.name, at.want)
	}
	// An image that somebody wrote to is written anew.
	f, err := os.OpenFile(out, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte("changed"), 2<<20)
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	if v := s.verb(append(args, "--at", "first", "--overwrite", "--yes")...); v["base"] != nil ||
		v["read_bytes"].(float64) < whole {
		t.Errorf("over a changed image: %v", v)
	}
	same("over a changed image", first)

	// Interrupted by the operator: says what to do.
	_ = os.Remove(out)
	cmd = exec.CommandContext(t.Context(), program, append(args, "--limit", "6MiB")...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, 30*time.Second, "a restore writes", func() error {
		_, err := os.Stat(out + ".partial")
		return err
	})
	_ = cmd.Process.Signal(os.Interrupt)
	if err := cmd.Wait(); err == nil || !strings.Contains(stderr.String(), "goes on from here") {
		t.Errorf("interrupted: %v, %s", err, stderr.String())
	}
	s.verb(append(args, "--restart")...)
	same("restarted", second)
}

// TestRestoreGroup restores all volumes of a group at one point.
func TestRestoreGroup(t *testing.T) {
	s := newSite(t, siteConf{})
	s.mustStart()
	s.volume("g", "a", "8MiB")
	s.verb("volume", "create", "b", "--group", "g", "--size", "8MiB")
	r := rand.NewChaCha8([32]byte{2})
	imgs := map[string][]byte{"a": make([]byte, 8<<20), "b": make([]byte, 8<<20)}
	for i := range 6 {
		name := []string{"a", "b"}[i%2]
		noise(t, s.dial(name), imgs[name], r, 100)
	}
	s.mark("g", "both")
	for i := range 2 {
		name := []string{"a", "b"}[i%2]
		noise(t, s.dial(name), bytes.Clone(imgs[name]), r, 10)
	}
	s.drained("g", time.Minute)
	dir := t.TempDir()
	args := append([]string{"restore", "g", "--at", "both", "-o"}, append([]string{dir}, s.storeArgs()...)...)
	v := s.verb(args...)
	for _, x := range v["volumes"].([]any) {
		if m := x.(map[string]any); m["lsn"] != v["volumes"].([]any)[0].(map[string]any)["lsn"] {
			t.Errorf("not one point: %v", v)
		}
	}
	for name, want := range imgs {
		b, err := os.ReadFile(filepath.Join(dir, name+".img"))
		if err != nil {
			t.Fatal(err)
		}
		sameBytes(t, fmt.Sprint("volume ", name), b, want)
	}
	args[5] = filepath.Join(dir, "none")
	if o := s.pollux(args...); o.code == 0 || !strings.Contains(o.stderr, "not a directory") {
		t.Errorf("to no directory: %s", o.stderr)
	}
}
