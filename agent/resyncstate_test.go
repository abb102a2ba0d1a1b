package agent

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pollux-dr/pollux/internal/change"
)

var (
	phaseNames = [...]string{"none", "dropped", "copying", "copied", "ended", "marked"}
	eventNames = [...]string{"frames dropped", "bitmap found", "gap attached", "copies logged", "failed",
		"point regained", "end marked", "end durable"}
)

// TestResyncTable states for every phase what every event does.
func TestResyncTable(t *testing.T) {
	if len(phaseNames) != resyncPhases || len(eventNames) != resyncEvents {
		t.Fatal("a phase or an event has no name here")
	}
	const no = "refused"
	want := [resyncPhases][resyncEvents]string{
		//          dropped    found      gap        logged    failed     regained marked    durable
		/* none    */ {"dropped", "dropped", no, no, no, no, no, no},
		/* dropped */ {"dropped", no, "copying", no, no, "ended", no, no},
		/* copying */ {"dropped", no, no, "copied", "copying", "ended", no, no},
		/* copied  */ {"dropped", no, no, no, "copying", "ended", no, no},
		/* ended   */ {"dropped", no, no, no, no, no, "marked", no},
		/* marked  */ {"dropped", no, no, no, no, no, no, "none"},
	}
	for p := range resyncPhase(resyncPhases) {
		for e := range resyncEvent(resyncEvents) {
			name := fmt.Sprintf("%s in phase %s", eventNames[e], phaseNames[p])
			r := resyncState{phase: p, overflows: 7}
			may := r.may(e)
			got := no
			if r.on(e) {
				got = phaseNames[r.phase]
			} else if r.phase != p {
				t.Errorf("%s: refused, and yet the phase is %s", name, phaseNames[r.phase])
			}
			if got != want[p][e] || may != (got != no) {
				t.Errorf("%s: %s (may: %v), want %s", name, got, may, want[p][e])
			}
			another := 7
			if e == framesDropped || (e == bitmapFound && p == resyncNone) {
				another++
			}
			if r.overflows != another {
				t.Errorf("%s: overflow number %d, want %d", name, r.overflows, another)
			}
			r = resyncState{phase: p, overflows: 7}
			if r.onFor(6, e) || r.phase != p || r.overflows != 7 {
				t.Errorf("%s, of an overflow before: taken", name)
			}
		}
	}
}

// TestResyncPhases states what each phase means for those who ask.
func TestResyncPhases(t *testing.T) {
	type answers struct{ Open, Copies, Overtaken, Hired, HiredAgain, Works bool }
	want := [resyncPhases]answers{
		resyncNone:    {Overtaken: true},
		resyncDropped: {Open: true, Overtaken: true},
		resyncCopying: {Open: true, Copies: true, Hired: true, Works: true},
		resyncCopied:  {Open: true, Copies: true},
		resyncEnded:   {Overtaken: true},
		resyncMarked:  {Overtaken: true},
	}
	for p := range resyncPhase(resyncPhases) {
		r := resyncState{phase: p, overflows: 3}
		got := answers{Open: p.open(), Copies: p.copies(), Overtaken: r.overtaken(3),
			Hired: r.hire(), HiredAgain: r.hire()}
		number, works := r.work(false)
		got.Works = works
		if diff := cmp.Diff(want[p], got); diff != "" || number != 3 || r.working != works {
			t.Errorf("phase %s, number %d, working %v: %s", phaseNames[p], number, r.working, diff)
		}
		if !r.overtaken(2) {
			t.Errorf("phase %s: the overflow before goes on", phaseNames[p])
		}
		if _, works := r.work(true); works || r.working {
			t.Errorf("phase %s: goes on although it is to stop", phaseNames[p])
		}
	}
}

// resyncWalk is a stream, and what is true of its journal and its disk. It does to the
// stream what the agent's code does, one step at a time.
type resyncWalk struct {
	*stream
	t       *testing.T
	r       *rand.Rand
	bitmap  bool // on disk
	journal bool // its log has a gap, or lacks what was dropped
	told    bool // it has ResyncBegin of this gap
	copier  int  // the overflow that resyncLoop works for, 0: it does not run
	ends    []int
}

// step does something that can happen at any time.
func (w *resyncWalk) step() string {
	o := &w.overflow
	switch w.r.IntN(9) {
	case 0:
		o.take(w.frames(), framesDropped)
		w.bitmap, w.journal, w.told = true, true, false
		return "drops"
	case 1: // a restart
		w.overflow, w.copier, w.ends = overflowState{}, 0, nil
		w.ship.durable = 0
		if w.bitmap {
			o.take(w.frames(), bitmapFound)
		}
		return "restarts"
	case 2: // the journal took what was dropped after all, and its acks were lost
		if w.journal && !w.told {
			w.journal = false
		}
		return "took it after all"
	case 3:
		return w.attach()
	case 4:
		if w.copier == 0 || (o.resync.phase == resyncCopied && w.copier == o.resync.overflows) {
			break // nobody copies, or only the end is waited for
		}
		if !o.resync.onFor(w.copier, copiesLogged) {
			w.nextWork()
		}
		return "copied"
	case 5:
		if w.copier != 0 {
			o.resync.onFor(w.copier, resyncFailed)
			w.nextWork()
		}
		return "fails"
	case 6: // ResyncEnd arrives; only the copier says it
		if w.copier == 0 || o.resync.overtaken(w.copier) || o.resync.phase != resyncCopied {
			break
		}
		w.journal = false
		if w.r.IntN(2) == 0 { // else its answer is lost
			w.end(w.copier)
			w.nextWork()
		}
		return "ends"
	case 7:
		if len(w.ends) > 0 {
			if d := o.dropped; o.resync.onFor(w.ends[0], endMarked) {
				d.mark = w.order.nextLSN
				o.settle(w.ship.durable)
			}
			w.ends = w.ends[1:]
		}
		return "marked"
	case 8:
		if w.r.IntN(3) == 0 {
			w.ship.durable = w.order.nextLSN
			o.settle(w.ship.durable)
		}
		return "durable"
	}
	return "nothing"
}

func (w *resyncWalk) frames() *droppedFrames {
	w.order.nextLSN += 10
	return &droppedFrames{upto: change.Point{LSN: w.order.nextLSN - 1},
		known: []change.Point{{LSN: 1 + w.r.Uint64N(5)}}}
}

// attach is enter, with a journal that answers truly.
func (w *resyncWalk) attach() string {
	r := &w.overflow.resync
	if w.journal {
		w.told = true
		if r.on(gapAttached) && r.hire() {
			w.nextWork()
		}
		return "attaches with the gap"
	}
	if r.may(pointRegained) {
		w.end(r.overflows)
	}
	return "attaches without a gap"
}

// end is endOverflow.
func (w *resyncWalk) end(overflow int) {
	r := &w.overflow.resync
	if overflow != r.overflows || !r.may(pointRegained) {
		return
	}
	w.bitmap = false
	r.on(pointRegained)
	w.ends = append(w.ends, overflow)
}

func (w *resyncWalk) nextWork() {
	w.copier = 0
	if overflow, ok := w.overflow.resync.work(false); ok {
		w.copier = overflow
	}
}

// check states what holds at all times.
func (w *resyncWalk) check(seed, did string, before resyncState) {
	w.t.Helper()
	o := &w.overflow
	p := o.resync.phase
	must := func(ok bool, what string) {
		w.t.Helper()
		if !ok {
			w.t.Fatalf("%s%s, from %s to %s: %s", seed, did, phaseNames[before.phase], phaseNames[p], what)
		}
	}
	must(!w.journal || p.open(), "the log has a gap, and the stream takes it for whole")
	must(w.bitmap == p.open(), "the bitmap is on disk exactly while frames are missing from the log")
	must((w.noPoint() != nil) == p.open(), "NoPoint says otherwise than the phase")
	must((o.dropped == nil) == (p == resyncNone), "dropped frames are remembered in every other phase, and only there")
	st := o.status()
	must((st == nil) == (p == resyncNone), "the status shows an overflow exactly in every other phase")
	must(st == nil || st.Copying == (p != resyncDropped), "the status says what is done about it")
	kept, _ := w.promised(0)
	must(kept == !p.open(), "ack: journal is kept exactly while the log has a point")
	must(p == resyncNone || w.remote() <= o.dropped.known[0].LSN, "the targets are said to have a point within")
	must(!p.copies() || o.resync.working, "nobody copies")
	must(o.resync.working == (w.copier != 0), "one copies at a time")
	if did == "drops" {
		must(o.resync.overflows == before.overflows+1 && o.resync.overtaken(before.overflows),
			"a new overflow overtakes the copy of the one before")
		must(p == resyncDropped, "nothing of it is copied before a session knows of the gap")
	} else if did != "restarts" {
		must(o.resync.overflows == before.overflows, "no other event is an overflow")
	}
}

// TestResyncWalk lets everything happen in any order, with a journal that tells the truth
// whenever it says something.
func TestResyncWalk(t *testing.T) {
	seen := map[resyncPhase]bool{}
	for seed := range uint64(200) {
		w := &resyncWalk{stream: &stream{conf: StreamConf{Policy: Policy{Ack: AckJournal}}}, t: t,
			r: rand.New(rand.NewPCG(seed, 1))}
		w.ship.voters = MinVoters
		for range 500 {
			before := w.overflow.resync
			w.check(fmt.Sprintf("seed %d: ", seed), w.step(), before)
			seen[w.overflow.resync.phase] = true
		}
	}
	if len(seen) != resyncPhases {
		t.Errorf("only phases %v", seen)
	}
}
