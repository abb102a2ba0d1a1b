package state

import (
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
)

// What a proposer may say, kind by kind. These checks need no state, so that a
// journal's leader can refuse nonsense before it is in Raft's log.

const (
	// maxText bounds texts that are shown, and paths.
	maxText = 4096
	// maxVolumeBytes is more than any device has, and leaves room to count on.
	maxVolumeBytes = 1 << 60
	// maxSeconds bounds spans of time: a century and more.
	maxSeconds = 1 << 32
	// maxAgents bounds those that a group may name.
	maxAgents = 1024
)

var hostRule = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,255}$`)

// first returns the first error.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func checkAgent(name string) error {
	if !hostRule.MatchString(name) {
		return invalid("agent %q: letters, digits and _.- only, 255 at most", name)
	}
	return nil
}

func checkText(what, s string) error {
	odd := func(r rune) bool { return !unicode.IsPrint(r) }
	if len(s) > maxText || !utf8.ValidString(s) || strings.ContainsFunc(s, odd) {
		return invalid("%s of %d bytes: it must be printable, and %d bytes at most", what, len(s), maxText)
	}
	return nil
}

func checkLength(what, s string) error {
	if len(s) > maxText {
		return invalid("%s of %d bytes: %d at most", what, len(s), maxText)
	}
	return nil
}

func checkStream(id change.StreamID) error {
	if id == uuid.Nil {
		return invalid("no stream")
	}
	return nil
}

func checkLSN(what string, lsn uint64) error {
	if lsn == 0 || lsn > change.MaxLSN {
		return invalid("%s LSN %d", what, lsn)
	}
	return nil
}

func checkSeconds(what string, s float64) error {
	if !(s >= 0 && s <= maxSeconds) {
		return invalid("%s of %g s", what, s)
	}
	return nil
}

// checkOneOf refuses a setting that no release knows; empty is its default.
func checkOneOf(setting, value string, known ...string) error {
	if value != "" && !slices.Contains(known, value) {
		return invalid("%s %q is none of %s", setting, value, strings.Join(known, ", "))
	}
	return nil
}

// The values of Group.Ack, OnAckLoss and Overflow; the agent says what they do.
var (
	ackModes      = []string{"local", "journal", "remote"}
	ackLosses     = []string{"wait", "degrade"}
	overflowModes = []string{"throttle", "bitmap"}
)

// checkPut is check of what group-put may say.
func (g *Group) checkPut() error {
	if g.Revision != 0 || len(g.Standbys) > 0 {
		return invalid("a group's revision and standbys are for group-patch")
	}
	return g.check()
}

func (g *Group) check() error {
	err := first(CheckName("group", g.Name),
		checkOneOf("ack", g.Ack, ackModes...),
		checkOneOf("on_ack_loss", g.OnAckLoss, ackLosses...),
		checkOneOf("overflow", g.Overflow, overflowModes...),
		checkText("pitr", g.PITR), // one that is not known keeps all
		checkSeconds("RPO target", g.RPOTargetSeconds), g.Retention.check())
	if err == nil {
		err = g.checkOverflow()
	}
	if err == nil && g.Owner != "" {
		err = checkAgent(g.Owner)
	}
	if err == nil && len(g.Agents) > maxAgents {
		err = invalid("%d agents exceed %d", len(g.Agents), maxAgents)
	}
	for _, a := range g.Agents {
		err = first(err, checkAgent(a))
	}
	return first(err, checkStandbys(g.Standbys))
}

// checkApplied is what of check a command that was proposed is held to once more, and what is
// loaded. All members must find the same, whatever they were built with: it asks nothing that
// may differ or become stricter, such as which characters can be printed.
func (g *Group) checkApplied() error {
	return first(CheckName("group", g.Name), g.Retention.check(), checkStandbys(g.Standbys))
}

// checkOverflow refuses settings that do not go together.
func (g *Group) checkOverflow() error {
	if g.Overflow == "bitmap" && g.Ack != "" && g.Ack != "local" {
		return invalid("overflow bitmap needs ack local, not %s", g.Ack)
	}
	return nil
}

func (st *Stream) check() error {
	if st.Number != 0 || st.Lease != (change.Lease{}) || len(st.Gaps) > 0 || len(st.Resyncs) > 0 ||
		st.Horizon != 0 || st.Forgotten != 0 {
		return invalid("a new stream has no number, lease, gaps, resyncs or horizon: the journal gives them")
	}
	return first(checkStream(st.ID), CheckName("group", st.Group), checkAgent(st.Agent))
}

func (v *Volume) check() error {
	if v.Number != 0 || v.FirstLSN != 0 || v.Ready || v.Removed {
		return invalid("a new volume has no number and no first LSN, and is neither ready nor removed")
	}
	if v.SizeBytes <= 0 || v.SizeBytes > maxVolumeBytes {
		return invalid("size of %d bytes", v.SizeBytes)
	}
	return first(CheckName("volume", v.Name), CheckName("group", v.Group), checkStream(v.Stream), checkAgent(v.Agent),
		checkText("backing", v.Backing))
}

func (r *VolumeReady) check() error {
	if r.FirstLSN > change.MaxLSN { // 0 is of a volume of zeros
		return invalid("first LSN %d", r.FirstLSN)
	}
	return CheckName("volume", r.Name)
}

func (r *VolumeRemove) check() error { return CheckName("volume", r.Name) }

func (b *Bookmark) check() error {
	if b.Points != nil {
		return invalid("points of several streams are made by a mark")
	}
	return first(CheckName("bookmark", b.Name), CheckName("group", b.Group), checkStream(b.Stream),
		checkLSN("bookmark's", b.LSN), checkSeconds("hold", b.HeldSeconds))
}

func (r *BookmarkRemove) check() error {
	return first(CheckName("bookmark", r.Name), CheckName("group", r.Group))
}

func (g *LeaseGrant) check() error { return first(checkStream(g.Stream), checkAgent(g.Agent)) }

func (h *Heartbeat) check() error { return nil }

func (a *Audit) check() error {
	err := a.checkSize() // agents of earlier releases send errors as they are; what is taken of them is made printable
	if err == nil && a.Number != 0 {
		err = invalid("the journal numbers audit entries")
	}
	return err
}

func (r *ResyncBegin) check() error {
	if r.To.LSN <= r.From.LSN || r.To.LSN > change.MaxLSN {
		return invalid("a gap from LSN %d to %d", r.From.LSN, r.To.LSN)
	}
	return checkStream(r.Stream)
}

func (r *ResyncEnd) check() error { return first(checkStream(r.Stream), checkLSN("last", r.LSN)) }

func (r *MarkBegin) check() error {
	if r.ID == uuid.Nil {
		return invalid("a mark without an id")
	}
	return first(CheckName("bookmark", r.Name), CheckName("group", r.Group), checkSeconds("hold", r.LimitSeconds))
}

func (r *MarkStep) check() error {
	if r.LSN > change.MaxLSN {
		return invalid("LSN %d", r.LSN)
	}
	return first(CheckName("group", r.Group), checkSeconds("hold", r.HeldSeconds), checkLength("reason", r.Why))
}

func (h *Horizon) check() error { return checkHorizons(h.Groups) }

func (h *StreamHorizon) check() error {
	for id, lsn := range h.Streams {
		if err := checkLSN("horizon of stream "+id.String()+" at", lsn); err != nil {
			return err
		}
	}
	return checkHorizons(h.Groups)
}

func checkHorizons(groups map[string]time.Time) error {
	for name, t := range groups {
		if err := CheckName("group", name); err != nil {
			return err
		}
		if t.After(farFuture) {
			return invalid("horizon of group %s at %s", name, t.Format(time.RFC3339))
		}
	}
	return nil
}

// farFuture is no time at which a point was written.
var farFuture = time.Date(9000, 1, 1, 0, 0, 0, 0, time.UTC)
