package gc

import (
	"context"
	"errors"
	"strings"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// The answers to hand-overs lie beside the log. One is needed until the log says how its hand-over
// ended; its age says nothing.

// answers lists those that are there. The log has to be opened after it: whoever answered had read
// of the hand-over there, so that a log that is read later has it too.
func answers(ctx context.Context, s objstore.Store) (all []objstore.Info, err error) {
	err = s.List(ctx, objlog.ReadyPrefix, "", func(i objstore.Info) error {
		all = append(all, i)
		return nil
	})
	return all, err
}

// decided are those of the answers whose hand-over has ended, as a log that was opened later says.
func decided(l *twin.Log, all []objstore.Info) (out []objstore.Info) {
	if l.Damage != nil { // what it says last is not known
		return nil
	}
	now := l.State.HandOver
	for _, i := range all {
		id, err := uuid.Parse(strings.TrimPrefix(i.Name, objlog.ReadyPrefix))
		switch {
		case err != nil || i.Name != objlog.ReadyName(id): // not ours
		case now != nil && now.ID == id && now.Phase != state.HandOverOver:
		default:
			out = append(out, i)
		}
	}
	return out
}

// CollectAnswers deletes the answers to hand-overs that have ended, and returns how many it did, and
// how many are left because the credentials may not delete.
func CollectAnswers(ctx context.Context, s objstore.Store) (deleted, left int, err error) {
	all, err := answers(ctx, s)
	if err != nil || len(all) == 0 {
		return 0, 0, err
	}
	l, err := twin.Open(ctx, s, nil)
	if err != nil {
		return 0, len(all), err
	}
	var errs []error
	for _, i := range decided(l, all) {
		switch err := s.Delete(ctx, i.Name); {
		case err == nil:
			deleted++
		case fail.Is(err, fail.Retry):
			return deleted, left + 1, err
		default:
			left++
			if !fail.Is(err, fail.Denied) {
				errs = append(errs, err)
			}
		}
	}
	return deleted, left, errors.Join(errs...)
}

// deleteAnswers is that of a collection.
func (g *collection) deleteAnswers(ctx context.Context) error {
	for _, i := range decided(g.log, g.answers) {
		g.rep.Names = append(g.rep.Names, Garbage{Name: i.Name, Bytes: i.Bytes, Since: g.o.Now().UTC(), Due: true,
			Why: "its hand-over has ended"})
		to := &g.rep.Deleted
		if !g.o.DryRun {
			var why, err error
			if to, why, err = g.deleteOne(ctx, i.Name); err != nil {
				return err
			}
			if why != nil {
				g.rep.FailedWhy = why.Error()
			}
		}
		to.add(i.Bytes)
	}
	return nil
}
