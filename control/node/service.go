package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/status"
	"github.com/pollux-dr/pollux/control/verbs"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
)

// service carries out the operators' verbs.
type service struct {
	*Daemon
	verbs.Common
}

var _ api.Service = service{}

func (d *Daemon) service() service { return service{d, d.common()} }

// GroupPut creates a group, or changes or pauses one.
func (d service) GroupPut(ctx context.Context, r api.GroupPut) (api.Group, error) {
	if err := d.lockVerbs(ctx, "change group", r.Name); err != nil {
		return api.Group{}, err
	}
	defer d.endTurn()
	g, err := d.putGroup(&r)
	for tries := 1; fail.Is(err, fail.Retry) && !r.Create && tries < maxPutTries && d.changedSince(g); tries++ {
		g, err = d.putGroup(&r) // another host changed it at the same time
	}
	if err != nil {
		return api.Group{}, err
	}
	if r.DryRun {
		return d.group(*g), nil
	}
	if err := d.syncStreams(); err != nil {
		return api.Group{}, err
	}
	d.log.Info("group changed", "group", g.Name, "by", r.By)
	return d.group(*g), nil
}

// maxPutTries bounds how often a change of a group is thought out anew.
const maxPutTries = 10

// putGroup thinks out what the request makes of the group as it is now, and proposes it. It
// returns the group that it proposed, with the revision that it looked at.
func (d service) putGroup(r *api.GroupPut) (*state.Group, error) {
	if err := state.CheckName("group", r.Name); err != nil {
		return nil, err
	}
	var old *state.Group
	level := 0
	d.journal.View(func(s *state.State) {
		level = s.Level
		if g := s.Groups[r.Name]; g != nil {
			old = new(*g)
		}
	})
	var g state.Group
	switch {
	case r.Create && old != nil:
		return nil, fail.New(fail.Exists, "create group", r.Name, "it exists").WithHint("pollux group set changes it")
	case !r.Create && old == nil:
		return nil, verbs.NoSuch("group", r.Name)
	case r.Create:
		g = state.Group{Name: r.Name, Owner: d.conf.Name, Ack: "local", Overflow: "throttle", PITR: state.PITRFold,
			RPOTargetSeconds: status.DefaultRPOTargetSeconds, Created: clock.Now().UTC()}
	default:
		g = *old
	}
	if err := applySettings(&g, r, d.journal.Info(), d.journal.Alone()); err != nil {
		return &g, err
	}
	if err := d.stillIn(&g); err != nil || r.DryRun {
		return &g, err
	}
	_, err := d.journal.Propose(state.GroupCommand(level, old, &g))
	return &g, err
}

// changedSince reports whether somebody else has changed a group since it was looked at.
func (d service) changedSince(g *state.Group) (changed bool) {
	d.journal.View(func(s *state.State) {
		now := s.Groups[g.Name]
		changed = now == nil || now.Revision != g.Revision
	})
	return changed
}

// group is a group as it is, or would be.
func (d *Daemon) group(g state.Group) api.Group {
	out := status.Group{Group: g}
	d.journal.View(func(s *state.State) {
		for _, v := range s.Volumes {
			if v.Group == g.Name && !v.Removed {
				out.Volumes++
			}
		}
	})
	return out.API()
}

// stillIn refuses a list of agents without one that has volumes in the group.
func (d *Daemon) stillIn(g *state.Group) (err error) {
	d.journal.View(func(s *state.State) {
		for _, v := range state.Sorted(s.Volumes, func(v *state.Volume) string { return v.Name }) {
			if v.Group == g.Name && !v.Removed && g.Owner != "" && v.Agent != g.Owner &&
				!slices.Contains(g.Agents, v.Agent) {
				err = fail.New(fail.Refused, "set agents of group", g.Name,
					fmt.Sprintf("agent %s has volume %s in it", v.Agent, v.Name)).
					WithHint("name it too, or remove its volumes first")
			}
		}
	})
	return err
}

const maxRPOTargetSeconds = 366 * 86400

// applySettings applies what the request sets, and refuses what this build cannot keep.
func applySettings(g *state.Group, r *api.GroupPut, j change.JournalInfo, alone bool) error {
	bad := func(setting, value, hint string) error {
		return fail.New(fail.Invalid, "set "+setting+" of group", g.Name, fmt.Sprintf("%q is not possible", value)).
			WithHint(hint)
	}
	if r.Ack != nil {
		switch *r.Ack {
		case agent.AckLocal:
		case agent.AckRemote:
			if why := status.Unprotected(&j); why != "" {
				return bad("ack", *r.Ack, why)
			}
		case agent.AckJournal:
			if j.Voters < agent.MinVoters {
				return bad("ack", *r.Ack, fmt.Sprintf("the journal has %d voters, and a promise of a majority "+
					"needs %d: pollux journal ls", j.Voters, agent.MinVoters))
			}
		default:
			return bad("ack", *r.Ack, "local, journal or remote")
		}
		g.Ack = *r.Ack
	}
	if r.OnAckLoss != nil {
		if *r.OnAckLoss != agent.LossWait && *r.OnAckLoss != agent.LossDegrade {
			return bad("on_ack_loss", *r.OnAckLoss, "wait or degrade")
		}
		g.OnAckLoss = *r.OnAckLoss
	}
	if r.Retention != nil {
		keep, err := state.ParseRetention(*r.Retention)
		if err != nil {
			return fail.At("set", "group "+g.Name, err)
		}
		if g.Retention = &keep; keep.Forever() {
			g.Retention = nil
		}
	}
	if r.Overflow != nil {
		if *r.Overflow != agent.OverflowThrottle && *r.Overflow != agent.OverflowBitmap {
			return bad("overflow", *r.Overflow, "throttle or bitmap")
		}
		g.Overflow = *r.Overflow
	}
	if g.Overflow == agent.OverflowBitmap {
		switch {
		case g.Ack != agent.AckLocal && r.Overflow == nil:
			return bad("ack", g.Ack, "overflow: bitmap, which the group has, needs ack: local: "+
				"it drops what the journal does not have; set --overflow throttle as well")
		case g.Ack != agent.AckLocal:
			return bad("overflow", g.Overflow, "it needs ack: local: it drops what the journal does not have")
		case alone:
			return bad("overflow", g.Overflow, "it is for a journal on other hosts, which can be out of reach; "+
				"this one is in the agent, and reads the agent's WAL")
		}
	}
	if r.PITR != nil {
		if *r.PITR != state.PITREveryWrite && *r.PITR != state.PITRFold {
			return bad("pitr", *r.PITR, "it is fold or every-write")
		}
		g.PITR = *r.PITR
	}
	if r.RPOTargetSeconds != nil {
		if !(*r.RPOTargetSeconds >= 0.001 && *r.RPOTargetSeconds <= maxRPOTargetSeconds) {
			return bad("RPO target", fmt.Sprint(*r.RPOTargetSeconds),
				"it must be a millisecond at least, and a year at most")
		}
		g.RPOTargetSeconds = *r.RPOTargetSeconds
	}
	if r.Paused != nil {
		g.Paused = *r.Paused
	}
	if r.Agents != nil {
		if alone {
			return bad("agents", strings.Join(*r.Agents, ","),
				"the journal of a group over several hosts is on other hosts, or has several members")
		}
		for _, a := range *r.Agents {
			if err := state.CheckName("agent", a); err != nil {
				return err
			}
		}
		g.Agents = slices.DeleteFunc(slices.Compact(slices.Sorted(slices.Values(*r.Agents))),
			func(a string) bool { return a == g.Owner })
	}
	return nil
}

// markTimeout is how long a bookmark may wait for the WAL, which may be full. It is short
// because other verbs wait for their turn meanwhile.
const markTimeout = 15 * time.Second

// groupWaitTime is how long GroupWait takes where the caller does not say, and
// maxGroupWait the longest that one may ask for.
const (
	groupWaitTime = 30 * time.Second
	maxGroupWait  = time.Hour
)

// GroupWait answers as soon as more of this agent's part of a group is durable in every
// required target.
func (d service) GroupWait(ctx context.Context, r api.GroupWait) (api.GroupProgress, error) {
	out := api.GroupProgress{Group: r.Group}
	if r.TimeoutSeconds < 0 {
		return out, fail.New(fail.Invalid, "wait for group", r.Group, "negative timeout")
	}
	limit := groupWaitTime
	if r.TimeoutSeconds > 0 {
		limit = time.Duration(min(r.TimeoutSeconds, maxGroupWait.Seconds()) * float64(time.Second))
	}
	var known bool
	var id uuid.UUID
	d.journal.View(func(s *state.State) {
		known = s.Groups[r.Group] != nil
		if st := s.StreamOf(r.Group, d.conf.Name); st != nil {
			id = st.ID
		}
	})
	if !known {
		return out, verbs.NoSuch("group", r.Group)
	}
	if id == uuid.Nil {
		return out, nil // no volume yet
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var err error
	out.LastLSN, out.DurableLSN, err = d.agent.WaitRemote(ctx, id, r.AfterLSN)
	return out, err
}
