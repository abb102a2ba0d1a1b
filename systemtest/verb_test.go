package systemtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// outcome is what a finished pollux has left.
type outcome struct {
	code           int
	stdout, stderr string
}

// pollux runs the binary to its end; one that hangs fails the test.
func (s *site) pollux(args ...string) outcome {
	s.t.Helper()
	return s.polluxWith(s.environ(), args...)
}

func (s *site) polluxWith(env []string, args ...string) outcome {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Env = &stdout, &stderr, env
	err := cmd.Run()
	if ctx.Err() != nil {
		s.t.Fatalf("pollux %s hangs\n%s%s", strings.Join(args, " "), stdout.String(), stderr.String())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// verb runs a verb that must succeed and returns its JSON.
func (s *site) verb(args ...string) map[string]any {
	s.t.Helper()
	o := s.pollux(append(args, "--json")...)
	if o.code != 0 {
		s.t.Fatalf("pollux %s: code %d: %s", strings.Join(args, " "), o.code, o.stderr)
	}
	var v map[string]any
	if err := json.Unmarshal([]byte(o.stdout), &v); err != nil {
		s.t.Fatalf("pollux %s: not one JSON object: %v\n%s", strings.Join(args, " "), err, o.stdout)
	}
	return v
}

// storeArgs name the site's object store to a verb.
func (s *site) storeArgs() []string {
	args := []string{"--store", s.conf.url}
	if s.conf.endpoint != "" {
		args = append(args, "--endpoint", s.conf.endpoint, "--credentials-file", s.conf.credentials)
	}
	return args
}

// storeLastLSN asks the store, not the agent, how far it reaches.
func (s *site) storeLastLSN(volume string) uint64 {
	s.t.Helper()
	v := s.verb(append([]string{"volume", "ls"}, s.storeArgs()...)...)
	for _, x := range v["volumes"].([]any) {
		if m := x.(map[string]any); m["name"] == volume {
			return uint64(m["last_lsn"].(float64))
		}
	}
	s.t.Fatalf("the store has no volume %s: %v", volume, v)
	return 0
}

// restore returns a volume's image at a point ("" is the newest) and its LSN,
// from the store alone.
func (s *site) restore(volume, at string) ([]byte, uint64) {
	s.t.Helper()
	path, lsn := s.restoreFile(volume, at)
	b, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		s.t.Fatal(err)
	}
	return b, lsn
}

func (s *site) restoreFile(volume, at string) (path string, lsn uint64) {
	s.t.Helper()
	path = filepath.Join(s.dir, "restored-"+volume)
	args := append([]string{"restore", volume, "-o", path}, s.storeArgs()...)
	if at != "" {
		args = append(args, "--at", at)
	}
	v := s.verb(args...)
	return path, uint64(v["lsn"].(float64))
}

// sameBytes fails with the first difference.
func sameBytes(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	if len(got) != len(want) {
		t.Fatalf("%s: %d bytes, want %d", what, len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			n := min(i+16, len(got))
			t.Fatalf("%s: byte %d differs: %x, want %x", what, i, got[i:n], want[i:n])
		}
	}
}
