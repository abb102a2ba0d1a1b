package node

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/quiesce"
	"github.com/pollux-dr/pollux/replicator/state"
)

// bookmarkQuiesced adds a bookmark while the group's application stands still. The hooks may
// use up their limit, because other verbs get their turn meanwhile. They end when the caller
// leaves.
func (d service) bookmarkQuiesced(ctx context.Context, r *api.BookmarkAdd) (out api.Bookmark, err error) {
	if d.hooksOf(r.Group) != nil {
		done, err := d.quiescing.take(ctx, r.Group)
		if err != nil {
			return out, err
		}
		defer done()
	}
	var st *state.Stream
	err = d.inTurn(ctx, r, func() error {
		if st, err = d.bookmarkable(ctx, r); err == nil && d.severalHosts(r.Group) {
			err = fail.New(fail.Refused, "quiesce", "group "+r.Group,
				"it has volumes on several hosts, and hooks run on this one only").
				WithHint("leave out --quiesce, and let the applications stand still by other means")
		}
		return err
	})
	if err != nil {
		return out, err
	}
	still, limit, err := d.quiesce(ctx, r)
	if err != nil {
		return out, err
	}
	var lsn uint64
	limited, cancel := context.WithTimeout(ctx, limit)
	err = d.inTurn(limited, r, func() error {
		lsn, err = d.mark(limited, st, r, min(limit, markTimeout))
		return err
	})
	cancel()
	if qerr := still.GoOn("group " + r.Group); err == nil {
		err = qerr // the mark is there, and names nothing
	}
	if err != nil {
		return out, err
	}
	err = d.inTurn(ctx, r, func() error {
		out, err = d.nameMark(st, lsn, r)
		return err
	})
	return out, err
}

// quiesce makes the group's application stand still, for limit at most.
func (d service) quiesce(ctx context.Context,
	r *api.BookmarkAdd) (still *quiesce.Still, limit time.Duration, err error) {
	what := "group " + r.Group
	q := d.hooksOf(r.Group)
	if q == nil {
		return nil, 0, fail.New(fail.NotFound, "quiesce", what, "no hooks are configured for it").
			WithHint("set quiesce: in the agent's configuration: docs/configuration.md")
	}
	program, err := os.Executable()
	if err != nil {
		return nil, 0, fail.Wrap(fail.Internal, "find", "own program", err)
	}
	limit = time.Duration(q.Limit)
	still, err = quiesce.Begin(ctx, program, []string{"quiesce-guard"},
		quiesce.Hooks{Pre: q.Pre, Post: q.Post, Limit: limit}, what)
	return still, limit, err
}

func (d *Daemon) hooksOf(group string) *config.Quiesce {
	for i := range d.conf.Quiesce {
		if d.conf.Quiesce[i].Group == group {
			return &d.conf.Quiesce[i]
		}
	}
	return nil
}

// inTurn does a part of a verb in its turn.
func (d *Daemon) inTurn(ctx context.Context, r *api.BookmarkAdd, do func() error) error {
	if err := d.lockVerbs(ctx, "add bookmark", r.Group+"/"+r.Name); err != nil {
		return err
	}
	defer d.endTurn()
	return do()
}

// quiescing lets one caller at a time run the hooks of a group: a second run would release
// the application while the first still needs it to stand still.
type quiescing struct {
	mu     sync.Mutex
	groups map[string]chan struct{}
}

// take waits until no other runs the group's hooks.
func (q *quiescing) take(ctx context.Context, group string) (done func(), err error) {
	q.mu.Lock()
	if q.groups == nil {
		q.groups = map[string]chan struct{}{}
	}
	turn := q.groups[group]
	if turn == nil {
		turn = make(chan struct{}, 1)
		q.groups[group] = turn
	}
	q.mu.Unlock()
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, fail.Wrap(fail.Retry, "quiesce", "group "+group, ctx.Err())
	}
}
