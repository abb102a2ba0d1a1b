package journal

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pollux-dr/pollux/internal/fail"
)

// stateLost refuses a state store that lost what was durable.
func (j *Journal) stateLost(why string) error {
	return fail.New(fail.Damaged, "open", filepath.Join(j.opts.Dir, "state"), why).
		WithHint("the journal's state is damaged: restore the volumes from the object store")
}

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
		err = j.stateLost(fmt.Sprintf("it knows Raft's term %d, but the log's newest entry is of term %d", term, l.Term))
	}
	return err
}

// checkApplied compares the state with Raft's log, which a power cut may have
// cut behind it only by lazy entries.
func (j *Journal) checkApplied(last uint64) error {
	if err := j.fsm.rewind(last); err != nil {
		return err
	}
	if j.fsm.applied > last {
		return fail.New(fail.Damaged, "open", filepath.Join(j.opts.Dir, "raft"),
			fmt.Sprintf("Raft's log ends at entry %d, but the state holds its entry %d", last, j.fsm.firm)).
			WithHint("the end of Raft's log was lost: restore the volumes from the object store")
	}
	return nil
}

// syncLog makes what is in Raft's log durable, lazy entries too.
func (j *Journal) syncLog() error { return j.wal.Sync(j.ctx, j.wal.Last()) }

func (j *Journal) startRaft(ctx context.Context, snaps *snapStore) error {
	logs := &logStore{log: j.wal, retain: func() uint64 { return 0 }, failed: j.fatal}
	metas, err := snaps.List()
	if err != nil {
		return err
	}
	// The state directory is ahead of every snapshot, unless it was lost.
	behind := len(metas) > 0 && j.fsm.applied < metas[0].Index

	addr, trans := raft.NewInmemTransport("embedded")
	j.trans = trans
	conf := raft.DefaultConfig()
	conf.LocalID = "embedded"
	conf.Logger = raftLogger(j.opts.Logger)
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = j.opts.Election, j.opts.Election, j.opts.Election
	conf.CommitTimeout = 5 * time.Millisecond
	conf.SnapshotThreshold, conf.SnapshotInterval = 1<<60, 24*time.Hour // housekeeping decides
	conf.TrailingLogs = j.opts.TrailingLogs
	conf.MaxAppendEntries = 64
	conf.NoSnapshotRestoreOnStart = !behind
	st := stable{j.db}
	last, err := logs.LastIndex()
	if err != nil {
		return err
	}
	if err := j.checkTerm(logs, st, last); err != nil {
		return err
	}
	if first, _ := logs.FirstIndex(); first > 1 && len(metas) == 0 {
		return fail.New(fail.Damaged, "open", j.opts.Dir, fmt.Sprintf("Raft's log begins at entry %d, and the snapshot before it is gone", first)).
			WithHint("the snapshots directory was deleted: restore the volumes from the object store")
	}
	if last == 0 && len(metas) == 0 {
		if j.fsm.applied > 0 {
			return fail.New(fail.Damaged, "open", j.opts.Dir, fmt.Sprintf("Raft's log is empty, but the state holds its entry %d", j.fsm.applied)).
				WithHint("the raft directory was deleted or replaced: restore the volumes from the object store")
		}
		// A bootstrap that a crash cut short may have set a term already.
		if err := st.clear(); err != nil {
			return err
		}
		servers := raft.Configuration{Servers: []raft.Server{{ID: conf.LocalID, Address: addr}}}
		if err := raft.BootstrapCluster(conf, logs, st, snaps, trans, servers); err != nil {
			return fail.Wrap(fail.Internal, "bootstrap", "journal", err)
		}
	}
	reach := last
	if len(metas) > 0 { // all that is left of the log may have been lazy, and lost
		reach = max(reach, metas[0].Index)
	}
	if err := j.checkApplied(reach); err != nil {
		return err
	}
	if j.raft, err = raft.NewRaft(conf, j.fsm, logs, st, snaps, trans); err != nil {
		return fail.Wrap(fail.Internal, "start", "journal", err)
	}
	select {
	case <-j.raft.LeaderCh():
	case <-ctx.Done():
		return fail.Wrap(fail.Retry, "wait for", "journal leadership", ctx.Err())
	case <-j.failed:
		return j.Err()
	}
	if err := j.raft.Barrier(applyTimeout).Error(); err != nil {
		return fail.Wrap(fail.Retry, "start", "journal", err)
	}
	_, err = j.apply(tagTarget, mustJSON(targetPut{j.opts.Targets}))
	return err
}
