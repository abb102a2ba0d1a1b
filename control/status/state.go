package status

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/wal"
)

// precedence lists what may be true of a group, the worst first. The first row that holds
// is the group's state, and says the reason; the last one always holds. A state that can
// come about in two ways has two rows, where each of them belongs.
var precedence = []struct {
	state string
	holds func(*facts) (reason string, holds bool)
}{
	{api.Superseded, (*facts).superseded},
	{api.FailingOver, (*facts).failingOver},
	{api.Faulted, (*facts).faulted},
	{api.Fenced, (*facts).fenced},
	{api.Suspended, (*facts).suspended},
	{api.Unprotected, (*facts).unprotected},
	{api.Paused, (*facts).paused},
	{api.Lagging, (*facts).degraded},
	{api.Throttled, (*facts).heldUp},
	{api.Resyncing, (*facts).resyncing},
	{api.Throttled, (*facts).throttled},
	{api.Initializing, (*facts).initializing},
	{api.Lagging, (*facts).late},
	{api.Replicating, (*facts).well},
}

// facts are what bears on one group. Where this process has no agent, or the agent no
// stream of the group, what those would say is empty.
type facts struct {
	*Group
	now      time.Time
	agent    agent.Status
	stream   agent.StreamStatus
	owner    string // of stream
	accepted string // the volume whose backing was accepted
	targets  targets
	lag      time.Duration
	over     *change.Superseded
	handing  *state.HandOver // of which nobody knows yet who takes it up
}

func (f *facts) state() (is, reason string) {
	for _, row := range precedence {
		if reason, holds := row.holds(f); holds {
			return row.state, reason
		}
	}
	return api.Replicating, ""
}

// superseded says where the group went on, and what of it never left this site.
func (f *facts) superseded() (string, bool) {
	s := f.over
	if s == nil {
		return "", false
	}
	where := fmt.Sprintf("it went on under epoch %d", s.Epoch)
	if s.Site != "" {
		where = fmt.Sprintf("it went on at %s under epoch %d", s.Site, s.Epoch)
	}
	if s.Branch == 0 {
		return where + "; nothing is served here, and what of it never left this site is being found out", true
	}
	for _, st := range f.Streams {
		from, last := s.Streams[st.ID].LSN, st.Last
		if f.stream.Conf.ID == st.ID {
			last = f.stream.LastLSN
		}
		switch {
		case last > from:
			where += fmt.Sprintf("; LSN %d to %d of agent %s never left this site", from+1, last, st.Agent)
		default:
			where += fmt.Sprintf(" from LSN %d of agent %s", from, st.Agent)
		}
	}
	return where + "; nothing is served here", true
}

// failingOver: the journal was handed over, and nobody knows yet who goes on.
func (f *facts) failingOver() (string, bool) {
	r := f.handing
	if r == nil {
		return "", false
	}
	if r.Phase == state.HandOverHand {
		return fmt.Sprintf("handed over to host %s at %s; all I/O waits, for %g s at most", r.Host, r.To,
			r.LimitSeconds), true
	}
	return fmt.Sprintf("the hand-over to %s is being taken back; all I/O waits until the log of target %s has that: %s",
		r.To, r.Target, r.Reason), true
}

func (f *facts) faulted() (string, bool) {
	if f.agent.Err == nil {
		return "", false
	}
	return f.agent.Err.Error(), true
}

func (f *facts) fenced() (string, bool) {
	if fail.Is(f.stream.Fault, fail.Fenced) {
		return fail.Explain(f.stream.Fault), true
	}
	return f.targets.fenced, f.targets.fenced != ""
}

func (f *facts) suspended() (string, bool) {
	switch s := &f.stream; {
	case s.Fault != nil:
		return fail.Explain(s.Fault), true
	case s.Suspended != nil && f.accepted != "":
		return "the backing of volume " + f.accepted + " is accepted: restart the agent, " +
			"which then goes on from it", true
	case s.Suspended != nil:
		return fail.Explain(s.Suspended), true
	case s.BackErr != nil:
		return fail.Explain(s.BackErr), true
	}
	return f.targets.stopped, f.targets.stopped != ""
}

func (f *facts) unprotected() (string, bool) { return f.targets.near, f.targets.near != "" }

func (f *facts) paused() (string, bool) { return "paused by an operator", f.Paused }

// degraded: the group's ack is not kept, and its policy lets writers go on without it.
func (f *facts) degraded() (string, bool) {
	return f.because(f.stream.Kept.Why), f.stream.Kept.Degraded
}

// heldUp: writers wait for what is neither the WAL's room nor the lag.
func (f *facts) heldUp() (string, bool) {
	switch s := &f.stream; {
	case s.Kept.Waiting > 0 && f.agent.ShipErr != nil:
		return s.Kept.Why + ": " + f.agent.ShipErr.Error(), true
	case s.ApplyErr != nil:
		return s.ApplyErr.Error(), true
	}
	return "", false
}

// resyncing asks the agent about its own stream, and the control state about others.
func (f *facts) resyncing() (string, bool) {
	if o := f.stream.Overflow; o != nil {
		return f.resyncOf(o), true
	}
	for _, s := range f.Streams {
		if s.Resyncing && s.Agent != f.owner {
			return fmt.Sprintf("a resync of agent %s has not ended; its newest point is LSN %d",
				s.Agent, s.ResyncAfter), true
		}
	}
	return "", false
}

func (f *facts) resyncOf(o *agent.Overflow) string {
	switch {
	case o.Err != nil:
		return fmt.Sprintf("the resync does not get on: %v; the newest point is LSN %d", o.Err, o.After)
	case o.Copying:
		return fmt.Sprintf("%s of %s that changed are copied; the newest point is LSN %d",
			text.Bytes(o.CopiedBytes), text.Bytes(o.Bytes), o.After)
	}
	return f.because(fmt.Sprintf("the WAL overflowed, and %s have changed since LSN %d, the newest point",
		text.Bytes(o.Bytes), o.After))
}

// throttled: the WAL has no room, or little.
func (f *facts) throttled() (string, bool) {
	switch s := &f.stream; {
	case errors.Is(s.FullErr, wal.ErrFull):
		return f.because("the WAL's budget is used up" + heldBy(&f.agent)), true
	case s.FullErr != nil:
		return fail.Explain(s.FullErr), true
	case f.agent.Slow:
		return f.because("the WAL is nearly full" + heldBy(&f.agent)), true
	}
	return "", false
}

func (f *facts) initializing() (string, bool) {
	return initialSync(f.stream.Initial, f.now), f.Initializing
}

func (f *facts) late() (string, bool) {
	return f.because("lag is above the RPO target"), f.lag.Seconds() > f.RPOTargetSeconds
}

// well is what is left; its reason names what may become worse.
func (f *facts) well() (string, bool) {
	return cmp.Or(f.targets.failing, checkpointFails(&f.stream), f.targets.aside), true
}

// because adds to a reason what holds up the way to the targets.
func (f *facts) because(own string) string {
	switch {
	case f.targets.failing != "":
		return own + ": " + f.targets.failing
	case f.agent.ShipErr != nil:
		return own + ": " + f.agent.ShipErr.Error()
	}
	return own
}

// heldBy names the groups that are suspended, or whose checkpoints fail: the WAL, which
// all groups share, keeps their frames, and with them all later ones.
func heldBy(a *agent.Status) string {
	out := ""
	for i := range a.Streams {
		s := &a.Streams[i]
		if s.CheckpointErr != nil {
			out += "; " + checkpointFails(s) + ", and holds it"
		}
		if s.Suspended != nil {
			out += fmt.Sprintf("; group %s is suspended and holds it: %s", s.Conf.Group, fail.Explain(s.Suspended))
		}
	}
	return out
}

// checkpointFails says why a group's last checkpoint failed; "" where it did not.
func checkpointFails(s *agent.StreamStatus) string {
	if s.CheckpointErr == nil {
		return ""
	}
	return fmt.Sprintf("the checkpoint of group %s failed: %s", s.Conf.Group, fail.Explain(s.CheckpointErr))
}

// initialSync says how far the initial syncs of a group are.
func initialSync(i *agent.InitialSync, now time.Time) string {
	if i == nil || i.Bytes == 0 {
		return "initial sync"
	}
	left := "ETA ?"
	if d, ok := i.Left(now); ok {
		left = "ETA " + d.Round(time.Second).String()
	}
	return fmt.Sprintf("initial sync: %d%%, %s of %s, %s",
		i.Percent(), text.Bytes(i.CopiedBytes), text.Bytes(i.Bytes), left)
}

// targets is what is the matter with a journal's targets, in words; "" where nothing is.
type targets struct {
	near    string // all required ones are lost with the journal's site
	fenced  string // another writer holds a required one's object log
	stopped string // a required one is given up for good
	failing string // a required one does not take objects now
	aside   string // an optional one does not: it holds nothing back, and is no reason of any other state
}

// slowRequest is how long a store may take before the status says so.
const slowRequest = 3 * time.Second

// Unprotected says why nothing that a journal's targets hold outlives the loss of its site, "" where
// a required one is elsewhere and has all that the journal does not hold any more, or where nothing
// is known of them.
func Unprotected(j *change.JournalInfo) string {
	spare, behind := "", ""
	for i := range j.Targets {
		switch t := &j.Targets[i]; {
		case t.Site == j.Site:
		case !t.Optional && t.State != "":
			behind = asideReason(t)
		case !t.Optional:
			return ""
		default:
			spare = t.Name
		}
	}
	switch {
	case len(j.Targets) == 0 || j.Site == "":
		return ""
	case behind != "":
		return fmt.Sprintf("all required targets that are in line are at site %s, where the journal is: %s", j.Site,
			behind)
	case spare != "":
		return fmt.Sprintf("all required targets are at site %s, where the journal is, and are lost with it: "+
			"make target %s required, which is elsewhere", j.Site, spare)
	}
	return fmt.Sprintf("all required targets are at site %s, where the journal is, and are lost with it: "+
		"add one at another site, or put the `site` settings right", j.Site)
}

func judge(j *change.JournalInfo, now time.Time) (out targets) {
	all := j.Targets
	out.near = Unprotected(j)
	for i := range all {
		t := &all[i]
		waited := now.Sub(t.OldestRequest)
		switch {
		case t.Optional:
			if out.aside == "" && (t.State != "" || t.Error != "") {
				out.aside = asideReason(t)
			}
		case t.Fenced:
			out.fenced = cmp.Or(t.Error, "another writer holds the object log of target "+t.Name)
		case t.Stopped && t.Error != "":
			out.stopped = "target " + t.Name + ": " + t.Error
		case out.failing != "":
		case t.State != "":
			out.failing = asideReason(t)
		case t.Error != "":
			out.failing = "target " + t.Name + ": " + t.Error
		case !t.OldestRequest.IsZero() && waited > slowRequest:
			out.failing = fmt.Sprintf("target %s: %s has not answered a request for %.0f s", t.Name, t.URL,
				waited.Seconds())
		}
	}
	return out
}

// asideReason says what is the matter with an optional target, or with one that is not in line.
func asideReason(t *change.TargetInfo) string {
	out := "target " + t.Name
	if t.Optional {
		out = "optional " + out
	}
	switch t.State {
	case change.TargetLetGo:
		out += " was let go: " + t.Reason
	case change.TargetFilling:
		out += " is filled from another target: " + cmp.Or(t.Filled, t.Reason)
	}
	if t.Error != "" {
		out += ": " + t.Error
	}
	return out
}
