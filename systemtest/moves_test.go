package systemtest

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/failback"
	"github.com/pollux-dr/pollux/internal/child"
)

var movesRounds = flag.Int("moves.rounds", 0, "rounds of TestMoves, each with every way to leave a seat; 0: some ways")

// moves is a journal that goes to and fro between two sites, under a crowd.
type moves struct {
	t     *testing.T
	r     *rand.Rand
	c     *crowd
	seat  *place
	other *place // which follows
	from  point  // the one at which the seat's tenure began
	shift *shift // at the seat
	// promised: flushes that were sent since then were answered under ack: remote; -1 is ack: local.
	promised int64
	way      string // how the tenure ends

	checks sync.WaitGroup
	mu     sync.Mutex
	wrong  []error
}

// way is one in which a tenure ends.
type way struct {
	name, ack string
	leave     func(x *moves)
}

// The ways that every run has, and those of which a short one has one.
var (
	ways = []way{
		{"cut off, and runs on", "local", func(x *moves) { x.force(siteLoss{cutOff: true}) }},
		{"killed", "remote", func(x *moves) { x.force(siteLoss{killed: true}) }},
		{"handed over", "local", (*moves).handOver},
		{"handed over, and the seat killed", "local", func(x *moves) { x.interrupted(true) }},
		{"restarted", "local", (*moves).restarted},
	}
	more = []way{
		{"cut off, and runs on", "remote", func(x *moves) { x.force(siteLoss{cutOff: true}) }},
		{"cut off, then killed", "local", func(x *moves) { x.force(siteLoss{cutOff: true, killed: true}) }},
		{"cut off, then power lost", "local", func(x *moves) {
			x.force(siteLoss{cutOff: true, killed: true, memory: true})
		}},
		{"runs on", "remote", func(x *moves) { x.force(siteLoss{}) }},
		{"runs on", "local", func(x *moves) { x.force(siteLoss{}) }},
		{"killed", "local", func(x *moves) { x.force(siteLoss{killed: true}) }},
		{"handed over", "remote", (*moves).handOver},
		{"handed over, and the standby killed", "remote", func(x *moves) { x.interrupted(false) }},
	}
)

// TestMoves lets clients read, write and flush registers of a volume while its journal moves between
// two sites in every way, and holds all that they were answered against the model: what was promised
// is at the next seat, where exactly what was reported as lost is missing, nothing that was lost comes
// back, and the former seat has it as a branch.
func TestMoves(t *testing.T) {
	t.Parallel()
	seoul, busan := newCircle(t)
	x := &moves{t: t, r: newRand(t), c: newCrowd(t, "g", "v"), seat: seoul, other: busan}
	seoul.mustStart()
	seoul.volume("g", "v", crowdVolume)
	busan.follow()
	x.from = x.c.look(seoul)
	x.shift = x.c.work(seoul, x.r)
	for round := range max(*movesRounds, 1) {
		todo := slices.Concat(ways, more)
		if *movesRounds == 0 {
			todo = append(slices.Clone(ways), more[x.r.IntN(len(more))])
		}
		for _, i := range x.r.Perm(len(todo)) {
			began, w := time.Now(), todo[i]
			x.promise(w.ack)
			x.shift.progress(150 + x.r.IntN(150))
			x.way = fmt.Sprintf("round %d, ack: %s, %s", round+1, w.ack, w.name)
			w.leave(x)
			t.Logf("%s: %.1f s, now at %s", x.way, time.Since(began).Seconds(), x.seat.name)
		}
	}
	x.shift.stop()
	x.kept(x.shift, x.c.look(x.seat))
	x.checks.Wait()
	for _, err := range x.wrong {
		t.Error(err)
	}
	t.Logf("%d writes, and the journal is at LSN %d", x.c.value.Load(), x.from.lsn)
}

// promise sets what a flush waits for from now on.
func (x *moves) promise(ack string) {
	x.t.Helper()
	x.seat.verb("group", "set", "g", "--ack", ack)
	if x.promised = -1; ack == "remote" {
		x.promised = x.c.now()
	}
}

// tenure ends one, which the journal goes on from at next, and has it checked while the next one runs.
func (x *moves) tenure(s *shift, next point, bounds func(y *tenure)) {
	y := &tenure{from: x.from, ops: slices.Clone(s.ops), next: next, nextBy: x.c.now()}
	bounds(y)
	x.from = next
	way := x.way
	x.checks.Go(func() {
		if err := y.check(); err != nil {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.wrong = append(x.wrong, fmt.Errorf("%s, the tenure at %s until then: %w", way, s.seat.name, err))
		}
	})
}

// kept ends a tenure of which all that was answered is in next.
func (x *moves) kept(s *shift, next point) {
	x.tenure(s, next, func(y *tenure) { y.nextFrom = y.allAnswered() })
}

// moved makes the other site the seat, where the journal goes on from next, and sets the crowd to work.
func (x *moves) moved() (next point, left *shift, former *place) {
	x.t.Helper()
	left, former = x.shift, x.seat
	x.seat, x.other = x.other, x.seat
	next = x.c.look(x.seat)
	x.shift = x.c.work(x.seat, x.r)
	return next, left, former
}

// siteLoss is what happens to a site that is given up.
type siteLoss struct {
	cutOff bool // from both stores, for a while before
	killed bool
	memory bool // is gone, too: what was not flushed
}

// force takes the journal over at the other site, and brings the former seat back.
func (x *moves) force(l siteLoss) {
	x.t.Helper()
	if l.cutOff {
		x.seat.cutOff(true)
		if x.promised < 0 {
			x.shift.progress(100)
		} else {
			x.shift.flushing(x.c.now())
		}
	}
	if l.killed {
		x.seat.agent.Kill()
		x.shift.ended()
	}
	rep := x.other.takeOver()
	next, left, former := x.moved()
	if g := rep.Groups[0]; g.LSN != next.lsn || left.durableLSN() > next.lsn {
		x.t.Errorf("%s: the verb says LSN %d, the new seat has %d, the former one said that %d was durable", x.way,
			g.LSN, next.lsn, left.durableLSN())
	}
	nextBy := x.c.now()
	x.shift.progress(50) // the former seat may still be at work
	if l.memory {
		former.forget()
	}
	former.cutOff(false)
	if l.killed {
		former.restart()
	}
	healed := time.Now()
	reason := former.isSuperseded()
	left.ended()
	x.t.Logf("%s was superseded after %.1f s", former.name, time.Since(healed).Seconds())
	last, back := x.back(former, next)
	x.reported(reason, back, next, last)
	if l.cutOff && x.promised < 0 && last.lsn == next.lsn {
		x.t.Errorf("%s: nothing is lost, so this shows nothing", x.way)
	}
	x.tenure(left, next, func(y *tenure) {
		y.nextBy = nextBy
		if x.promised >= 0 {
			y.nextFrom = y.allFlushed(x.promised)
		}
		y.last, y.lastFrom, y.lastBy = &last, y.allAnswered(), x.c.now()
		if l.memory {
			y.lastFrom = y.allFlushed(0)
		}
	})
}

// forget takes away what a host remembers without a disk.
func (p *place) forget() {
	p.t.Helper()
	found, err := filepath.Glob(filepath.Join(p.shm, "*arena*"))
	if err != nil || len(found) == 0 {
		p.t.Fatalf("no arena: %v", err)
	}
	for _, f := range found {
		if err := os.Remove(f); err != nil {
			p.t.Fatal(err)
		}
	}
}

// back makes a former seat the standby, and looks at what it was left with: where it is not next, the
// branch has it.
func (x *moves) back(former *place, next point) (last point, rep *failback.Report) {
	x.t.Helper()
	if rep = former.failBack(); rep.Groups[0].LastLSN == next.lsn && rep.DivergentBytes == 0 {
		return next, rep
	}
	m := former.mountBy("branch", "mount", rep.Branch, x.c.volume, "-c", former.config(), "--cache", former.dir,
		"--socket", filepath.Join(former.shm, "branch.sock"))
	defer m.end(x.t)
	return point{uint64(m.said["last_lsn"].(float64)), registersOf(x.t, m.conn)}, rep
}

// reported holds what a former seat says to have kept against where the journal went on.
func (x *moves) reported(reason string, rep *failback.Report, next, last point) {
	x.t.Helper()
	want := fmt.Sprintf(" from LSN %d of agent", next.lsn)
	if last.lsn > next.lsn {
		want = fmt.Sprintf("LSN %d to %d of agent", next.lsn+1, last.lsn)
	}
	if !strings.Contains(reason, want) {
		x.t.Errorf("%s: superseded: %q does not say %q", x.way, reason, want)
	}
	if g := rep.Groups[0]; g.PointLSN != next.lsn || g.BaseLSN != next.lsn || g.LastLSN != last.lsn || g.Compare {
		x.t.Errorf("%s: failback %+v, the journal went on from LSN %d, and the branch ends with %d", x.way, g, next.lsn,
			last.lsn)
	}
}

// handOver hands the journal over.
func (x *moves) handOver() {
	x.t.Helper()
	x.shift.handing()
	x.seat.handOver(x.other)
	x.handedOver()
}

// handedOver is of a former seat that kept nothing back, and so becomes the standby by itself.
func (x *moves) handedOver() {
	x.t.Helper()
	x.shift.ended()
	next, left, former := x.moved()
	former.following()
	x.kept(left, next)
}

// restarted kills the seat's agent, and starts it again.
func (x *moves) restarted() {
	x.t.Helper()
	x.seat.agent.Kill()
	x.shift.ended()
	x.seat.restart()
	x.again()
}

// again sets the crowd to work at a seat that was away for a moment.
func (x *moves) again() {
	x.t.Helper()
	left, next := x.shift, x.c.look(x.seat)
	x.shift = x.c.work(x.seat, x.r)
	x.kept(left, next)
}

// interrupted kills one of both in a hand-over. Either the journal has moved, or it has not.
func (x *moves) interrupted(seat bool) {
	x.t.Helper()
	cmd := exec.Command(program, "failover", "--planned", "--to", x.other.name, "--limit", "4s", "--wait", "4s")
	cmd.Env = x.seat.environ()
	x.shift.handing()
	verb, err := child.Start(cmd)
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(verb.Kill)
	time.Sleep(time.Duration(x.r.IntN(700)) * time.Millisecond) // when is random, nothing is waited for
	victim := x.other
	if seat {
		victim = x.seat
	}
	victim.agent.Kill()
	victim.launchAs(victim.unit)
	if x.decided(verb) {
		x.way += ", taken up"
		x.handedOver()
		return
	}
	x.way += ", taken back"
	if seat {
		x.shift.ended()
		x.again()
	}
	x.shift.progress(50)
	x.other.following()
}

// decided waits until it is certain who goes on, and reports whether that is the other site.
func (x *moves) decided(verb *child.Process) (moved bool) {
	x.t.Helper()
	until(x.t, 2*time.Minute, "somebody goes on", func() error {
		if verb.Running() {
			return errors.New("the verb has not ended")
		}
		if st, err := x.other.tryStatus(); err == nil && st.Standby == nil {
			moved = true
			return nil
		}
		st, err := x.seat.tryStatus()
		if err != nil {
			return err
		}
		if s := st.Groups[0].State; s != "Replicating" && s != "Lagging" {
			return fmt.Errorf("%s: %s", s, st.Groups[0].Reason)
		}
		return nil
	})
	return moved
}
