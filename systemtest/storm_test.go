package systemtest

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"sort"
	"syscall"
	"testing"
	"time"
)

var stormSeconds = flag.Int("storm.seconds", 40, "for how long TestStorm goes on")

// storm is three groups in one small WAL and a journal of its own process, under what
// operators and bad luck do to them at once.
type storm struct {
	t     *testing.T
	r     *rand.Rand
	c     *cluster
	s     *site
	all   []*writer
	marks map[*writer]map[string]uint64
	did   map[string]int
	err   chan error
	end   context.CancelFunc
}

// TestStorm lets writers, whose every answer is known, go on while agent and journal are
// killed and frozen, groups paused, bookmarks set, and garbage collected without grace
// and killed in the middle of it. After each kill every volume is what was acknowledged;
// at the end every bookmark and the newest point are what the model has.
func TestStorm(t *testing.T) {
	t.Parallel()
	x := newStorm(t)
	events := []struct {
		name string
		do   func()
	}{
		{"agent killed", x.killAgent},
		{"agent frozen", func() { x.freeze(x.s.agent.PID()) }},
		{"journal killed", x.killJournal},
		{"journal frozen", func() { x.freeze(x.c.members[0].process.PID()) }},
		{"group paused", x.pause},
		{"bookmarks", x.bookmarks},
		{"gc", func() { x.gc(false) }},
		{"gc killed", func() { x.gc(true) }},
		{"bookmark restored", x.restoreOne},
	}
	deadline := time.Now().Add(time.Duration(*stormSeconds) * time.Second)
	x.run()
	for round := 0; time.Now().Before(deadline) || round == 0; round++ {
		for _, i := range x.r.Perm(len(events)) {
			events[i].do()
			x.did[events[i].name]++
			for _, w := range x.all {
				w.progress(20)
			}
		}
	}
	x.stop()
	x.check()
	var names []string
	for name := range x.did {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		t.Logf("%-18s %5d", name, x.did[name])
	}
	for _, w := range x.all {
		t.Logf("group %-11s %5d requests, %d flushes, LSN %d, %d bookmarks", w.group, w.ops.Load(), w.flushes.Load(),
			w.h.lsn, len(x.marks[w]))
	}
}

func newStorm(t *testing.T) *storm {
	x := &storm{t: t, r: newRand(t), marks: map[*writer]map[string]uint64{}, did: map[string]int{}}
	x.c = newCluster(t, 1)
	x.c.form()
	x.s = newSite(t, siteConf{url: x.c.store, journal: x.c.addresses(), walBudget: "32MiB"})
	x.s.mustStart()
	for _, g := range [][]string{{"keeps", "--pitr", "every-write"}, {"folds"},
		{"forgets", "--retention", "every_write=1m"}} {
		x.s.verb(append([]string{"group", "create"}, g...)...)
		x.s.verb("volume", "create", "v-"+g[0], "--group", g[0], "--size", "12MiB")
		w := newWriter(x.s, g[0], "v-"+g[0], 12<<20, rand.New(rand.NewPCG(x.r.Uint64(), 1)))
		w.flushPart, w.largeTrims = 6, true
		x.all, x.marks[w] = append(x.all, w), map[string]uint64{}
	}
	return x
}

// run starts the writers.
func (x *storm) run() {
	ctx, cancel := context.WithCancel(context.Background())
	x.end, x.err = cancel, make(chan error, len(x.all))
	for _, w := range x.all {
		w.connect()
		go func() { x.err <- w.run(ctx) }()
	}
}

// stop ends the writers; an error is theirs to have only where the agent is gone.
func (x *storm) stop() {
	x.t.Helper()
	x.end()
	for range x.all {
		var bad *wrong
		if err := <-x.err; errors.As(err, &bad) || err != nil && x.s.agent.Running() {
			x.t.Fatalf("a client got an error: %v", err)
		}
	}
}

func (x *storm) killAgent() {
	x.s.agent.Kill()
	x.stop()
	x.s.mustStart()
	for _, w := range x.all {
		w.connect()
		w.settle()
		w.verify()
		w.h.save()
	}
	x.run()
}

func (x *storm) killJournal() {
	m := x.c.members[0]
	m.kill()
	x.c.members[0].start()
}

// freeze stops a process for a while.
func (x *storm) freeze(pid int) {
	_ = syscall.Kill(pid, syscall.SIGSTOP)
	time.Sleep(time.Duration(100+x.r.IntN(1500)) * time.Millisecond) // that is the fault
	_ = syscall.Kill(pid, syscall.SIGCONT)
}

func (x *storm) pause() {
	w := x.all[x.r.IntN(len(x.all))]
	x.verb("group", "pause", w.group)
	time.Sleep(time.Duration(x.r.IntN(500)) * time.Millisecond) // longer, and its frames fill the WAL of all
	x.verb("group", "resume", w.group)
}

// verb repeats what a journal that is just starting cannot take.
func (x *storm) verb(args ...string) {
	x.t.Helper()
	until(x.t, startTimeout, fmt.Sprint(args), func() error {
		if o := x.s.pollux(append(args, "--json")...); o.code != 0 {
			return errors.New(o.stderr)
		}
		return nil
	})
}

func (x *storm) bookmarks() {
	x.stop()
	for _, w := range x.all {
		x.s.drained(w.group, time.Minute) // the journal is there
		w.bookmark(x.marks[w])
		w.h.save()
	}
	x.run()
}

// gc collects without grace; killed, at a random moment.
func (x *storm) gc(killed bool) {
	x.t.Helper()
	cmd := exec.Command(program, append([]string{"gc", "--grace", "0s"}, x.s.storeArgs()...)...)
	cmd.Env = x.s.environ()
	out := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		x.t.Fatal(err)
	}
	if killed {
		time.Sleep(time.Duration(x.r.IntN(150)) * time.Millisecond) // anywhere in its work
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return
	}
	if err := cmd.Wait(); err != nil {
		x.t.Fatalf("gc: %v\n%s", err, out)
	}
}

// restoreOne restores a bookmark while everything goes on.
func (x *storm) restoreOne() {
	w := x.all[x.r.IntN(len(x.all))]
	for name, lsn := range x.marks[w] {
		// the writer has the rest
		saved := w.h.saved[sort.Search(len(w.h.saved), func(i int) bool { return w.h.saved[i].lsn >= lsn })]
		x.compare(w, name, lsn, saved.image)
		return
	}
}

func (x *storm) compare(w *writer, name string, lsn uint64, want []byte) {
	x.t.Helper()
	got, at := x.s.restore(w.volume, name)
	if at != lsn {
		x.t.Fatalf("bookmark %s of %s restores LSN %d, want %d", name, w.group, at, lsn)
	}
	sameBytes(x.t, "twin of "+w.volume+" at bookmark "+name, got, want)
}

// check holds the store against the models.
func (x *storm) check() {
	x.t.Helper()
	for _, w := range x.all {
		w.verify()
		x.s.drained(w.group, time.Minute)
	}
	x.gc(false)
	for _, w := range x.all {
		if lsn := w.checkNewest(); lsn != w.h.lsn {
			x.t.Fatalf("the twin of %s ends at LSN %d, the model at %d", w.volume, lsn, w.h.lsn)
		}
		for name, lsn := range x.marks[w] {
			x.compare(w, name, lsn, w.h.at(lsn))
		}
	}
	keeps := x.all[0]
	for range 4 {
		keeps.checkRestore(x.r.Uint64N(keeps.h.lsn + 1))
	}
	if v := x.s.verb(append([]string{"verify"}, x.s.storeArgs()...)...); len(v["damaged"].([]any)) != 0 {
		x.t.Errorf("%v", v)
	}
}
