package journal

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/raft"

	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
)

// watchLeadership follows Raft's word on who leads.
func (j *Journal) watchLeadership() {
	end := func() {}
	defer func() { end() }()
	for {
		select {
		case <-j.ctx.Done():
			return
		case leads := <-j.raft.LeaderCh():
			end()
			end = func() {}
			if !leads {
				j.opts.Logger.Info("this member no longer leads the journal")
				continue
			}
			ctx, cancel := context.WithCancel(j.ctx)
			end = func() {
				cancel()
				j.lead.changed.Broadcast()
			}
			j.wg.Go(func() { j.takeLead(ctx) })
		}
	}
}

// takeLead prepares this member to lead: what was committed before is applied, and
// the journal has a name and targets. ctx ends with the lead.
func (j *Journal) takeLead(ctx context.Context) {
	for wait := 10 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, time.Second) {
		term, err := j.prepareLead()
		if err == nil {
			j.lead.begin(ctx, term)
			j.opts.Logger.Info("this member leads the journal", "term", term)
			if j.opts.Cluster != nil {
				j.wg.Go(func() { j.places.keep(ctx) })
				j.membership.promote(ctx)
			}
			return
		}
		if j.raft.State() != raft.Leader {
			return
		}
		j.opts.Logger.Warn("cannot lead yet", "err", err)
		if j.opts.Cluster == nil {
			j.fatal(err)
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

func (j *Journal) prepareLead() (term uint64, err error) {
	term = j.Term()
	if err := j.raft.Barrier(applyTimeout).Error(); err != nil {
		return 0, fail.Wrap(fail.Retry, "start", "journal", err)
	}
	j.membership.note()
	if c := j.opts.Cluster; c != nil {
		if err := j.name(); err != nil {
			return 0, err
		}
	}
	if err := j.targets.set(); err != nil {
		return 0, err
	}
	if err := j.targets.repeatLetGo(); err != nil {
		return 0, err
	}
	if _, members := j.count(); members == 1 { // else the others are asked while it leads
		if err := j.places.settle(j.ctx); err != nil { // it leads without, and says more at its next start
			j.opts.Logger.Warn("the journal's place is not in its state yet", "err", err, "hint", fail.HintOf(err))
		}
	}
	// The term is a part of the fence token: it must be the one of this lead.
	if err := j.raft.VerifyLeader().Error(); err != nil || j.Term() != term {
		return 0, fail.New(fail.Retry, "lead", "journal", fmt.Sprintf("the lead was lost in term %d", term))
	}
	return term, nil
}

// name gives a new journal its identity, and one that was alone up to now its
// address.
func (j *Journal) name() error {
	now := j.fsm.figures()
	id := now.id
	if id.Journal == uuid.Nil {
		id = j.newIdentity()
	}
	if now.copied == 0 {
		if _, err := j.apply(tagIdentity, mustJSON(id)); err != nil {
			return err
		}
	}
	for _, s := range j.membership.servers() {
		if string(s.ID) == j.member.id && string(s.Address) != j.opts.Cluster.Address {
			address := j.opts.Cluster.Address
			moved := j.raft.AddVoter(s.ID, raft.ServerAddress(address), 0, membershipTimeout)
			return j.membership.change(moved, "move", address)
		}
	}
	return nil
}

// watchDisk ends a leader whose disk does not answer: Raft's heartbeats would go on
// while nothing is committed, and nobody else would stand for election
// (hashicorp/raft#503, #666).
func (j *Journal) watchDisk() {
	if j.opts.Cluster == nil {
		return
	}
	const looks = 8 // so many, of the same append: a process that stood still saw none
	limit := j.opts.Cluster.DiskStall
	tick := time.NewTicker(limit / looks)
	defer tick.Stop()
	last, seen := int64(0), 0
	for {
		select {
		case <-j.ctx.Done():
			return
		case <-tick.C:
		}
		since := j.logs.busy.Load()
		if since == 0 || since != last {
			last, seen = since, 0
			continue
		}
		seen++
		if j.raft.State() != raft.Leader || j.logs.single.Load() {
			continue
		}
		if d := time.Duration(clock.SinceStart() - since); seen >= looks && d > limit {
			j.layer.Seal()
			_ = j.trans.Close()
			j.fatal(fail.New(fail.Retry, "append to", "Raft's log in "+j.opts.Dir,
				fmt.Sprintf("the disk has not answered for %.1f s", d.Seconds())).
				WithHint("another member leads from here on; look at this host's disk"))
			return
		}
	}
}
