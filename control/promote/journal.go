package promote

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/journal"
	"github.com/pollux-dr/pollux/replicator/state"
)

func (r *run) journalDir() string { return filepath.Join(r.conf.State, "journal") }

// inherit makes the journal's state of what the log holds before the fence.
func (r *run) inherit(context.Context) error {
	f, in := r.found, r.intent
	h := &journal.Heritage{Journal: in.Journal, Created: f.log.Identity.Created, Epoch: in.Token.Epoch, Site: in.Site,
		Next: in.Fence.Next, How: in.how(), Time: in.Fence.At, State: f.log.State, Points: f.points(),
		Targets: map[string]journal.InheritedTarget{}}
	for _, t := range r.conf.Journal.Targets {
		at := journal.InheritedTarget{Target: journal.Target{Required: !t.Optional}}
		if t.Name == f.target.Name {
			at.Position, at.Index, at.Token = in.Fence.Position+1, in.Fence.Next-1, in.Token
			at.Streams = h.Points
		} else {
			at.LetGo = &journal.LetGo{Reason: "it has not been brought in line since the failover", Time: in.Fence.At}
		}
		h.Targets[t.Name] = at
	}
	return journal.Inherit(r.fs, r.journalDir(), h)
}

const (
	openLimit = time.Minute
	seatLimit = 30 * time.Second
)

// command tells the journal who has the streams now. Raft runs here for that moment, and nothing
// is uploaded: the agent does that.
func (r *run) command(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	o := journal.Options{Dir: r.journalDir(), FS: r.fs, Logger: r.Logger, Site: r.intent.Site, Version: r.Version,
		Quick:          true,
		LogBudgetBytes: int64(r.conf.Journal.LogBudget), Places: map[string]journal.TargetPlace{}}
	for _, t := range r.conf.Journal.Targets {
		o.Targets = append(o.Targets, t.Name)
		if !t.Optional {
			o.Required = append(o.Required, t.Name)
		}
		o.Places[t.Name] = journal.TargetPlace{Site: t.Site, URL: t.URL}
	}
	j, err := journal.Open(ctx, o)
	if err != nil {
		return err
	}
	err = r.propose(ctx, j)
	if cerr := j.Close(); err == nil {
		err = cerr
	}
	return err
}

func (r *run) propose(ctx context.Context, j *journal.Journal) error {
	if err := awaitSeat(ctx, j, r.intent.Token.Epoch); err != nil {
		return err
	}
	for _, st := range r.streams() {
		if err := r.take(j, st); err != nil {
			return err
		}
	}
	if err := r.lowerAcks(j); err != nil {
		return err
	}
	if err := r.keepPoints(j); err != nil {
		return err
	}
	if err := r.keepHandOver(ctx, j); err != nil {
		return err
	}
	return r.note(j)
}

// awaitSeat waits until the journal says in its state that it is here.
func awaitSeat(ctx context.Context, j *journal.Journal, epoch uint64) error {
	ctx, cancel := context.WithTimeout(ctx, seatLimit)
	defer cancel()
	for {
		changed := j.Changed()
		var has uint64
		j.View(func(s *state.State) { has = s.Seat.Epoch })
		if has == epoch {
			return nil
		}
		select {
		case <-changed:
		case <-j.Failed():
			return j.Err()
		case <-ctx.Done():
			return fail.New(fail.Retry, "take", "seat of the journal", "it has not said so in time").
				WithHint("repeat the verb: it goes on from here")
		}
	}
}

// take gives a stream to the agent here, and with it the lease, so that no other can extend it.
func (r *run) take(j *journal.Journal, st *state.Stream) error {
	var now *state.Stream
	j.View(func(s *state.State) { now = s.Streams[st.ID] })
	if now == nil || now.Agent == r.conf.Name {
		return nil
	}
	backings := map[string]string{}
	for _, v := range r.ready() {
		if v.Stream == st.ID {
			backings[v.Name] = r.backingOf(v)
		}
	}
	_, err := j.Propose(state.KindStreamMove, state.StreamMove{Stream: st.ID, From: now.Agent, To: r.conf.Name,
		Backings: backings})
	return err
}

// lowerAcks sets groups whose ack cannot be kept here to what can: their writers would wait for ever.
func (r *run) lowerAcks(j *journal.Journal) error {
	for _, st := range r.streams() {
		var g state.Group
		j.View(func(s *state.State) { g = *s.Groups[st.Group] })
		ack, was := r.ackHere(&g)
		if was == "" {
			continue
		}
		patch := state.GroupPatch{Name: g.Name, Revision: g.Revision, Ack: &ack}
		if _, err := j.Propose(state.KindGroupPatch, patch); err != nil {
			return err
		}
		r.Tell(fmt.Sprintf("group %s has ack %s now: what %s promises cannot be kept here yet", g.Name, ack, was))
	}
	return nil
}

// note records the failover in the log's audit, once.
func (r *run) note(j *journal.Journal) error {
	in := r.intent
	request, err := json.Marshal(map[string]any{"id": in.ID, "from_site": in.FromSite, "site": in.Site,
		"epoch": in.Token.Epoch, "target": in.Target, "at": in.At, "agents": in.Agents, "how": in.how(),
		"rollback": in.HandOver.goesBack()})
	if err != nil {
		return fail.Wrap(fail.Internal, "encode", "audit", err)
	}
	done := false
	j.View(func(s *state.State) {
		for _, a := range s.Audits {
			done = done || a.Verb == "failover" && string(a.Request) == string(request)
		}
	})
	if done {
		return nil
	}
	_, err = j.Propose(state.KindAudit, state.Audit{Time: clock.Now().UTC(), Who: r.Operator, Host: r.conf.Name,
		Verb: "failover", Request: request, Outcome: "ok"})
	return err
}
