package systemtest

import (
	"fmt"
	"os"
	"sync"
	"testing"
	"time"
)

// TestRivals loses a seat, and two other sites take over at the same time, by force, with a standby or
// without, with SIGKILL of one of them on the way and its verb repeated; or one that has begun dies for
// good, and the other goes on. Exactly one has the journal, what was promised is there, and the
// other says so with exit code 10 and serves nothing.
func TestRivals(t *testing.T) {
	t.Parallel()
	x := newRegions(t, newRand(t), []string{"seoul", "busan", "jeju"}, "vault")
	x.begin()
	seat, rivals := x.hosts[0], x.hosts[1:]
	first := x.r.IntN(2)
	for round := range 4**regionRounds - 2 {
		began := time.Now()
		warm := (first+round+round/2)%2 == 0
		for _, h := range rivals {
			if warm {
				h.mustStart()
			}
		}
		x.run()
		x.progress(15)
		if warm {
			for _, h := range rivals {
				x.follows(h, seat.durable())
			}
		}
		least := seat.durable()
		seat.agent.Kill()
		x.ended(x.runs, true)
		least["far"] = max(least["far"], x.all[1].flushed.Load())

		how := x.race
		if round%2 == 1 {
			how = x.succeed
		}
		winner, loser := how(rivals, warm)
		for i, w := range x.all {
			x.all[i] = w.goOnAt(winner.site, least[w.group])
		}
		x.run()
		x.progress(10)
		x.ended(x.runs, false)
		x.holds(winner, "vault")
		x.lost(loser)
		t.Logf("round %d, warm %v: %s has it, %.1f s", round, warm, winner.region, time.Since(began).Seconds())
		for _, h := range []*host{seat, loser} {
			h.anew()
		}
		seat, rivals = winner, []*host{seat, loser}
	}
}

// forced calls the verb until it ends for good, with a kill on the way if that is wanted, and returns
// its exit code. anew is that the kill came before it had begun anything.
func (x *regions) forced(h *host, warm bool, after, kill time.Duration) (code int, anew bool) {
	time.Sleep(after) // when is random, nothing is waited for
	if kill > 0 {
		p := h.launchVerb("failover", "--force", "--yes", "-c", h.config())
		time.Sleep(kill)
		p.Kill()
		if warm {
			h.agent.Kill()
		}
		anew = !exists(h.conf.state + "/failover.json")
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if warm {
			h.keepUp()
		}
		o := h.pollux("failover", "--force", "--yes", "-c", h.config())
		if o.code == 0 || o.code == 10 || time.Now().After(deadline) {
			if o.code != 0 {
				x.t.Logf("%s: code %d: %s", h.region, o.code, o.stderr)
			}
			return o.code, anew
		}
	}
}

// race has both take over at once.
func (x *regions) race(rivals []*host, warm bool) (winner, loser *host) {
	x.t.Helper()
	kills := make([]time.Duration, len(rivals)) // one of them may be
	if x.r.IntN(2) == 0 {
		kills[x.r.IntN(len(kills))] = time.Duration(x.r.IntN(600)) * time.Millisecond
	}
	codes, anew := make([]int, len(rivals)), make([]bool, len(rivals))
	var wg sync.WaitGroup
	for i, h := range rivals {
		after := time.Duration(x.r.IntN(100)) * time.Millisecond
		wg.Go(func() { codes[i], anew[i] = x.forced(h, warm, after, kills[i]) })
	}
	wg.Wait()
	if codes[0] == 0 && codes[1] == 0 && anew[0] != anew[1] {
		// One was there before the other began for good, which then took over from a seat that lives.
		for i := range codes {
			if anew[i] {
				codes[1-i] = 10
			}
		}
	}
	for i, code := range codes {
		if code == 0 {
			winner, loser = rivals[i], rivals[1-i]
		}
	}
	if winner == nil || codes[0]+codes[1] != 10 {
		x.t.Fatalf("the verbs ended with %v, want 0 and 10 in some order", codes)
	}
	x.isSeat(winner)
	return winner, loser
}

// succeed has one begin, which dies, and the other go on, whatever the first had done.
func (x *regions) succeed(rivals []*host, warm bool) (winner, loser *host) {
	x.t.Helper()
	loser, winner = rivals[0], rivals[1]
	p := loser.launchVerb("failover", "--force", "--yes", "-c", loser.config())
	time.Sleep(time.Duration(x.r.IntN(800)) * time.Millisecond) // when is random, nothing is waited for
	p.Kill()
	if warm {
		loser.agent.Kill()
	}
	if code, _ := x.forced(winner, warm, 0, 0); code != 0 {
		x.t.Fatalf("the other site's verb ended with %d", code)
	}
	x.isSeat(winner)
	return winner, loser
}

// isSeat waits until a host serves.
func (x *regions) isSeat(h *host) {
	x.t.Helper()
	until(x.t, time.Minute, h.region+" serves", func() error {
		if h.agent == nil || !h.agent.Running() {
			h.launch()
		}
		for _, g := range groupsOfRegions {
			if !h.serves(g + "-v") {
				return fmt.Errorf("%v", h.groups())
			}
		}
		return nil
	})
}

// lost holds a site that has lost the race against the rules: its verb says so, and neither its standby
// nor an agent serves.
func (x *regions) lost(h *host) {
	x.t.Helper()
	if h.agent != nil && h.agent.Running() {
		h.agent.Kill()
	}
	for _, daemon := range []string{"agent", "standby"} {
		h.conf.daemon = daemon
		begun := exists(h.conf.state + "/failover.json") // otherwise the verb would begin another one
		h.launch()
		for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			if h.serves("near-v") { // whenever: a second is only how long it is looked at
				x.t.Fatalf("%s has lost, and its %s serves", h.region, daemon)
			}
		}
		if !begun {
			h.agent.Kill()
			continue
		}
		if o := h.pollux("failover", "--force", "--yes", "-c", h.config()); o.code != 10 {
			x.t.Errorf("the verb at %s, which has lost: code %d: %s%s", h.region, o.code, o.stdout, o.stderr)
		}
		h.agent.Kill()
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// anew makes a host one without any state.
func (h *host) anew() {
	h.t.Helper()
	if h.agent != nil && h.agent.Running() {
		h.agent.Kill()
	}
	if err := os.RemoveAll(h.conf.state); err != nil {
		h.t.Fatal(err)
	}
	removeArena(h.t, h.site)
	h.conf.daemon = "standby"
}
