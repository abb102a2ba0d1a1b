package systemtest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"testing"
	"time"
)

// TestKilledUpkeep kills gc, restores and mounts at random moments, several at once,
// while replication goes on: every bookmark stays what it was, and the log whole.
func TestKilledUpkeep(t *testing.T) {
	r := newRand(t)
	s := newSite(t, siteConf{})
	s.mustStart()
	s.volume("g", "v", "32MiB")
	conn, img, noisy := s.dial("v"), make([]byte, 32<<20), rand.NewChaCha8([32]byte{7})
	points := map[string][]byte{}
	start := func(args ...string) *exec.Cmd {
		cmd := exec.Command(program, append(args, s.storeArgs()...)...)
		cmd.Env = s.environ()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	for i := range 7 {
		noise(t, conn, img, noisy, 200)
		name := fmt.Sprint("m", i)
		s.mark("g", name)
		points[name] = bytes.Clone(img)
		var running []*exec.Cmd
		for k := range 2 {
			running = append(running, start("gc", "--grace", "0s"),
				start("restore", "v", "--at", name, "-o", fmt.Sprintf("%s/half-%d-%d", s.dir, i, k),
					"--limit", "16MiB"),
				start("mount", "v", "--at", name, "--nbd", fmt.Sprintf("%s/m-%d-%d", s.shm, i, k), "--hydrate"))
		}
		for _, cmd := range running {
			time.Sleep(time.Duration(r.IntN(30)) * time.Millisecond) // anywhere in their work
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	s.verb(append([]string{"gc"}, s.storeArgs()...)...)
	if v := s.verb(append([]string{"verify"}, s.storeArgs()...)...); len(v["damaged"].([]any)) != 0 {
		t.Errorf("%v", v)
	}
	for name, want := range points {
		got, _ := s.restore("v", name)
		sameBytes(t, "at "+name, got, want)
	}
}
