package quiesce

import (
	"os"
	"path/filepath"
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
	still := filepath.Join(dir, "still")
	h := Hooks{Pre: []string{"/bin/sh", "-c", "echo $PPID > " + dir + "/guard; sleep 2; touch " + still}, Post: []string{"rm", "-f", still}, Limit: 5 * time.Second}
	go func() {
		for {
			if b, err := os.ReadFile(dir + "/guard"); err == nil && len(b) > 1 {
				var pid int
				for _, c := range b {
					if c >= '0' && c <= '9' {
						pid = pid*10 + int(c-'0')
					}
				}
				p, _ := os.FindProcess(pid)
				_ = p.Kill()
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	_, err := Begin(os.Args[0], []string{"guard"}, h, "group g")
	t.Log(err)
	time.Sleep(10 * time.Second) // twice the limit
	if _, err := os.Stat(still); err == nil {
		t.Fatal("the application stands still for ever")
	}
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
