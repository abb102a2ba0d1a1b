package promote

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/pollux-dr/pollux/internal/seed"
)

// settle heals everything: the newest seat brings all targets in line.
func (w *sitesWorld) settle(sites int) {
	for _, arrives := range w.late {
		arrives()
	}
	w.late, w.cut = nil, [modelSites][modelSites]bool{}
	newest := -1
	for i := range sites {
		w.up[i] = true
		if s := w.seats[i]; s != nil && (newest < 0 || s.token.Epoch > w.seats[newest].token.Epoch) {
			newest = i
		}
	}
	if newest < 0 || w.conflict {
		return
	}
	s := w.seats[newest]
	w.say("everything is healed")
	for range 400 {
		for t := range sites {
			if s.over || w.bad != "" { // a fence of one that gave up
				return
			}
			if s.targets[t].gone {
				return
			} else if s.targets[t].ready {
				w.upload(newest, t)
			} else {
				w.claim(newest, t)
			}
		}
	}
	for t := range sites {
		if hist, _, err := w.logs[t].read(); err != nil || len(hist) != len(s.hist) || !isPrefix(hist, s.hist) {
			w.fault("the log of %s has %v, and the seat %v: %v", siteName(t), hist, s.hist, err)
		}
	}
}

// TestSitesModel: whatever fails when, nothing that was acknowledged under ack: remote is lost by a forced
// failover that reaches a target which counted, nothing at all by a hand-over; of two sites that take
// one log exactly one has it; what a seat counts in a log is its history, and all logs come in line.
// Each check that is left out is found.
func TestSitesModel(t *testing.T) {
	r := rand.New(rand.NewPCG(seed.New(t), 1))
	walks, steps := 3000, 400
	if n, err := strconv.Atoi(os.Getenv("POLLUX_MODEL_WALKS")); err == nil {
		walks = n
	} else if testing.Short() {
		walks = 500
	}
	run := func(without string) *sitesWorld {
		sites := 2 + r.IntN(modelSites-1)
		w := newSitesWorld(r, sites, without)
		for n := 0; n < steps && w.bad == "" && !w.conflict; n++ {
			w.step(sites)
		}
		if w.bad == "" {
			w.settle(sites)
		}
		return w
	}
	var moves [4]int
	conflicts := 0
	for range walks {
		w := run("")
		if w.bad != "" {
			for _, s := range w.way {
				t.Log(s)
			}
			for i := range w.logs {
				for p, o := range w.logs[i].objects {
					t.Logf("log %s, %d: %v, %d.%d %.4s, %d-%d", siteName(i), p, o.Type, o.Token.Epoch,
						o.Token.Term, o.Token.Writer, o.First, o.Last)
				}
			}
			t.Fatal(w.bad)
		}
		for i, n := range w.moves {
			moves[i] += n
		}
		if w.conflict {
			conflicts++
		}
	}
	t.Logf("%d walks of %d steps: %d forced failovers, %d planned, %d taken back, %d failbacks; in %d walks two "+
		"sites took over in logs of their own", walks, steps, moves[0], moves[1], moves[2], moves[3], conflicts)
	for _, without := range []string{"epochs", "dead objects", "dead catalogs", "all of them",
		"the last entry"} {
		n, bad := 0, ""
		for n < 4*walks && bad == "" {
			bad, n = run(without).bad, n+1
		}
		if bad == "" {
			t.Errorf("without %s nothing is found in %d walks", without, n)
		}
		t.Logf("without %s: walk %d: %.150s", without, n, bad)
	}
}
