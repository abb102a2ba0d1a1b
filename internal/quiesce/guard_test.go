package quiesce

import (
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
	h := Hooks{Pre: []string{"/bin/sh", "-c", "cd " + dir + "; echo $$ > pre; echo $PPID > guard; sleep 2; touch still"},
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
	_, err := Begin(os.Args[0], []string{"guard"}, h, "group g")
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
	h := Hooks{Pre: []string{"true"}, Post: []string{"/bin/sh", "-c", "echo x >> " + dir + "/posts; sleep 20 &"}, Limit: 5 * time.Second}
	s, err := Begin(os.Args[0], []string{"guard"}, h, "group g")
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
	s, err := Begin(os.Args[0], []string{"guard"}, h, "group g")
	if err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Process.Kill()
	for end := time.Now().Add(4 * time.Second); ; time.Sleep(10 * time.Millisecond) { // the mark waits for a full WAL: up to 15 s
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
