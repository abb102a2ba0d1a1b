package journal

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/pki"
	"github.com/pollux-dr/pollux/replicator/state"
)

// saved is a member's control state, a line a key.
func saved(j *Journal) string {
	var out []string
	j.View(func(s *state.State) {
		for _, key := range s.Keys() {
			out = append(out, key+" "+string(s.Save(key)))
		}
	})
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// sameState waits until all members have the same control state.
func (c *clusterTest) sameState() {
	c.t.Helper()
	c.await("the same state on all members", func() bool {
		want := saved(c.leader())
		for _, j := range c.members {
			if saved(j) != want {
				return false
			}
		}
		return true
	})
}

// TestEarlierMembers: while one member is of an earlier release, nothing is in the log that
// it does not know; when the last one knows it, all have it; and from then on such a member
// is not let in.
func TestEarlierMembers(t *testing.T) {
	knows := -1 // level 0
	c := newClusterTest(t, 3, func(o *Options) { o.knows = knows })
	c.form()
	knows = state.Level
	for i := range c.members {
		if _, err := c.leader().Propose(state.KindGroupPatch,
			state.GroupPatch{Name: "g"}); !fail.Is(err, fail.Refused) {
			t.Fatalf("%d members are new: %v", i, err)
		}
		c.await("to do what can be done", func() bool { return c.leader().places.settle(t.Context()) == nil })
		c.sameState()
		if level := c.leader().fsm.level(); level != 0 {
			t.Fatalf("with %d new members of 3 the level is %d", i, level)
		}
		c.stop(i)
		c.start(i)
	}
	c.await("the level", func() bool { return c.leader().fsm.level() == state.Level })
	c.await("the seat", func() bool {
		_, epoch, site := c.leader().ID()
		var seat state.Seat
		c.leader().View(func(s *state.State) { seat = s.Seat })
		return epoch == 1 && site == "here" && seat.Site == "here" && seat.Epoch == 1
	})
	c.sameState()

	var last int
	c.await("one that does not lead", func() bool { last = (c.index(c.leader()) + 1) % 3; return true })
	c.stop(last)
	if err := os.RemoveAll(c.path(last)); err != nil {
		t.Fatal(err)
	}
	knows = -1
	c.start(last)
	c.await("its refusal", func() bool {
		err := c.members[last].Waiting()
		return err != nil && strings.Contains(err.Error(),
			fmt.Sprintf("feature level 0, the journal has %d", state.Level))
	})
	c.stop(last)
	if err := os.RemoveAll(c.path(last)); err != nil {
		t.Fatal(err)
	}
	knows = state.Level
	c.start(last)
	c.voters(3)
	c.sameState()
}

// TestPlace: a journal knows where it and its targets are, what lies at its own site does not
// count as durable remotely, and copies of earlier releases hear nothing of it.
func TestPlace(t *testing.T) {
	places := map[string]TargetPlace{"x": {"here", "file:///x"}, "far": {"there", "file:///far"}}
	site := "here"
	c := newClusterTest(t, 1, func(o *Options) {
		o.Targets, o.Required, o.Site, o.Places = []string{"x", "far"}, []string{"x", "far"}, site, places
	})
	c.form()
	c.write(20)
	j := c.leader()
	c.uploaded("x", j.LastIndex(), c.at)
	if got := j.Durable(c.stream); got != 0 {
		t.Errorf("LSN %d is durable remotely, and all of it at the seat's site", got)
	}
	c.uploaded("far", j.LastIndex(), c.at)
	if got := j.Durable(c.stream); got != c.at.LSN {
		t.Errorf("LSN %d of %d is durable remotely", got, c.at.LSN)
	}
	c.write(20)
	c.uploaded("far", j.LastIndex(), c.at) // the one at the seat is behind
	if got := j.Durable(c.stream); got != c.at.LSN {
		t.Errorf("LSN %d of %d is durable remotely", got, c.at.LSN)
	}
	for level, want := range map[int]bool{0: false, state.Level: true} {
		updates, _, _ := j.fsm.updates("a", level, ^uint64(0))
		heard := slices.ContainsFunc(updates, func(u change.StateUpdate) bool {
			return slices.ContainsFunc(u.Keys, func(k change.StateKey) bool { return state.KeyLevel(k.Key) > 0 })
		})
		if heard != want {
			t.Errorf("a copy of level %d hears of places: %v", level, heard)
		}
	}

	c.stop(0) // one that is alone takes what its file says
	places, site = map[string]TargetPlace{"x": {"here", "file:///x"}, "far": {"elsewhere", "file:///far"}}, "home"
	c.start(0)
	j = c.leader()
	var sites, seat string
	j.View(func(s *state.State) { sites, seat = s.SiteOf("x")+" "+s.SiteOf("far"), s.Seat.Site })
	if sites != "here elsewhere" || seat != "home" {
		t.Errorf("targets at %s, seat at %s", sites, seat)
	}
	if _, epoch, named := j.ID(); epoch != 1 || named != "home" || j.Info().Site != "home" {
		t.Errorf("epoch %d, site %s, and %s in what is told", epoch, named, j.Info().Site)
	}
	before := saved(j)
	c.stop(0)
	c.start(0)
	if j = c.leader(); saved(j) != before {
		t.Errorf("a start changed\n%s\nto\n%s", before, saved(j))
	}
}

// TestCorrectedSites: of a journal with several members a site is put right once the files of all
// of them say the same, not before.
func TestCorrectedSites(t *testing.T) {
	site, places := "here", map[string]TargetPlace{"x": {"here", "file:///x"}}
	c := newClusterTest(t, 3, func(o *Options) { o.Site, o.Places = site, places })
	c.form()
	sites := func() (seat, target string) {
		c.leader().View(func(s *state.State) { seat, target = s.Seat.Site, s.SiteOf("x") })
		return seat, target
	}
	site, places = "north", map[string]TargetPlace{"x": {"south", "file:///x"}}
	for i := range c.members {
		c.await("to do what can be done", func() bool { return c.leader().places.settle(t.Context()) == nil })
		if seat, target := sites(); seat != "here" || target != "here" {
			t.Fatalf("with %d files of 3 the seat is at %s, the target at %s", i, seat, target)
		}
		c.stop(i)
		c.start(i)
	}
	c.await("what all files say", func() bool {
		seat, target := sites()
		return seat == "north" && target == "south"
	})
	c.sameState()
}

// TestSeatIsSaid: agents, followers and operators are told of the seat's site and epoch, and
// not of those that the journal was born with.
func TestSeatIsSaid(t *testing.T) {
	site := "local"
	c := newClusterTest(t, 1, func(o *Options) { o.Site = site })
	c.form()
	c.await("the seat", func() bool {
		seat := ""
		c.leader().View(func(s *state.State) { seat = s.Seat.Site })
		return seat == site
	})
	c.stop(0)
	site = "north" // its operator gives it a name
	c.start(0)
	j := c.leader()
	if _, err := j.Propose(state.KindSeat, state.SeatPut{From: 1, Site: site, Epoch: 2}); err != nil {
		t.Fatal(err)
	}
	if info := j.Info(); info.Site != site || info.Epoch != 2 {
		t.Errorf("the journal is said to be at %s, with epoch %d", info.Site, info.Epoch)
	}
	if st := j.Status(); st.Epoch != 2 {
		t.Errorf("the status has epoch %d", st.Epoch)
	}
	if epoch := j.fsm.figures().id.Epoch; epoch != 2 {
		t.Errorf("leases get epoch %d", epoch)
	}
}

// TestOtherPlaces: a leader of several members, whose file lacks a target, takes nothing back
// that the journal knows of it.
func TestOtherPlaces(t *testing.T) {
	places, targets := map[string]TargetPlace{"x": {"here", "file:///x"}}, []string{"x"}
	c := newClusterTest(t, 3, func(o *Options) { o.Targets, o.Required, o.Places = targets, targets, places })
	c.form()
	siteOf := func(j *Journal, target string) (site string) {
		j.View(func(s *state.State) { site = s.SiteOf(target) })
		return site
	}
	c.await("the site", func() bool { return siteOf(c.leader(), "x") == "here" })
	c.write(20)
	first := c.leader()
	c.uploaded("x", first.LastIndex(), c.at)
	places, targets = map[string]TargetPlace{"y": {"there", "file:///y"}}, []string{"y"}
	i := (c.index(first) + 1) % 3
	c.stop(i)
	c.start(i)
	c.await("its lead", func() bool {
		if !c.members[i].Leads() {
			_ = c.leader().Transfer(c.addrs[i])
		}
		return c.members[i].Leads()
	})
	j := c.members[i]
	c.await("what it knows more of", func() bool { return siteOf(j, "y") == "there" })
	if at := siteOf(j, "x"); at != "here" {
		t.Errorf("target x is at %q", at)
	}
	if got := j.Durable(c.stream); got != 0 {
		t.Errorf("LSN %d is durable remotely, and all of it at the seat's site", got)
	}
}

// TestLevelIsTheLeaders: nobody else raises the feature level, which would stop the members of
// earlier releases.
func TestLevelIsTheLeaders(t *testing.T) {
	c := newClusterTest(t, 1, func(o *Options) { o.knows = -1 })
	c.form()
	command := state.Encode(state.KindFeatureLevel, state.FeatureLevel{Level: 1})
	for _, peer := range []pki.Peer{pki.Local, {Role: pki.Operator, Name: "kim"}, {Role: pki.Journal, Name: "m"}} {
		got := c.leader().server.propose(peer, &change.Propose{Command: command})
		if err := got.Error.Err("", ""); !fail.Is(err, fail.Denied) {
			t.Errorf("%s: %v", peer, err)
		}
	}
	if level := c.leader().fsm.level(); level != 0 {
		t.Errorf("level %d", level)
	}
}
