package daemon

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/cmd/pollux/journald"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/control"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
)

// service carries out the operators' verbs.
type service struct {
	*Daemon
	journald.Auditor
}

var _ control.Service = service{}

// GroupPut creates a group, or changes or pauses one.
func (d service) GroupPut(ctx context.Context, r control.GroupPut) (control.Group, error) {
	if err := d.takeTurn(ctx, "change group", r.Name); err != nil {
		return control.Group{}, err
	}
	defer d.endTurn()
	var g state.Group
	exists := false
	d.journal.View(func(s *state.State) {
		if old := s.Groups[r.Name]; old != nil {
			g, exists = *old, true
		}
	})
	switch {
	case r.Create && exists:
		return control.Group{}, fail.New(fail.Exists, "create group", r.Name, "it exists").WithHint("pollux group set changes it")
	case !r.Create && !exists:
		return control.Group{}, noSuch("group", r.Name)
	case r.Create:
		g = state.Group{Name: r.Name, Owner: d.conf.Name, Ack: "local", Overflow: "throttle", PITR: state.PITRFold, RPOTargetSeconds: defaultRPOTargetSeconds, Created: clock.Now().UTC()}
	}
	if err := state.CheckName("group", r.Name); err != nil {
		return control.Group{}, err
	}
	if err := applySettings(&g, &r, d.journal.Info().Voters, d.remote == nil); err != nil {
		return control.Group{}, err
	}
	if err := d.stillIn(&g); err != nil {
		return control.Group{}, err
	}
	if r.DryRun {
		return d.group(&g), nil
	}
	if _, err := d.journal.Propose(state.KindGroupPut, g); err != nil {
		return control.Group{}, err
	}
	if err := d.syncStreams(); err != nil {
		return control.Group{}, err
	}
	d.log.Info("group changed", "group", g.Name, "by", r.By)
	return d.group(&g), nil
}

// stillIn refuses to leave an agent out that has volumes in the group.
func (d *Daemon) stillIn(g *state.Group) (err error) {
	d.journal.View(func(s *state.State) {
		for _, v := range state.Sorted(s.Volumes, func(v *state.Volume) string { return v.Name }) {
			if v.Group == g.Name && !v.Removed && g.Owner != "" && v.Agent != g.Owner && !slices.Contains(g.Agents, v.Agent) {
				err = fail.New(fail.Refused, "set agents of group", g.Name, fmt.Sprintf("agent %s has volume %s in it", v.Agent, v.Name)).
					WithHint("name it too, or remove its volumes first")
			}
		}
	})
	return err
}

const (
	defaultRPOTargetSeconds = 10
	maxRPOTargetSeconds     = 366 * 86400
)

// applySettings applies what the request sets, and refuses what this build cannot keep.
func applySettings(g *state.Group, r *control.GroupPut, voters int, alone bool) error {
	bad := func(setting, value, hint string) error {
		return fail.New(fail.Invalid, "set "+setting+" of group", g.Name, fmt.Sprintf("%q is not possible", value)).WithHint(hint)
	}
	if r.Ack != nil {
		switch *r.Ack {
		case agent.AckLocal, agent.AckRemote:
		case agent.AckJournal:
			if voters < agent.MinVoters {
				return bad("ack", *r.Ack, fmt.Sprintf("the journal has %d voters, and a promise of a majority needs %d: pollux journal ls", voters, agent.MinVoters))
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
	if r.Overflow != nil {
		if *r.Overflow != agent.OverflowThrottle && *r.Overflow != agent.OverflowBitmap {
			return bad("overflow", *r.Overflow, "throttle or bitmap")
		}
		g.Overflow = *r.Overflow
	}
	if g.Overflow == agent.OverflowBitmap {
		switch {
		case g.Ack != agent.AckLocal && r.Overflow == nil:
			return bad("ack", g.Ack, "overflow: bitmap, which the group has, needs ack: local: it drops what the journal does not have; set --overflow throttle as well")
		case g.Ack != agent.AckLocal:
			return bad("overflow", g.Overflow, "it needs ack: local: it drops what the journal does not have")
		case alone:
			return bad("overflow", g.Overflow, "it is for a journal on other hosts, which can be out of reach; this one is in the agent, and reads the agent's WAL")
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
			return bad("RPO target", fmt.Sprint(*r.RPOTargetSeconds), "it must be a millisecond at least, and a year at most")
		}
		g.RPOTargetSeconds = *r.RPOTargetSeconds
	}
	if r.Paused != nil {
		g.Paused = *r.Paused
	}
	if r.Agents != nil {
		if alone {
			return bad("agents", strings.Join(*r.Agents, ","), "the journal of a group over several hosts is on other hosts, or has several members")
		}
		for _, a := range *r.Agents {
			if err := state.CheckName("agent", a); err != nil {
				return err
			}
		}
		g.Agents = slices.DeleteFunc(slices.Compact(slices.Sorted(slices.Values(*r.Agents))), func(a string) bool { return a == g.Owner })
	}
	return nil
}

func noSuch(what, name string) error {
	return fail.New(fail.NotFound, "find", what+" "+name, "no such "+what).WithHint("pollux " + what + " ls lists them")
}

// markTimeout is how long a bookmark may wait for the WAL, which may be full: the
// other verbs wait behind it.
const markTimeout = 15 * time.Second

// groupWaitTime is how long GroupWait takes where the caller does not say, and
// maxGroupWait the longest that one may ask for.
const (
	groupWaitTime = 30 * time.Second
	maxGroupWait  = time.Hour
)

// GroupWait answers as soon as more of a group is durable in every required
// target.
func (d service) GroupWait(ctx context.Context, r control.GroupWait) (control.GroupProgress, error) {
	out := control.GroupProgress{Group: r.Group}
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
		return out, noSuch("group", r.Group)
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

func (d service) group(g *state.Group) control.Group {
	out := control.Group{Name: g.Name, Ack: g.Ack, OnAckLoss: cmp.Or(g.OnAckLoss, agent.LossWait), Overflow: g.Overflow, PITR: g.PITR, RPOTargetSeconds: g.RPOTargetSeconds, Paused: g.Paused, Owner: g.Owner, Agents: g.Agents}
	d.journal.View(func(s *state.State) {
		for _, v := range s.Volumes {
			if v.Group == g.Name && !v.Removed {
				out.Volumes++
			}
		}
	})
	return out
}

// heard refuses to call nothing what is only not known: the journal is on other hosts,
// and has not answered since this agent started.
func (d *Daemon) heard() error {
	if d.remote == nil || d.remote.Synced() {
		return nil
	}
	e := fail.New(fail.Retry, "ask", "journal", "it has not been heard of since the agent started")
	if err := d.remote.Err(); err != nil {
		return e.WithHint(err.Error())
	}
	return e
}

// GroupList lists all groups.
func (d service) GroupList(context.Context, control.List) ([]control.Group, error) {
	if err := d.heard(); err != nil {
		return nil, err
	}
	var groups []state.Group
	d.journal.View(func(s *state.State) {
		for _, g := range state.Sorted(s.Groups, func(g *state.Group) string { return g.Name }) {
			groups = append(groups, *g)
		}
	})
	out := make([]control.Group, 0, len(groups))
	for i := range groups {
		out = append(out, d.group(&groups[i]))
	}
	return out, nil
}

// syncStreams tells the agent which streams there are, and which are paused.
func (d *Daemon) syncStreams() error {
	var confs []agent.StreamConf
	d.journal.View(func(s *state.State) {
		for _, st := range s.Streams {
			if st.Agent == d.conf.Name {
				g := s.Groups[st.Group]
				confs = append(confs, agent.StreamConf{ID: st.ID, Number: st.Number, Group: st.Group, Paused: g.Paused,
					Policy: agent.Policy{Ack: g.Ack, OnLoss: g.OnAckLoss, Overflow: g.Overflow}})
			}
		}
	})
	slices.SortFunc(confs, func(a, b agent.StreamConf) int { return int(a.Number) - int(b.Number) })
	for _, c := range confs {
		if err := d.agent.AddStream(c); err != nil {
			return err
		}
	}
	return nil
}

// reconcile brings the agent to what the journal says: a verb may have been cut
// short by a crash.
func (d *Daemon) reconcile(ctx context.Context) error {
	if err := d.syncStreams(); err != nil {
		return err
	}
	known, served := map[string]bool{}, map[string]bool{}
	for _, v := range d.agent.Volumes() {
		known[v.Name], served[v.Name] = true, v.Ready
	}
	var add, drop []string
	d.journal.View(func(s *state.State) {
		for _, v := range s.Volumes {
			if v.Agent != d.conf.Name {
				continue
			}
			if v.Removed && known[v.Name] {
				drop = append(drop, v.Name)
			} else if !v.Removed && (!served[v.Name] || !v.Ready) {
				add = append(add, v.Name)
			}
		}
	})
	for _, name := range add {
		d.log.Info("completing a volume's creation", "volume", name)
		if err := d.attach(ctx, name, true); err != nil { // the others are served all the same
			d.log.Error("volume is not served", "volume", name, "err", err, "hint", fail.HintOf(err))
			continue
		}
		d.sync(name)
	}
	for _, name := range drop {
		if err := d.agent.RemoveVolume(ctx, name); err != nil { // the next start tries again
			d.log.Error("a removed volume is still attached", "volume", name, "err", err, "hint", fail.HintOf(err))
		}
	}
	return nil
}

// follow brings the agent to what a journal elsewhere says: at first when it is
// reached, then whenever something changes there.
func (d *Daemon) follow(ctx context.Context) {
	for first := true; ; {
		changed := d.remote.Changed()
		if d.remote.Synced() {
			err := d.takeTurn(ctx, "follow", "journal")
			if err == nil && first {
				err = d.reconcile(ctx)
				first = err != nil
			} else if err == nil {
				err = d.syncStreams()
			}
			if ctx.Err() == nil {
				d.endTurn()
			}
			if err != nil {
				d.log.Error("the agent does not follow the journal", "err", err, "hint", fail.HintOf(err))
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// BookmarkAdd names the present point of a group.
func (d service) BookmarkAdd(ctx context.Context, r control.BookmarkAdd) (control.Bookmark, error) {
	if err := d.takeTurn(ctx, "add bookmark", r.Name); err != nil {
		return control.Bookmark{}, err
	}
	defer d.endTurn()
	if err := state.CheckName("bookmark", r.Name); err != nil {
		return control.Bookmark{}, err
	}
	if err := checkHold(&r); err != nil {
		return control.Bookmark{}, err
	}
	if err := d.heard(); err != nil {
		return control.Bookmark{}, fail.At("add bookmark", r.Group+"/"+r.Name, err)
	}
	var st *state.Stream
	var taken, group bool
	d.journal.View(func(s *state.State) {
		group = s.Groups[r.Group] != nil
		taken = s.Bookmarks[r.Group+"/"+r.Name] != nil
		if p := s.StreamOf(r.Group, d.conf.Name); p != nil {
			c := *p
			st = &c
		}
	})
	switch {
	case !group:
		return control.Bookmark{}, noSuch("group", r.Group)
	case taken:
		return control.Bookmark{}, fail.New(fail.Exists, "add bookmark", r.Group+"/"+r.Name, "it exists").WithHint("choose another name")
	case st == nil:
		return control.Bookmark{}, fail.New(fail.Refused, "add bookmark", r.Group+"/"+r.Name, "the group has no volume yet")
	case d.agent.NoPoint(st.ID) != nil:
		return control.Bookmark{}, fail.At("add bookmark", r.Group+"/"+r.Name, d.agent.NoPoint(st.ID))
	case r.DryRun:
		b := state.Bookmark{Name: r.Name, Group: r.Group, Stream: st.ID, Time: clock.Now().UTC()}
		_, b.Epoch, _ = d.journal.ID()
		b.LSN = d.agent.LastLSN(st.ID) + 1
		return d.bookmark(&b), nil
	}
	if d.remote != nil && d.severalHosts(r.Group) {
		return d.bookmarkAll(ctx, &r)
	}
	ctx, cancel := context.WithTimeout(ctx, markTimeout)
	defer cancel()
	lsn, err := d.agent.Mark(ctx, st.ID, r.Name)
	if err != nil && ctx.Err() != nil {
		return control.Bookmark{}, fail.New(fail.Retry, "add bookmark", r.Group+"/"+r.Name, err.Error()).
			WithHint("the group's writers are held up: `pollux status` says why")
	}
	if err != nil {
		return control.Bookmark{}, err
	}
	_, epoch, _ := d.journal.ID()
	b := state.Bookmark{Name: r.Name, Group: r.Group, Stream: st.ID, LSN: lsn, Epoch: epoch, Time: clock.Now().UTC()}
	if _, err := d.journal.Propose(state.KindBookmarkAdd, b); err != nil {
		return control.Bookmark{}, err
	}
	d.log.Info("bookmark added", "bookmark", r.Name, "group", r.Group, "lsn", lsn, "by", r.By)
	return d.bookmark(&b), nil
}

func (d service) bookmark(b *state.Bookmark) control.Bookmark {
	out := control.Bookmark{Name: b.Name, Group: b.Group, LSN: b.LSN, Epoch: b.Epoch, Time: b.Time, HeldSeconds: b.HeldSeconds}
	for _, s := range d.agent.Status().Streams {
		if lsn, ok := b.On(s.Conf.ID); ok {
			out.LSN, out.Durable = lsn, s.RemoteLSN >= lsn
		}
	}
	if len(b.Points) > 0 {
		d.journal.View(func(s *state.State) { out.Points = pointsOf(s, b) })
	}
	return out
}

// BookmarkList lists bookmarks, of one group or of all.
func (d service) BookmarkList(_ context.Context, r control.List) ([]control.Bookmark, error) {
	if err := d.heard(); err != nil {
		return nil, err
	}
	var marks []state.Bookmark
	d.journal.View(func(s *state.State) {
		for _, b := range state.Sorted(s.Bookmarks, func(b *state.Bookmark) string { return b.Group + "/" + b.Name }) {
			if r.Group == "" || b.Group == r.Group {
				marks = append(marks, *b)
			}
		}
	})
	out := make([]control.Bookmark, 0, len(marks))
	for i := range marks {
		out = append(out, d.bookmark(&marks[i]))
	}
	return out, nil
}
