package systemtest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/faultproxy"
	"github.com/pollux-dr/pollux/internal/s3test"
)

var (
	chaosRounds = flag.Int("chaos.rounds", 1, "rounds of TestChaos; each has every fault")
	chaosOnly   = flag.String("chaos.only", "", "only faults whose name has this in it; for looking into one")
)

// minFlushes is how many flushes a round must have answered to count.
const minFlushes = 1000

// chaos is a journal of three, an agent with two groups of different promises, an
// S3 server behind a proxy, and everything that can be done to them.
type chaos struct {
	t     *testing.T
	r     *rand.Rand
	c     *cluster
	s     *site
	gates *gates
	disks []*faultyDisk
	store *faultproxy.Proxy
	all   []*writer
	stop  func() // ends the writers
	bites map[string]int
	term  uint64 // of the newest leader known
	clock string // file that sets the agent's
}

// fault is one thing that goes wrong, is seen to, and is put right again.
type fault struct {
	name string
	do   func(x *chaos)
}

var faults = []fault{
	{"leader killed", (*chaos).killLeader},
	{"follower wiped", (*chaos).wipeFollower},
	{"agent killed", (*chaos).killAgent},
	{"leader frozen", (*chaos).freezeLeader},
	{"leader cut off", (*chaos).cutLeader},
	{"leader cut off one way", (*chaos).cutOneWay},
	{"agent cut off", (*chaos).cutAgent},
	{"store away", (*chaos).storeAway},
	{"leader's disk stalls", (*chaos).stallDisk},
	{"leader's disk fails", (*chaos).failDisk},
	{"leader's disk full", (*chaos).fillDisk},
	{"clocks jump", (*chaos).jumpClocks},
}

// TestChaos lets every fault bite, in a random order, under writes whose every
// answer is known, and holds the twin against the model: nothing that was answered
// under its promise is lost, and each point that is restored is one that was.
func TestChaos(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	x := newChaos(t, r)
	for round := range *chaosRounds {
		clear(x.bites)
		before := x.flushes()
		x.run()
		for _, i := range r.Perm(len(faults)) {
			if !strings.Contains(faults[i].name, *chaosOnly) {
				continue
			}
			t.Logf("round %d: %s", round+1, faults[i].name)
			faults[i].do(x)
			x.settled()
			x.progress()
		}
		for x.flushes()-before < minFlushes {
			x.progress()
		}
		x.stop()
		x.check(round + 1)
		for _, f := range faults {
			if x.bites[f.name] == 0 && strings.Contains(f.name, *chaosOnly) {
				t.Errorf("%s was not seen to bite", f.name)
			}
			t.Logf("%-24s x %d", f.name, x.bites[f.name])
		}
		t.Logf("round %d: %d flushes answered", round+1, x.flushes()-before)
	}
}

func newChaos(t *testing.T, r *rand.Rand) *chaos {
	x := &chaos{t: t, r: r, bites: map[string]int{}, gates: newGates(t)}
	srv := startStore(t, s3test.VersityGW)
	var err error
	if x.store, err = faultproxy.NewHTTP(strings.TrimPrefix(srv.Endpoint, "http://"), r.Uint64()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.store.Close() })
	conf := s3Conf(srv, "http://"+x.store.Addr())
	x.c = newCluster(t, 3)
	x.c.store, x.c.endpoint, x.c.credentials = conf.url, conf.endpoint, conf.credentials
	for i, m := range x.c.members {
		m.dialled = x.gates.add(t, m.name(), m.listen)
		m.started = func(m *memberProcess) { x.gates.call(m.process.PID(), m.name()) }
		if err := os.MkdirAll(m.path(""), 0o700); err != nil {
			t.Fatal(err)
		}
		x.disks = append(x.disks, newFaultyDisk(t, m.path("disk")))
		x.c.members[i].disk = m.path("disk")
	}
	t.Cleanup(func() { // before the disks are taken away
		for _, d := range x.disks {
			d.stall(false)
		}
		for _, m := range x.c.members {
			if m.process != nil {
				_ = syscall.Kill(m.process.PID(), syscall.SIGCONT)
				m.kill()
			}
		}
	})
	jumping := filepath.Join(t.TempDir(), "pollux")
	if err := build(jumping, "-tags", "jumpingclock"); err != nil {
		t.Fatal(err)
	}
	x.c.program, conf.program = jumping, jumping
	x.clock = filepath.Join(t.TempDir(), "clock")
	conf.env = []string{clockFile + "=" + x.clock}
	x.c.form()
	conf.journal = x.c.addresses()
	x.s = newSite(t, conf)
	x.startAgent()
	for _, g := range []struct{ group, volume, ack, pitr string }{{"far", "a", "journal", "every-write"},
		{"near", "b", "local", "fold"}} {
		x.s.verb("group", "create", g.group, "--ack", g.ack, "--pitr", g.pitr)
		x.s.verb("volume", "create", g.volume, "--group", g.group, "--size", "16MiB")
		w := newWriter(x.s, g.group, g.volume, exactBytes, rand.New(rand.NewPCG(r.Uint64(), 1)))
		w.flushPart = 4
		w.pace = time.Millisecond
		x.all = append(x.all, w)
	}
	return x
}

func (m *memberProcess) name() string { return fmt.Sprint("m", m.n) }

func (x *chaos) startAgent() {
	x.t.Helper()
	x.s.mustStart()
	x.gates.call(x.s.agent.PID(), "agent")
}

// run starts the writers. They end with stop, or when the agent is killed.
func (x *chaos) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, len(x.all))
	for _, w := range x.all {
		w.connect()
		go func() { done <- w.run(ctx) }()
	}
	x.stop = func() {
		x.t.Helper()
		cancel()
		for range x.all {
			var bad *wrong
			if err := <-done; errors.As(err, &bad) || err != nil && x.s.agent.Running() {
				x.t.Fatalf("a client got an error: %v", err)
			}
		}
	}
}

func (x *chaos) flushes() (n int64) {
	for _, w := range x.all {
		n += w.flushes.Load()
	}
	return n
}

// progress waits until every writer has got some more answers.
func (x *chaos) progress() {
	x.t.Helper()
	for _, w := range x.all {
		w.progress(60)
	}
}

func (x *chaos) bit(name string) { x.bites[name]++ }

// leader is the member that leads under the newest term.
func (x *chaos) leader() *memberProcess {
	x.t.Helper()
	var lead *memberProcess
	until(x.t, startTimeout, "a leader", func() error {
		lead = nil
		for _, m := range x.c.members {
			if st, err := m.status(); err == nil && st.Journal.Leader && st.Journal.Term >= x.term {
				lead, x.term = m, st.Journal.Term
			}
		}
		if lead == nil {
			return errors.New("none says that it leads")
		}
		return nil
	})
	return lead
}

// replaced waits until another than old leads, under a later term.
func (x *chaos) replaced(old *memberProcess) {
	x.t.Helper()
	term := x.term
	until(x.t, startTimeout, "another leader", func() error {
		for _, m := range x.c.members {
			if m == old {
				continue
			}
			if st, err := m.status(); err == nil && st.Journal.Leader && st.Journal.Term > term {
				x.term = st.Journal.Term
				return nil
			}
		}
		return errors.New("none of the others says that it leads")
	})
}

// status asks a member, which may be unable to answer.
func (m *memberProcess) status() (st api.Status, err error) {
	if m.process == nil {
		return st, errors.New("it does not run")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err = api.Dial(m.socket()).Call(ctx, api.VerbStatus, struct{}{}, &st)
	return st, err
}

// settled waits until three voters are in touch again.
func (x *chaos) settled() {
	x.t.Helper()
	for _, m := range x.c.members {
		if m.process != nil && !m.process.Running() {
			m.process = nil
		}
		if m.process == nil {
			m.start()
		}
	}
	x.c.voters(3)
	x.leader()
}

func (x *chaos) follower() *memberProcess {
	return x.c.members[(x.leader().n+1+x.r.IntN(2))%3]
}

func (x *chaos) killLeader() {
	m := x.leader()
	m.kill()
	x.replaced(m)
	x.bit("leader killed")
}

func (x *chaos) wipeFollower() {
	m := x.follower()
	before, err := x.leader().list()
	if err != nil {
		x.t.Fatal(err)
	}
	m.kill()
	_ = os.RemoveAll(m.state())
	x.progress()
	m.start()
	until(x.t, startTimeout, "the new member takes the old one's place", func() error {
		now, err := x.leader().list()
		if err == nil && (len(now.Members) != 3 || idAt(&now, m.dialled) == idAt(&before, m.dialled)) {
			err = fmt.Errorf("%+v", now)
		}
		return err
	})
	x.bit("follower wiped")
}

// idAt is the id of the member at an address.
func idAt(l *api.JournalMembers, address string) string {
	for _, m := range l.Members {
		if m.Address == address {
			return m.ID
		}
	}
	return ""
}

// said waits until a member's log has a text, after the first so many bytes.
func (x *chaos) said(m *memberProcess, from int, text string) {
	x.t.Helper()
	until(x.t, 2*time.Minute, fmt.Sprintf("member %d says %q", m.n, text), func() error {
		if strings.Contains(m.logText()[from:], text) {
			return nil
		}
		return errors.New("nothing in its log")
	})
}

func (x *chaos) killAgent() {
	x.s.agent.Kill()
	x.stop()
	x.startAgent()
	for _, w := range x.all {
		w.connect()
		w.settle()
		w.verify()
	}
	x.bit("agent killed")
	x.run()
}

func (x *chaos) freezeLeader() {
	m := x.leader()
	_ = syscall.Kill(m.process.PID(), syscall.SIGSTOP)
	x.replaced(m)
	x.progress()
	_ = syscall.Kill(m.process.PID(), syscall.SIGCONT)
	until(x.t, startTimeout, "the frozen leader knows that it was replaced", func() error {
		st, err := m.status()
		if err == nil && (st.Journal.Leader && st.Journal.Term < x.term || st.Journal.Term < x.term) {
			err = fmt.Errorf("%+v", st.Journal)
		}
		return err
	})
	x.bit("leader frozen")
}

// others are the names of everyone but m, the agent too.
func (x *chaos) others(m *memberProcess) []string {
	names := []string{"agent"}
	for _, o := range x.c.members {
		if o != m {
			names = append(names, o.name())
		}
	}
	return names
}

func (x *chaos) cutLeader() {
	m, before := x.leader(), x.gates.heldUp()
	for _, o := range x.others(m) {
		x.gates.part(m.name(), o, true)
		x.gates.part(o, m.name(), true)
	}
	x.replaced(m)
	x.progress()
	x.gates.heal()
	if x.gates.heldUp() > before {
		x.bit("leader cut off")
	}
}

func (x *chaos) cutOneWay() {
	m, before := x.leader(), x.gates.heldUp()
	for _, o := range x.others(m) {
		x.gates.part(m.name(), o, true) // it hears, and is not heard
	}
	x.replaced(m)
	x.progress()
	x.gates.heal()
	if x.gates.heldUp() > before {
		x.bit("leader cut off one way")
	}
}

func (x *chaos) cutAgent() {
	for _, m := range x.c.members {
		x.gates.part("agent", m.name(), true)
	}
	until(x.t, time.Minute, "a flush waits for the journal", func() error {
		if g := x.s.group("far"); g.FlushesWaiting == 0 || g.State != "Throttled" {
			return fmt.Errorf("%+v", g)
		}
		return nil
	})
	x.all[1].progress(50) // ack: local goes on
	x.gates.heal()
	x.bit("agent cut off")
}

func (x *chaos) storeAway() {
	x.store.Set(faultproxy.Faults{Refuse: true})
	until(x.t, time.Minute, "the status names the store", func() error {
		for _, t := range x.s.status().Targets {
			if t.Error != "" {
				return nil
			}
		}
		return errors.New("no target has an error")
	})
	x.progress()
	x.leader().kill() // who follows has the backlog as well
	x.progress()
	x.store.Set(faultproxy.Faults{})
	x.bit("store away")
}

func (x *chaos) stallDisk() {
	m := x.leader()
	d, from := x.disks[m.n], len(m.logText())
	d.stall(true)
	x.replaced(m)
	x.said(m, from, "the disk has not answered")
	x.progress()
	d.stall(false)
	m.kill()
	x.bit("leader's disk stalls")
}

func (x *chaos) failDisk() {
	m := x.leader()
	d := x.disks[m.n]
	d.fail()
	x.replaced(m)
	until(x.t, startTimeout, "the member with the failed disk ends", func() error {
		if m.process.Running() {
			return errors.New("it runs still")
		}
		return nil
	})
	m.process = nil
	d.replace()
	x.bit("leader's disk fails")
}

func (x *chaos) fillDisk() {
	m := x.leader()
	from := len(m.logText())
	filler := filepath.Join(m.disk, "filler")
	f, err := os.OpenFile(filler, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		x.t.Fatal(err)
	}
	defer f.Close()
	fill := func() { // to the last block, and again what others give back
		zeros := make([]byte, 1<<20)
		for n := len(zeros); n >= 4096; n /= 16 {
			for err = nil; err == nil; {
				_, err = f.Write(zeros[:n])
			}
			if !errors.Is(err, syscall.ENOSPC) {
				x.t.Fatal(err)
			}
			_ = f.Sync()
		}
	}
	until(x.t, 2*time.Minute, "the member finds its disk full", func() error {
		fill()
		said := m.logText()[from:]
		if strings.Contains(said, "no space left on device") || strings.Contains(said, "disk has not answered") {
			return nil // a disk that is as slow as that while it is filled has the leader give way as well
		}
		return errors.New("nothing in its log")
	})
	if !m.process.Running() {
		m.process = nil
	}
	x.progress()
	if err := os.Remove(filler); err != nil {
		x.t.Fatal(err)
	}
	x.bit("leader's disk full")
}

// clockFile names a file with seconds that a process adds to its time of day.
const clockFile = "POLLUX_TEST_CLOCK"

// jumpClocks moves the clocks of the agent and of every member, each by up to a day
// into the past or the future.
func (x *chaos) jumpClocks() {
	x.t.Helper()
	jump := func(path string) time.Duration {
		d := time.Duration(1+x.r.IntN(24)) * time.Hour
		if x.r.IntN(2) == 0 {
			d = -d
		}
		if err := os.WriteFile(path, []byte(fmt.Sprint(int(d.Seconds()))), 0o600); err != nil {
			x.t.Fatal(err)
		}
		return d
	}
	for _, m := range x.c.members {
		jump(m.path("clock"))
	}
	d := jump(x.clock)
	until(x.t, time.Minute, "the agent's clock jumps", func() error {
		g := x.s.group("near")
		if g.LastPointTime == nil {
			return errors.New("no point")
		}
		if off := time.Until(*g.LastPointTime); off < d-time.Minute || off > d+time.Minute {
			return fmt.Errorf("its clock is %v off, want %v", off, d)
		}
		if g.LagSeconds > 1000 {
			return fmt.Errorf("a lag of %v s", g.LagSeconds)
		}
		return nil
	})
	x.bit("clocks jump")
}

// check holds what the store has against the models.
func (x *chaos) check(round int) {
	x.t.Helper()
	for _, w := range x.all {
		x.s.drained(w.group, 2*time.Minute)
		if newest := w.checkNewest(); newest != w.h.lsn {
			x.t.Fatalf("the twin of %s ends at LSN %d, the model at %d", w.volume, newest, w.h.lsn)
		}
		for range 4 {
			w.checkRestore(x.r.Uint64N(w.h.lsn + 1))
		}
	}
}
