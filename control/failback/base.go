package failback

import (
	"context"
	"fmt"
	"strconv"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/control/failback/record"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// base decides where a stream's images go back to: the branch point where that is a recovery point
// which the log still has, or the last before it.
func (r *run) base(ctx context.Context, idle *agent.Idle, s *record.Stream, volumes []volume) error {
	l := r.found.log
	s.Base = s.Point
	if at, ok := before(l.State.Streams[s.ID], s.Base.LSN); ok { // inside a resync
		s.Base = change.Point{LSN: at}
	}
	hash, known, err := l.HashAt(ctx, s.ID, s.Base.LSN)
	if err != nil {
		return err
	}
	if known && s.Base == s.Point && hash != s.Point.Hash {
		return fail.New(fail.Damaged, "read", r.found.store.URL(), fmt.Sprintf("the fence of epoch %d says that "+
			"stream %s went on at %v, and the log has hash %s there", r.rec.Successor.Epoch, s.ID, s.Point, hash))
	}
	s.Base.Hash = hash
	if !known || !r.readable(ctx, s.Base.LSN, volumes) {
		return r.compareWithNewest(ctx, s, fmt.Sprintf("the log does not keep LSN %d any more", s.Base.LSN))
	}
	_, err = idle.Beyond(s.ID, s.Base)
	if err == nil && r.accepted[s.ID].LSN > s.End.LSN { // the WAL lost what was durable
		err = fail.New(fail.Damaged, "read", r.agentDir(), fmt.Sprintf("the journal had accepted %v, and the WAL ends "+
			"at %v", r.accepted[s.ID], s.End))
	}
	switch {
	case r.Compare:
		s.Compare, s.Why = true, "as it was asked for"
	case fail.Is(err, fail.Fenced):
		return (&fail.Error{Kind: fail.Fenced, Op: "fail back", Object: "group " + s.Group, Err: err}).
			WithHint("is this state directory of the same journal's former seat? If so, --compare compares the " +
				"volumes with the log, whatever the WAL says")
	case err != nil:
		s.Compare, s.Why = true, err.Error()
	}
	return nil
}

// before is the last recovery point before a resync in which an LSN lies.
func before(st *state.Stream, lsn uint64) (uint64, bool) {
	for i := range st.Resyncs {
		if g := &st.Resyncs[i]; lsn > g.After && (g.Until == 0 || lsn < g.Until) {
			return g.After, true
		}
	}
	return 0, false
}

// readable reports whether the log still has an LSN as a point of those volumes that had one there.
func (r *run) readable(ctx context.Context, lsn uint64, volumes []volume) bool {
	for _, v := range volumes {
		if v.log.FirstLSN > lsn {
			continue
		}
		if _, err := r.point(ctx, v.conf.Name, lsn); err != nil {
			return false
		}
	}
	return true
}

// point resolves an LSN of a volume.
func (r *run) point(ctx context.Context, name string, lsn uint64) (twin.Point, error) {
	return r.found.log.PointOf(ctx, name, strconv.FormatUint(lsn, 10))
}

// compareWithNewest has a stream go to the newest point: all that differs from that is saved.
func (r *run) compareWithNewest(ctx context.Context, s *record.Stream, why string) error {
	l := r.found.log
	end := l.EndOf(s.ID).Point
	if at, ok := before(l.State.Streams[s.ID], end.LSN); ok {
		end = change.Point{LSN: at}
	}
	hash, known, err := l.HashAt(ctx, s.ID, end.LSN)
	if err != nil {
		return err
	}
	if !known {
		return fail.New(fail.NotFound, "fail back", "group "+s.Group, why+", and its newest point is not known")
	}
	end.Hash = hash
	s.Base, s.Compare, s.Why = end, true, why
	return nil
}
