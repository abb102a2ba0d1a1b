package state

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// Where things are. A journal has a seat: the site at which it runs, and an epoch that grows
// by one each time it moves. Its groups are primary there, and secondary where a standby
// follows. Targets have sites: what lies at the seat's own protects nothing against its loss.

// Seat is where the journal runs, and since when. Epoch counts its seats.
type Seat struct {
	Site  string    `json:"site"`
	Epoch uint64    `json:"epoch"` // 0: not known, the journal is of an earlier release
	Since time.Time `json:"since"`
}

// SeatPut takes the seat: from the epoch From, under which the journal was up to now, to
// Epoch, which is one more. With the same epoch it corrects the name of the site, and the targets
// that are there stay there: at no moment does one of them count as elsewhere.
type SeatPut struct {
	From  uint64    `json:"from"`
	Site  string    `json:"site"`
	Epoch uint64    `json:"epoch"`
	Time  time.Time `json:"time"`
}

func (r *SeatPut) check() error {
	if r.Epoch == 0 || r.Epoch > change.MaxLSN {
		return invalid("a seat of epoch %d", r.Epoch)
	}
	if r.Epoch != r.From && r.Epoch != r.From+1 && r.From != 0 {
		return invalid("a seat of epoch %d after %d", r.Epoch, r.From)
	}
	return CheckName("site", r.Site)
}

func (s *State) putSeat(r *SeatPut) (keys []string, err error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	if s.Seat.Epoch != r.From {
		return nil, fail.New(fail.Fenced, "take", "seat of the journal",
			fmt.Sprintf("it has epoch %d, at %s, and not %d", s.Seat.Epoch, s.Seat.Site, r.From)).
			WithHint("another site has taken it over; look there")
	}
	since := r.Time
	if r.Epoch == s.Seat.Epoch {
		since = s.Seat.Since
		if keys, err = s.renameSite(s.Seat.Site, r.Site); err != nil {
			return nil, err
		}
	}
	s.Seat = Seat{Site: r.Site, Epoch: r.Epoch, Since: since}
	return append(keys, keySeat), nil
}

// Site is a place that the journal knows of, with the targets that are there.
type Site struct {
	Name    string            `json:"name"`
	Targets map[string]string `json:"targets,omitempty"` // name -> URL
}

const (
	maxSites   = 64
	maxTargets = 64 // of one site
	// maxTargetName bounds the bytes of a target's name.
	maxTargetName = 64
)

func (r *Site) check() error {
	for name, url := range r.Targets {
		if err := first(checkText("target", name), checkText("URL", url)); err != nil {
			return err
		}
	}
	return r.checkApplied()
}

func (r *Site) checkApplied() error {
	if len(r.Targets) > maxTargets {
		return invalid("%d targets at site %s exceed %d", len(r.Targets), r.Name, maxTargets)
	}
	for name := range r.Targets {
		if name == "" || len(name) > maxTargetName {
			return invalid("a target's name of %d bytes", len(name))
		}
	}
	return CheckName("site", r.Name)
}

// putSite replaces what is known of a site. A target is at one site: it leaves the one where
// it was before.
func (s *State) putSite(r *Site) ([]string, error) {
	if err := r.checkApplied(); err != nil {
		return nil, err
	}
	if s.Sites[r.Name] == nil && len(s.Sites) >= maxSites {
		return nil, noRoom("site", r.Name, fmt.Sprintf("the journal knows %d, and no more than that", maxSites))
	}
	keys := []string{"site/" + r.Name}
	for _, other := range Sorted(s.Sites, func(x *Site) string { return x.Name }) {
		left := maps.Clone(other.Targets)
		maps.DeleteFunc(left, func(name, _ string) bool { _, here := r.Targets[name]; return here })
		if other.Name != r.Name && len(left) < len(other.Targets) {
			s.Sites[other.Name] = &Site{Name: other.Name, Targets: left}
			keys = append(keys, "site/"+other.Name)
		}
	}
	s.Sites[r.Name] = r
	return keys, nil
}

// renameSite gives the targets of a site to one of another name.
func (s *State) renameSite(old, name string) ([]string, error) {
	if s.Sites[old] == nil || len(s.Sites[old].Targets) == 0 || old == name {
		return nil, nil
	}
	targets := maps.Clone(s.Sites[old].Targets)
	if there := s.Sites[name]; there != nil {
		maps.Copy(targets, there.Targets)
	}
	return s.putSite(&Site{Name: name, Targets: targets})
}

// SiteOf is where a target is, "" where that is not known.
func (s *State) SiteOf(target string) string {
	for _, site := range s.Sites {
		if _, here := site.Targets[target]; here {
			return site.Name
		}
	}
	return ""
}

// Protects reports whether a target outlives the loss of the seat's site: only what is
// durable in such a one counts as durable remotely. Before the journal knows of sites, all
// targets count, as in earlier releases.
func (s *State) Protects(target string) bool {
	site := s.SiteOf(target)
	return site == "" || s.Seat.Epoch == 0 || site != s.Seat.Site
}

// Standby is where a group is secondary: an agent that follows it.
type Standby struct {
	Site  string `json:"site"`
	Agent string `json:"agent"`
}

func (b Standby) compare(o Standby) int {
	return cmp.Or(cmp.Compare(b.Site, o.Site), cmp.Compare(b.Agent, o.Agent))
}

// maxStandbys bounds those of one group.
const maxStandbys = 16

func checkStandbys(all []Standby) error {
	if len(all) > maxStandbys {
		return invalid("%d standbys exceed %d", len(all), maxStandbys)
	}
	for i, b := range all {
		if err := first(CheckName("site", b.Site), checkAgent(b.Agent)); err != nil {
			return err
		}
		if i > 0 && all[i-1].compare(b) >= 0 {
			return invalid("standbys that are not sorted, or twice there: %s at %s", b.Agent, b.Site)
		}
	}
	return nil
}

// StreamMove gives a stream, with its volumes, from the agent that has it to another one:
// LSNs and chain of hashes go on there. The lease of the former agent is void from then on.
type StreamMove struct {
	Stream change.StreamID `json:"stream"`
	From   string          `json:"from"`
	To     string          `json:"to"`
	// Backings are where the volumes are on the new agent's host, by name; the others keep
	// the path that they had.
	Backings map[string]string `json:"backings,omitempty"`
}

func (r *StreamMove) check() error {
	err := first(checkStream(r.Stream), checkAgent(r.From), checkAgent(r.To))
	if err == nil && r.From == r.To {
		err = invalid("a move from agent %s to itself", r.From)
	}
	for name, path := range r.Backings {
		err = first(err, CheckName("volume", name), checkText("backing", path))
	}
	return err
}

func (s *State) moveStream(r *StreamMove) ([]string, error) {
	st := s.Streams[r.Stream]
	if st == nil {
		return nil, noSuch("stream", r.Stream.String())
	}
	if err := s.mayMove(st, r); err != nil {
		return nil, err
	}
	keys := []string{"stream/" + st.ID.String()}
	moved := *st // readers may have the old one
	moved.Agent, moved.Lease.Number = r.To, st.Lease.Number+1
	s.Streams[st.ID] = &moved
	for _, v := range Sorted(s.Volumes, func(v *Volume) string { return v.Name }) {
		if v.Stream != st.ID {
			continue
		}
		there := *v
		there.Agent, there.Backing = r.To, cmp.Or(r.Backings[v.Name], v.Backing)
		s.Volumes[v.Name] = &there
		keys = append(keys, "volume/"+v.Name)
	}
	g := *s.Groups[st.Group]
	if g.Owner == r.From {
		g.Owner = r.To
	}
	if i := slices.Index(g.Agents, r.From); i >= 0 {
		g.Agents = slices.Replace(slices.Clone(g.Agents), i, i+1, r.To)
		slices.Sort(g.Agents)
	}
	g.Agents = slices.DeleteFunc(slices.Compact(slices.Clone(g.Agents)), func(a string) bool { return a == g.Owner })
	g.Revision++
	s.Groups[st.Group] = &g
	keys = append(keys, "group/"+st.Group)
	if m := s.Barriers[st.Group]; m != nil && m.Outcome == "" && m.Parts[st.ID] != nil {
		void := *m
		void.Outcome = fmt.Sprintf("the stream of agent %s moved to %s", r.From, r.To)
		s.Barriers[st.Group] = &void
		keys = append(keys, "mark/"+st.Group)
	}
	return keys, nil
}

// mayMove refuses a move of what is somewhere else by now, of what is no point, and one that the
// new agent has no place for. An agent's share of the journal is no reason: it must not stand in
// the way of one that takes over.
func (s *State) mayMove(st *Stream, r *StreamMove) error {
	refused := func(why string) error {
		return fail.New(fail.Refused, "move", "group "+st.Group+" to agent "+r.To, why)
	}
	if st.Agent != r.From {
		return fail.New(fail.Fenced, "move", "group "+st.Group+" to agent "+r.To,
			fmt.Sprintf("it is agent %s's, and not %s's", st.Agent, r.From)).
			WithHint("look at the group again: pollux group ls")
	}
	if s.Groups[st.Group] == nil {
		return noSuch("group", st.Group)
	}
	// What changed is known to the former agent alone; but a forced failover, which has gone back
	// to the last point, has it from the log.
	if st.Resyncing() && s.Level < LevelOf(KindSeatMove) {
		return refused("a resync has not ended, and its newest state is no point")
	}
	if s.StreamOf(st.Group, r.To) != nil {
		return refused("that agent has a stream of it already")
	}
	for name := range r.Backings {
		if v := s.Volumes[name]; v == nil || v.Stream != st.ID || v.Removed {
			return refused("volume " + name + " is not a volume of that stream")
		}
	}
	used := map[string]string{} // backing -> volume, at the new agent
	for _, v := range s.Volumes {
		if !v.Removed && v.Agent == r.To {
			used[v.Backing] = v.Name
		}
	}
	for _, v := range Sorted(s.Volumes, func(v *Volume) string { return v.Name }) {
		if v.Stream != st.ID || v.Removed {
			continue
		}
		path := cmp.Or(r.Backings[v.Name], v.Backing)
		if other := used[path]; other != "" {
			return refused("volume " + other + " uses the backing " + path + " of volume " + v.Name)
		}
		used[path] = v.Name
	}
	return nil
}
