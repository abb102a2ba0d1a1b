package quiesce

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "guard" {
		_ = Guard(os.Stdin, os.Stdout)
		return
	}
	os.Exit(m.Run())
}

// The guard is killed (OOM) while the first hook runs: the second runs at once, and the first goes on behind it.
func TestGuardKilledDuringPre(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	h := Hooks{Pre: []string{"/bin/sh", "-c", "cd " + dir +
		"; echo $$ > pre; echo $PPID > guard; sleep 2; touch still"},
		Post: []string{"/bin/sh", "-c", "cd " + dir + "; rm -f still; touch posted"}, Limit: 5 * time.Second}
	pid := func(name string) int {
		b, _ := os.ReadFile(path(name)) // not there yet is none
		n, err := strconv.Atoi(strings.TrimSuffix(string(b), "\n"))
		if err != nil || !strings.HasSuffix(string(b), "\n") {
			return 0
		}
		return n
	}
	wait := func(what string, done func() bool) {
		for deadline := time.Now().Add(4 * h.Limit); !done(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Error(what + ": it never came")
				return
			}
		}
	}
	var killed sync.WaitGroup
	killed.Go(func() {
		wait("the guard's number", func() bool { return pid("guard") > 0 })
		if p := pid("guard"); p > 0 {
			_ = syscall.Kill(p, syscall.SIGKILL)
		}
	})
	_, err := Begin(t.Context(), os.Args[0], []string{"guard"}, h, "group g")
	t.Log(err)
	killed.Wait()
	wait("the end of both hooks", func() bool {
		_, err := os.Stat(path("posted"))
		return err == nil && !running(pid("pre"))
	})
	if _, err := os.Stat(path("still")); err == nil {
		t.Fatal("the application stands still for ever")
	}
}

// running reports whether a process is there, and no zombie.
func running(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, _ := strings.Cut(string(b), ") ")
	return err == nil && !strings.HasPrefix(state, "Z")
}

// A first hook that leaves a child with its output.
func TestHookLeavesChild(t *testing.T) {
	dir := t.TempDir()
	h := Hooks{Pre: []string{"true"}, Post: []string{"/bin/sh", "-c", "echo x >> " + dir + "/posts; sleep 20 &"},
		Limit: 5 * time.Second}
	s, err := Begin(t.Context(), os.Args[0], []string{"guard"}, h, "group g")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	err = s.GoOn("group g")
	b, _ := os.ReadFile(dir + "/posts")
	t.Logf("%v, %v, post ran %d times", time.Since(start), err, len(b)/2)
	if err != nil {
		t.Fail()
	}
}

// The guard is killed while the application stands still: nobody keeps the limit.
func TestGuardKilledWhileStill(t *testing.T) {
	dir := t.TempDir()
	still := filepath.Join(dir, "still")
	h := Hooks{Pre: []string{"touch", still}, Post: []string{"rm", "-f", still}, Limit: time.Second}
	s, err := Begin(t.Context(), os.Args[0], []string{"guard"}, h, "group g")
	if err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Process.Kill()
	// the mark waits for a full WAL: up to 15 s
	for end := time.Now().Add(4 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(still); err != nil {
			break
		}
		if time.Now().After(end) {
			t.Error("it stands still, three seconds over the limit")
			break
		}
	}
	t.Log(s.GoOn("group g"))
}

// TestCallerLeaves: whoever wanted the application to stand still is gone before it does.
func TestCallerLeaves(t *testing.T) {
	dir := t.TempDir()
	began := filepath.Join(dir, "began")
	h := Hooks{Pre: []string{"/bin/sh", "-c", "touch " + began + "; sleep 600"},
		Post: []string{"touch", filepath.Join(dir, "posted")}, Limit: 10 * time.Minute}
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(began); err == nil {
				leave()
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	start := time.Now()
	_, err := Begin(ctx, os.Args[0], []string{"guard"}, h, "group g")
	if took := time.Since(start); !errors.Is(err, context.Canceled) || took > 30*time.Second {
		t.Errorf("after %v: %v", took, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "posted")); err != nil {
		t.Errorf("the second hook: %v", err)
	}
}

// TestHookThatCannotBeKilled: its limit holds, and what it does in the end is undone.
// No test can put a process into the kernel's uninterruptible sleep: a function stands for
// it.
func TestHookThatCannotBeKilled(t *testing.T) {
	release := make(chan struct{})
	h := &hook{result: make(chan error, 1), ended: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	h.watch(ctx, "hook", func() error { <-release; return nil })
	cancel()
	select {
	case err := <-h.result:
		if !errors.Is(err, errStuck) {
			t.Error(err)
		}
	case <-time.After(10 * killLimit):
		t.Fatal("it is waited for, whatever its limit")
	}
	select {
	case <-h.ended:
		t.Error("it is taken for gone")
	default:
	}
	close(release)
	<-h.ended
}

// TestGuardStandsStill: a guard that is stopped does not keep its caller.
func TestGuardStandsStill(t *testing.T) {
	dir := t.TempDir()
	posted := filepath.Join(dir, "posted")
	h := Hooks{Pre: []string{"/bin/sh", "-c", "kill -STOP $PPID; sleep 600"}, Post: []string{"touch", posted},
		Limit: time.Second}
	start := time.Now()
	_, err := Begin(t.Context(), os.Args[0], []string{"guard"}, h, "group g")
	if took := time.Since(start); err == nil || took > h.Limit+3*guardPatience {
		t.Errorf("after %v: %v", took, err)
	}
	if _, err := os.Stat(posted); err != nil {
		t.Errorf("the second hook: %v", err)
	}
}

// TestHooksGetNoSecrets: what the agent has in its environment is its own.
func TestHooksGetNoSecrets(t *testing.T) {
	seen := filepath.Join(t.TempDir(), "seen")
	for _, name := range []string{"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "CREDENTIALS_DIRECTORY",
		"NOTIFY_SOCKET", "MY_PASSWORD"} {
		t.Setenv(name, "secret")
	}
	t.Setenv("LC_ALL", "C")
	h := Hooks{Pre: []string{"/bin/sh", "-c", "env > " + seen}, Post: []string{"/bin/true"}, Limit: 5 * time.Second}
	s, err := Begin(t.Context(), os.Args[0], []string{"guard"}, h, "group g")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.GoOn("group g"); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(seen)
	if err != nil || strings.Contains(string(b), "secret") {
		t.Errorf("%v: %s", err, b)
	}
	if !strings.Contains(string(b), "PATH=") || !strings.Contains(string(b), "LC_ALL=C") {
		t.Errorf("too little: %s", b)
	}
}
