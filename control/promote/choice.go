package promote

import (
	"cmp"
	"slices"

	"github.com/pollux-dr/pollux/replicator/state"
)

// choice is which of the targets' logs a failover takes: a plain value without I/O, asked with next and
// told with found or away. The farthest log is that of the highest epoch, and among those the longest:
// what an older epoch wrote beyond the place where a later one went on is a dead branch, however long.
// Of equal ones a required target's is taken: behind its fence nobody is told any more that something
// is durable remotely.
//
// The newest log also says whose site is lost, and no target there is asked, which could only hang. A
// log that is behind names the seat before: so what is said by the farthest so far counts, and where
// some target could not be reached, whose log may be farther, those at the lost site are asked last.
// TestSitesModel goes through failovers one after another, with targets at all sites.
type choice struct {
	logs []seen
}

// seen is what is known of a target's log.
type seen struct {
	site     string
	required bool
	state    seenState
	epoch    uint64
	index    uint64 // the last of the journal
	seat     string // the site that has the seat of that epoch; "" where the log does not say so yet
}

type seenState uint8

const (
	notAsked seenState = iota
	asked
	hurried // asked, and not waited for: it is at the lost site, as it seems
	skipped // after that
	unreached
	reached
)

// add is a target that may be asked, behind those before.
func (c *choice) add(site string, required bool) {
	c.logs = append(c.logs, seen{site: site, required: required})
}

// next is the target to be asked next, while others may be asked still; -1: no more are, for now.
func (c *choice) next() int {
	lost, waiting, last := c.lost(), false, -1
	for i := range c.logs {
		switch l := &c.logs[i]; {
		case l.state == asked, l.state == hurried:
			waiting = true
		case l.state == unreached, l.state == reached:
		case lost == "" || l.site != lost:
			return i
		case last < 0 && l.state == notAsked:
			last = i
		}
	}
	if c.someAway() && !waiting {
		return last
	}
	return -1
}

func (c *choice) someAway() bool {
	return slices.ContainsFunc(c.logs, func(l seen) bool { return l.state == unreached })
}

// last is that a target is at the lost site.
func (c *choice) last(i int) bool { lost := c.lost(); return lost != "" && c.logs[i].site == lost }

// ask notes that a target is asked.
func (c *choice) ask(i int) { c.logs[i].state = asked }

// hurry reports whether a target that is asked is not to be waited for any more: it has turned out to be
// at the lost site. Should that turn out to be another one, it is asked again.
func (c *choice) hurry(i int) bool {
	if c.logs[i].state == asked && c.last(i) && !c.someAway() {
		c.logs[i].state = hurried
		return true
	}
	return false
}

// skipped is that a target was not waited for.
func (c *choice) skipped(i int) bool { return c.logs[i].state == skipped }

// found says where a target's log ends, under which epoch, and which seat it tells of. A later epoch's
// has fenced it then, and written nothing to it yet.
func (c *choice) found(i int, index, epoch uint64, seat state.Seat) {
	l := &c.logs[i]
	l.state, l.epoch, l.index = reached, max(epoch, seat.Epoch), index
	if epoch <= max(seat.Epoch, 1) {
		l.seat = seat.Site
	}
}

// away says that a target could not be reached, or its log not be read.
func (c *choice) away(i int) {
	if l := &c.logs[i]; l.state == hurried {
		l.state = skipped
	} else {
		l.state = unreached
	}
}

func (l *seen) compare(o *seen) int {
	required := 0
	if l.required != o.required {
		if required = -1; l.required {
			required = 1
		}
	}
	return cmp.Or(cmp.Compare(l.epoch, o.epoch), cmp.Compare(l.index, o.index), required)
}

// farthest is the one that reaches farthest of those that may be taken; -1: there is none.
func (c *choice) farthest(may func(l *seen) bool) int {
	best := -1
	for i := range c.logs {
		if l := &c.logs[i]; l.state == reached && may(l) && (best < 0 || l.compare(&c.logs[best]) > 0) {
			best = i
		}
	}
	return best
}

func anyOf(*seen) bool { return true }

// lost is the site of the former seat, as far as is known.
func (c *choice) lost() string {
	if i := c.farthest(anyOf); i >= 0 {
		return c.logs[i].seat
	}
	return ""
}

// taken is the one that is taken: outside the lost site, where others look as well, unless the newest
// epoch has its log nowhere else. -1: there is none.
func (c *choice) taken() int {
	best := c.farthest(anyOf)
	if best < 0 {
		return -1
	}
	b := &c.logs[best]
	elsewhere := func(l *seen) bool { return l.epoch == b.epoch && (b.seat == "" || l.site != b.seat) }
	if i := c.farthest(elsewhere); i >= 0 {
		return i
	}
	return best
}
