package journal

import (
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// withSpare adds an optional target. The lead changes hands only where a test makes it, on a busy
// machine too.
func withSpare(o *Options) {
	o.Targets, o.Required, o.Election = []string{"x", "spare"}, []string{"x"}, time.Second
}

// uploaded says that a target has everything up to index.
func (c *clusterTest) uploaded(target string, index uint64, at change.Point) {
	c.t.Helper()
	j := c.leader()
	u := Uploaded{Target: target, Position: j.Target(target).Position + 1, Index: index,
		Streams: map[change.StreamID]change.Point{c.stream: at}}
	if err := j.Uploaded(u); err != nil {
		c.t.Fatal(err)
	}
}

// floors waits until every member holds entries from index on, no others.
func (c *clusterTest) floors(index uint64) {
	c.t.Helper()
	c.await("the floor of all members", func() bool {
		for _, j := range c.members {
			if j != nil && j.Floor() != index {
				return false
			}
		}
		return true
	})
}

// TestLetGo: letting an optional target go, and keeping entries for it again, is
// alike on all members, and outlives restarts and leaders.
func TestLetGo(t *testing.T) {
	c := newClusterTest(t, 3, withSpare)
	c.form()
	c.write(20)
	j := c.leader()
	had, last := c.at, j.LastIndex()
	c.uploaded("spare", last, had)
	c.write(20)
	c.uploaded("x", j.LastIndex(), c.at)
	c.floors(last + 1)
	if err := j.targets.change(targetPut{LetGo: map[string]LetGo{"x": {}}}); !fail.Is(err, fail.Refused) {
		t.Errorf("a required target is let go: %v", err)
	}
	j.letGo("spare", LetGo{Reason: "for a test", Bytes: 1})
	c.floors(j.LastIndex() + 1)
	c.equal()

	old := c.index(j)
	c.stop(old)
	c.write(20)
	j = c.leader()
	c.uploaded("x", j.LastIndex(), c.at)
	c.start(old)
	c.floors(j.LastIndex() + 1)
	if let := j.Target("spare").LetGo; let == nil || let.Reason != "for a test" || j.Target("spare").Index != last {
		t.Fatalf("under the next leader: %+v", j.Target("spare"))
	}
	if name, _ := j.overdue(); name != "" {
		t.Errorf("%s is let go twice", name)
	}

	// A member of an older build ignores it, keeps all, and learns it after its upgrade.
	ignorant := c.members[(c.index(j)+1)%3]
	alterFSM(ignorant, func(f *fsm) { f.targets["spare"].LetGo = nil })
	held := ignorant.Floor()
	c.write(20)
	c.uploaded("x", j.LastIndex(), c.at)
	c.equal()
	if got := ignorant.Floor(); got != held {
		t.Errorf("it has freed up to %d", got)
	}
	if err := j.repeatLetGo(); err != nil {
		t.Fatal(err)
	}
	c.floors(j.LastIndex() + 1)

	if err := j.KeepFor("spare"); err != nil {
		t.Fatal(err)
	}
	from := j.LastIndex() + 1
	c.write(20)
	c.uploaded("x", j.LastIndex(), c.at)
	c.floors(from)
	if x := j.Target("spare"); x.From != from || !x.Missing(last) || !x.Missing(from-2) || x.Missing(from-1) {
		t.Fatalf("%+v, kept from %d", x, from)
	}
	c.equal()
	c.uploaded("spare", from-1, c.at)
	if x := j.Target("spare"); x.LetGo != nil || x.From != 0 {
		t.Errorf("filled: %+v", x)
	}
	c.uploaded("spare", j.LastIndex(), c.at)
	c.floors(j.LastIndex() + 1)
}

// TestLetGoReleasesTheWAL: where frames are in the agent's WAL, letting a target go
// releases them there, and those that are kept for it again are not.
func TestLetGoReleasesTheWAL(t *testing.T) {
	c := newClusterTest(t, 1, func(o *Options) { o.Cluster = nil; withSpare(o) })
	c.source = true
	c.stop(0)
	c.start(0)
	c.group()
	released := func(want uint64) {
		t.Helper()
		j := c.members[0]
		if got := peekFSM(j, func(f *fsm) uint64 { return view{f}.releasedLSN(c.stream) }); got != want {
			t.Errorf("released up to LSN %d, want %d; %+v", got, want, j.Target("spare"))
		}
	}
	c.write(10)
	first := c.at
	c.uploaded("x", c.leader().LastIndex(), first)
	released(0)
	c.leader().letGo("spare", LetGo{Reason: "for a test"})
	released(first.LSN)
	if err := c.leader().KeepFor("spare"); err != nil {
		t.Fatal(err)
	}
	from := c.leader().LastIndex() + 1
	c.write(10)
	c.uploaded("x", c.leader().LastIndex(), c.at)
	released(first.LSN)
	c.stop(0)
	c.start(0)
	released(first.LSN)
	c.equal()
	c.uploaded("spare", from-1, first)
	released(first.LSN)
	c.uploaded("spare", c.leader().LastIndex(), c.at)
	released(c.at.LSN)
}

// TestNewOptionalTarget: an optional target can be added at any time, as one that is to
// be filled; a required one only while the journal holds its beginning.
func TestNewOptionalTarget(t *testing.T) {
	c := newClusterTest(t, 1, func(o *Options) { o.Cluster = nil })
	c.group()
	c.write(10)
	c.uploaded("x", c.leader().LastIndex(), c.at)
	c.stop(0)
	c.set = func(o *Options) {
		o.Cluster = nil
		o.Targets, o.Required = []string{"x", "spare"}, []string{"x", "spare"}
	}
	if j, err := Open(t.Context(), c.options(0)); !fail.Is(err, fail.Refused) {
		t.Errorf("a required one is added: %v", err)
		_ = j.Close()
	}
	c.set = func(o *Options) { o.Cluster = nil; withSpare(o) }
	c.start(0)
	j := c.leader()
	if x := j.Target("spare"); x.LetGo == nil || !x.Missing(0) || j.Floor() != j.LastIndex()+1 {
		t.Errorf("%+v, floor %d of %d", x, j.Floor(), j.LastIndex())
	}
	if got := j.Sources("spare"); len(got) != 1 || got[0] != "x" {
		t.Errorf("it is filled from %v", got)
	}
	c.stop(0)
	c.set = func(o *Options) { o.Cluster = nil; o.Targets, o.Required = []string{"spare"}, []string{"spare"} }
	if j, err := Open(t.Context(), c.options(0)); !fail.Is(err, fail.Refused) {
		t.Errorf("the only one that has everything is taken away: %v", err)
		_ = j.Close()
	}
}
