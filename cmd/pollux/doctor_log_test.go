package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/node"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
)

// agentConf writes the configuration of an agent with its state in dir and one target.
func agentConf(t *testing.T, dir, store string) (path string) {
	t.Helper()
	run, err := os.MkdirTemp("/dev/shm", "pollux-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	path = filepath.Join(t.TempDir(), "agent.yaml")
	text := fmt.Sprintf("name: a\nstate: %q\nruntime: %q\nsocket: %q\nmemory: 16MiB\nnbd: {unix: %q}\njournal:\n"+
		"  targets: [{name: remote, url: \"file://%s\"}]\n", dir, run, run+"/c.sock", run+"/n.sock", store)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// begin starts an agent, and waits until its object log is begun.
func begin(t *testing.T, path, store string) *node.Daemon {
	t.Helper()
	conf, err := config.LoadAgent(path)
	if err != nil {
		t.Fatal(err)
	}
	d, err := node.Start(t.Context(), conf, "t", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if names, _ := filepath.Glob(store + "/log/*"); len(names) > 1 {
			return d
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the log is not begun")
	return nil
}

// TestDoctorComparesTheLogsOwner: a url that is mistyped names a store that is sound, and
// not this journal's.
func TestDoctorComparesTheLogsOwner(t *testing.T) {
	dir := t.TempDir()
	ours, theirs := dir+"/ours", dir+"/theirs"
	for _, d := range []string{ours, theirs, dir + "/empty"} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	other := begin(t, agentConf(t, dir+"/b", theirs), theirs)
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	path := agentConf(t, dir+"/a", ours)
	d := begin(t, path, ours)
	check := func(what, path string, exit int, says string) {
		t.Helper()
		out, err := runRoot(t, "doctor", "-c", path)
		code := fail.ExitCode(err)
		if e, ok := err.(exitCode); ok {
			code = int(e)
		}
		if code != exit || !strings.Contains(out, says) {
			t.Errorf("%s: exit status %d, %v\n%s", what, code, err, out)
		}
	}
	check("while it runs", path, 0, "OK    owner of the log: journal")
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	refused := fail.ExitCode(fail.New(fail.Refused, "", "", ""))
	check("while it does not run", path, 0, "OK    owner of the log: journal")
	check("another journal's", agentConf(t, dir+"/a", theirs), refused, "FAIL  owner of the log: it belongs to journal")
	check("an empty one", agentConf(t, dir+"/a", dir+"/empty"), refused, "and this journal has written")
	check("a first start", agentConf(t, dir+"/c", dir+"/empty"), 0, "no log is here yet")
	check("a first start on a log", agentConf(t, dir+"/c", theirs), 0, "WARN  owner of the log: it belongs to journal")
}
