package systemtest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

var kills = flag.Int("killnine.kills", 50, "how often TestKillNine kills the agent")

const exactBytes = 16 << 20

// TestKillNine kills the agent again and again under load. Every acknowledged
// write, flushed or not, is there after each restart, and the store restores
// to exactly what the volume held at every LSN that is asked for.
func TestKillNine(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	// A small WAL, so that checkpoints, trims and recycled files are hit as well.
	s := newSite(t, siteConf{walBudget: "32MiB", memory: "16MiB"})
	s.mustStart()
	s.volume("exact", "one", "16MiB")
	s.volume("many", "multi", "24MiB")
	w := newWriter(s, "exact", "one", exactBytes, rand.New(rand.NewPCG(r.Uint64(), 1)))
	l := newLanes(s, "multi", 3, 4, r)
	restored, marks := 0, map[string]uint64{}
	for round := range *kills {
		w.connect()
		l.connect()
		w.settle()
		w.verify()
		l.settle()
		if r.IntN(10) == 0 {
			restored += checkPoints(w, r)
		}
		if r.IntN(10) == 0 {
			w.bookmark(marks)
		}
		if round%20 == 0 {
			w.h.save()
		}
		loadAndKill(t, w, l, time.Duration(20+r.IntN(180))*time.Millisecond)
		for r.IntN(4) == 0 { // a start is a good moment too
			s.launch()
			time.Sleep(time.Duration(r.IntN(200)) * time.Millisecond) // when is random, nothing is waited for
			s.agent.Kill()
		}
		s.mustStart()
	}
	w.connect()
	l.connect()
	w.settle()
	w.verify()
	l.settle()
	t.Logf("%d kills, %d requests, LSN %d, %d points restored on the way", *kills, w.ops.Load(), w.h.lsn, restored)
	finish(t, w, l, r, marks)
}

// loadAndKill writes for d and kills the agent in the middle of it.
func loadAndKill(t *testing.T, w *writer, l *lanes, d time.Duration) {
	t.Helper()
	var wg sync.WaitGroup
	var err error
	wg.Go(func() { err = w.run(context.Background()) })
	wg.Go(func() { l.run(context.Background()) })
	time.Sleep(d) // the time of load
	w.site.agent.Kill()
	wg.Wait()
	var bad *wrong
	if errors.As(err, &bad) {
		t.Fatal(bad)
	}
}

// checkPoints restores at a few LSNs that the store holds.
func checkPoints(w *writer, r *rand.Rand) int {
	w.site.t.Helper()
	last := w.site.storeLastLSN(w.volume)
	if last > w.h.lsn {
		w.site.t.Fatalf("the store is at LSN %d, the model at %d", last, w.h.lsn)
	}
	w.checkRestore(last, r.Uint64N(last+1))
	return 2
}

// bookmark sets one at the model's present point.
func (w *writer) bookmark(marks map[string]uint64) {
	w.site.t.Helper()
	name := fmt.Sprintf("mark-%d", w.h.lsn)
	v := w.site.verb("bookmark", "add", name, "--group", w.group)
	w.h.add(op{kind: opMark}, 1)
	if got := uint64(v["lsn"].(float64)); got != w.h.lsn {
		w.site.t.Fatalf("bookmark at LSN %d, the model is at %d", got, w.h.lsn)
	}
	marks[name] = w.h.lsn
}

// finish compares the twins with the models once everything is in the store.
func finish(t *testing.T, w *writer, l *lanes, r *rand.Rand, marks map[string]uint64) {
	t.Helper()
	w.site.drained("exact", time.Minute)
	w.site.drained("many", time.Minute)
	w.site.agent.Kill() // the site is lost
	if lsn := w.checkNewest(); lsn != w.h.lsn {
		t.Fatalf("the newest point is LSN %d, want %d", lsn, w.h.lsn)
	}
	got, _ := w.site.restore("multi", "")
	sameBytes(t, "newest twin of multi", got, l.image())
	for range 10 {
		w.checkRestore(r.Uint64N(w.h.lsn + 1))
	}
	for name, lsn := range marks {
		got, at := w.site.restore("one", name)
		if at != lsn {
			t.Fatalf("bookmark %s restores LSN %d, want %d", name, at, lsn)
		}
		sameBytes(t, "twin at bookmark "+name, got, w.h.at(lsn))
	}
}
