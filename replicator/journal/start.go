package journal

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pollux-dr/pollux/internal/fail"
)

// checkTerm compares the stored term with the newest entry's: Raft stores a term
// before it writes under it.
func (j *Journal) checkTerm(logs *logStore, st stable, last uint64) error {
	if last == 0 {
		return nil
	}
	var l raft.Log
	if err := logs.GetLog(last, &l); err != nil {
		return err
	}
	term, err := st.GetUint64([]byte("CurrentTerm"))
	if err == nil && term < l.Term {
		err = j.opts.stateLost(fmt.Sprintf("it knows Raft's term %d, but the log's newest entry is of term %d", term,
			l.Term))
	}
	return err
}

// checkApplied compares the state with Raft's log, which a power cut may have
// cut behind it only by lazy entries.
func (j *Journal) checkApplied(last uint64) error {
	if err := j.fsm.rewind(last); err != nil {
		return err
	}
	if at := j.fsm.figures(); at.applied > last {
		return fail.New(fail.Damaged, "open", filepath.Join(j.opts.Dir, "raft"),
			fmt.Sprintf("Raft's log ends at entry %d, but the state holds its entry %d", last, at.durableApplied)).
			WithHint("the end of Raft's log was lost: " + j.opts.instead())
	}
	return nil
}

// syncLog makes what is in Raft's log durable, lazy entries too.
func (j *Journal) syncLog() error { return j.wal.Sync(j.ctx, j.wal.Last()) }

// startRaft starts Raft on what the directory holds. A journal that is alone is
// born here; one of several members by Init, or by being let in.
func (j *Journal) startRaft(ctx context.Context) error {
	metas, err := j.snaps.List()
	if err != nil {
		return err
	}
	// The state directory is ahead of every snapshot, unless it was lost.
	at := j.fsm.figures()
	behind := len(metas) > 0 && at.applied < metas[0].Index
	st := stable{j.db}
	last, err := j.logs.LastIndex()
	if err != nil {
		return err
	}
	if err := j.checkStart(st, last, at.applied, metas); err != nil {
		return err
	}
	if len(metas) > 0 && metas[0].Index >= at.copied { // what came by reference is for nobody else
		j.logs.firstIndex.Store(at.copied)
	}
	if j.opts.Cluster != nil {
		if err := j.member.check(); err != nil {
			return err
		}
	}
	addr := j.openTransport()
	conf := j.raftConfig()
	conf.NoSnapshotRestoreOnStart = !behind
	fresh := last == 0 && len(metas) == 0
	if fresh && j.opts.Cluster == nil {
		if err := j.bootstrap(conf, st, addr); err != nil {
			return err
		}
	}
	reach := last
	if len(metas) > 0 { // all that is left of the log may have been lazy, and lost
		reach = max(reach, metas[0].Index)
	}
	if err := j.checkApplied(reach); err != nil {
		return err
	}
	if j.raft, err = raft.NewRaft(conf, j.fsm, j.logs, st, j.snaps, j.trans); err != nil {
		return fail.Wrap(fail.Internal, "start", "journal", err)
	}
	j.membership.raft, j.proposer.raft, j.server.layer = j.raft, j.raft, j.layer
	if j.layer != nil {
		j.layer.raft.Store(j.raft)
	}
	j.membership.note()
	if j.opts.Cluster == nil {
		if _, members := j.membership.count(); members > 1 {
			return fail.New(fail.Refused, "open", j.opts.Dir,
				fmt.Sprintf("the journal has %d members, and this one would be alone", members)).
				WithHint("set journal.listen back in the configuration")
		}
		if err := j.member.check(); err != nil { // only marks it: it may be moved
			return err
		}
	}
	j.wg.Go(j.watchLeadership)
	j.wg.Go(j.watchDisk)
	if j.opts.Cluster != nil {
		return nil
	}
	return j.awaitLead(ctx)
}

// checkStart refuses a directory that lost a part of itself: Raft's log ends at entry
// last, and the state holds what was applied.
func (j *Journal) checkStart(st stable, last, applied uint64, metas []*raft.SnapshotMeta) error {
	if err := j.checkTerm(j.logs, st, last); err != nil {
		return err
	}
	if first, _ := j.logs.FirstIndex(); first > 1 && len(metas) == 0 {
		return fail.New(fail.Damaged, "open", j.opts.Dir,
			fmt.Sprintf("Raft's log begins at entry %d, and the snapshot before it is gone", first)).
			WithHint("the snapshots directory was deleted: " + j.opts.instead())
	}
	if last == 0 && len(metas) == 0 && applied > 0 {
		return fail.New(fail.Damaged, "open", j.opts.Dir,
			fmt.Sprintf("Raft's log is empty, but the state holds its entry %d", applied)).
			WithHint("the raft directory was deleted or replaced: " + j.opts.instead())
	}
	return nil
}

// bootstrap makes this member the only one of a new Raft group. A bootstrap that a
// crash cut short may have set a term already.
func (j *Journal) bootstrap(conf *raft.Config, st stable, addr raft.ServerAddress) error {
	if err := st.clear(); err != nil {
		return err
	}
	servers := raft.Configuration{Servers: []raft.Server{{ID: conf.LocalID, Address: addr}}}
	err := raft.BootstrapCluster(conf, j.logs, st, j.snaps, j.trans, servers)
	return fail.Wrap(fail.Internal, "bootstrap", "journal", err)
}

// raftConfig is Raft's tuning; docs/journal.md has the reasons.
func (j *Journal) raftConfig() *raft.Config {
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(j.member.id)
	conf.Logger = raftLogger(j.opts.Logger)
	conf.HeartbeatTimeout, conf.ElectionTimeout = j.opts.Election, j.opts.Election
	conf.LeaderLeaseTimeout = j.opts.Election
	conf.CommitTimeout = 5 * time.Millisecond
	conf.MaxAppendEntries = 64
	if j.opts.Cluster != nil {
		conf.LeaderLeaseTimeout = j.opts.Election / 2
		conf.CommitTimeout = 50 * time.Millisecond
		conf.MaxAppendEntries = 16
	}
	conf.SnapshotThreshold, conf.SnapshotInterval = 1<<60, 24*time.Hour // housekeeping decides
	conf.TrailingLogs = j.opts.TrailingLogs
	return conf
}

// awaitLead waits until a journal that is alone leads.
func (j *Journal) awaitLead(ctx context.Context) error {
	for {
		turned := j.lead.changed.Next()
		if j.Leads() {
			return nil
		}
		select {
		case <-turned:
		case <-ctx.Done():
			return fail.Wrap(fail.Retry, "wait for", "journal leadership", ctx.Err())
		case <-j.failed:
			return j.Err()
		}
	}
}
