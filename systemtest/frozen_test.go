package systemtest

import (
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestFrozenAgent: no verb waits for ever for an agent that is stopped; --check answers
// within five seconds, and group wait within its time.
func TestFrozenAgent(t *testing.T) {
	s := newSite(t, siteConf{})
	s.mustStart()
	s.verb("group", "create", "g")
	s.verb("volume", "create", "v", "--group", "g", "--size", "1MiB")
	if err := syscall.Kill(s.agent.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, tc := range []struct {
		args   string
		code   int
		within time.Duration
	}{
		{"status --check", 2, 5 * time.Second},
		{"group wait g --timeout 2s", 6, 5 * time.Second},
		{"status", 6, 30 * time.Second},
		{"group wait g", 6, 30 * time.Second},
		{"group ls", 6, 30 * time.Second},
		{"group set g --rpo-target 1", 6, 30 * time.Second},
		{"volume ls", 6, 30 * time.Second},
		{"volume changed v", 6, 30 * time.Second},
		{"bookmark add b --group g", 6, 30 * time.Second},
		{"audit ls", 6, 30 * time.Second},
		{"journal ls --socket " + s.socket(), 6, 30 * time.Second},
		{"verify v --live " + s.uri("v") + " " + strings.Join(s.storeArgs(), " "), 6, 60 * time.Second},
	} {
		wg.Go(func() {
			start := time.Now()
			o := s.pollux(strings.Fields(tc.args)...)
			if took := time.Since(start); o.code != tc.code || took > tc.within {
				t.Errorf("%s: code %d after %v: %s%s", tc.args, o.code, took, o.stdout, o.stderr)
			}
		})
	}
	wg.Wait()
	if err := syscall.Kill(s.agent.PID(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.verb("status")
}
