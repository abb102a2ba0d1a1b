package journal

import (
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/wal"
)

// markEvery is how often a member renews the mark in its directory. A backup that is put
// back is known by its older mark, unless it was made within that time.
const markEvery = time.Minute

// housekeeping takes snapshots when the log has grown, frees what is no longer
// needed, and beats while idle.
func (j *Journal) housekeeping() {
	tick := time.NewTicker(min(time.Second, j.opts.Heartbeat))
	defer tick.Stop()
	lastIndex, since, marked, moved := uint64(0), time.Now(), time.Now(), time.Time{}
	for {
		select {
		case <-j.ctx.Done():
			return
		case <-j.logs.crowded:
			st := j.Status()
			j.shrink(&st)
		case now := <-tick.C:
			if err := j.syncLog(); errors.Is(err, wal.ErrPoisoned) {
				j.fatal(err)
				return
			}
			st := j.Status()
			leads := st.Leader && j.Superseded() == nil // otherwise nothing more is said
			if st.LastIndex != lastIndex {
				lastIndex, since = st.LastIndex, now
			} else if leads && now.Sub(since) >= j.opts.Heartbeat {
				if _, err := j.Propose(state.KindHeartbeat, state.Heartbeat{Time: now.UTC()}); err != nil {
					j.opts.Logger.Warn("heartbeat failed", "err", err)
				}
			}
			if now.Sub(moved) >= horizonEvery {
				moved = now
				if j.ages.sample(); leads {
					j.moveHorizon()
				}
			}
			if st.LogBytes > j.opts.SnapshotBytes {
				j.shrink(&st)
			}
			if j.opts.Cluster != nil && now.Sub(marked) >= markEvery {
				marked = now
				if err := j.member.renewMark(); err != nil {
					j.opts.Logger.Warn("the directory's mark is not renewed", "err", err)
				}
			}
		}
	}
}

// moveHorizon puts the horizons of the groups into the log: garbage collection deletes
// only what lies before them.
func (j *Journal) moveHorizon() {
	h := j.ages.expired()
	if h == nil {
		return
	}
	if _, err := j.Propose(state.KindStreamHorizon, h); err != nil {
		j.opts.Logger.Warn("the horizon was not moved", "err", err)
	}
}

// horizonEvery is how often a member looks whether points have grown older than the
// retention keeps all of them.
const horizonEvery = time.Second

// shrink makes Raft's log smaller, if it can.
func (j *Journal) shrink(st *Status) {
	if st.Pending < snapshotMaxPending && (st.PendingBytes < snapshotMaxPendingBytes || j.References()) {
		if err := j.Snapshot(); err != nil {
			j.opts.Logger.Warn("snapshot failed", "err", err)
		}
	}
	if err := j.logs.release(); err != nil {
		j.opts.Logger.Warn("Raft's log was not freed", "err", err)
	}
}

// Snapshot writes a snapshot and lets Raft's log shrink.
func (j *Journal) Snapshot() error {
	err := j.raft.Snapshot().Error()
	if err == nil {
		err = j.logs.release()
	}
	if err == raft.ErrNothingNewToSnapshot {
		return nil
	}
	return fail.Wrap(fail.Retry, "take", "journal snapshot", err)
}

// prepareCopies sees to it that a new member gets everything: a journal that was
// born alone holds frames that only the agent in its process can read, until a
// snapshot has copied them.
func (j *Journal) prepareCopies() error {
	now := j.fsm.figures()
	if j.member.id != aloneID || j.logs.firstIndex.Load() >= now.copied {
		return nil
	}
	if now.backlogBytes > maxFirstSnapshotBytes {
		return fail.New(fail.Retry, "add member to", "journal",
			fmt.Sprintf("%d bytes of the time when it was alone are not in the object store yet", now.backlogBytes)).
			WithHint("wait until the backlog is shorter: pollux status")
	}
	if err := j.Snapshot(); err != nil {
		return err
	}
	if j.logs.firstIndex.Load() < now.copied {
		metas, err := j.snaps.List()
		if err != nil {
			return err
		}
		if len(metas) == 0 || metas[0].Index < now.copied {
			return fail.New(fail.Retry, "add member to", "journal", "no snapshot could be taken")
		}
		j.logs.firstIndex.Store(now.copied)
	}
	return nil
}

// maxFirstSnapshotBytes bounds what the first snapshot for others may contain.
const maxFirstSnapshotBytes = 256 << 20
