package systemtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/child"
)

// circle starts the demo of the circle in a directory of its own.
func circle(t *testing.T, stdout, stderr io.Writer, args ...string) (p *child.Process, dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "pst-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cmd := exec.Command(program, append([]string{"demo", "--scenario", "circle"}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if p, err = child.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p, dir
}

// TestCircle: two sites as a user sees them, there and back: the demo compares all that is served,
// restored, saved and followed, and its report is what scripts rely on.
func TestCircle(t *testing.T) {
	t.Parallel()
	var out, errs bytes.Buffer
	p, dir := circle(t, &out, &errs, "--json", "--size", "16MiB", "--seconds", "4")
	select {
	case <-p.Done():
	case <-time.After(5 * time.Minute):
		t.Fatalf("it hangs\n%s", errs.String())
	}
	t.Log(errs.String())
	if p.ExitCode() != 0 {
		t.Fatalf("code %d", p.ExitCode())
	}
	var got map[string]any
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("not one JSON object: %v\n%s", err, out.String())
	}
	if got["verified"] != true {
		t.Errorf("%v", got)
	}
	for _, name := range []string{"rto_warm_seconds", "rto_cold_seconds", "failback_bytes", "changed_bytes",
		"handover_pause_ms"} {
		if n, _ := got[name].(float64); n <= 0 {
			t.Errorf("%s is %v", name, got[name])
		}
	}
	if n, ok := got["rpo_seconds"].(float64); !ok || n < 0 {
		t.Errorf("rpo_seconds is %v", got["rpo_seconds"])
	}
	if moved, changed := got["failback_bytes"].(float64), got["changed_bytes"].(float64); moved > 1.1*changed {
		t.Errorf("%v bytes were transferred, and %v changed", moved, changed)
	}
	nothingLeft(t, dir)
}

// TestCircleInterrupted: Ctrl-C ends all processes of the demo, and takes away what it made.
func TestCircleInterrupted(t *testing.T) {
	t.Parallel()
	p, dir := circle(t, io.Discard, io.Discard, "--size", "16MiB", "--seconds", "60")
	until(t, time.Minute, "both sites run", func() error {
		socks, err := filepath.Glob(filepath.Join(dir, "pollux-demo-*", "[ab]", "state", "control.sock"))
		if len(socks) < 2 {
			err = fmt.Errorf("only %v", socks)
		}
		return err
	})
	if !p.End(syscall.SIGINT, time.Minute) || p.ExitCode() != 130 {
		t.Errorf("code %d", p.ExitCode())
	}
	nothingLeft(t, dir)
}

// nothingLeft looks for files and processes of a demo.
func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range processes {
		b, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
			t.Error(err)
		}
		if line := strings.ReplaceAll(string(b), "\x00", " "); strings.Contains(line, dir) {
			t.Errorf("it runs still: %s", line)
		}
	}
}
