package node

import (
	"context"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/verbs"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
)

// BookmarkAdd names the present point of a group.
func (d service) BookmarkAdd(ctx context.Context, r api.BookmarkAdd) (api.Bookmark, error) {
	if err := state.CheckName("bookmark", r.Name); err != nil {
		return api.Bookmark{}, err
	}
	if err := checkHold(&r); err != nil {
		return api.Bookmark{}, err
	}
	if r.Quiesce && !r.DryRun {
		return d.bookmarkQuiesced(ctx, &r)
	}
	if err := d.lockVerbs(ctx, "add bookmark", r.Name); err != nil {
		return api.Bookmark{}, err
	}
	defer d.endTurn()
	st, err := d.bookmarkable(ctx, &r)
	switch {
	case err != nil:
		return api.Bookmark{}, err
	case r.DryRun:
		b := state.Bookmark{Name: r.Name, Group: r.Group, Stream: st.ID, Time: clock.Now().UTC()}
		_, b.Epoch, _ = d.journal.ID()
		b.LSN = d.agent.LastLSN(st.ID) + 1
		return d.bookmark(&b), nil
	case d.severalHosts(r.Group):
		return d.bookmarkAll(ctx, &r)
	}
	lsn, err := d.mark(ctx, st, &r, markTimeout)
	if err != nil {
		return api.Bookmark{}, err
	}
	return d.nameMark(st, lsn, &r)
}

// bookmarkable finds the stream whose point a bookmark can name.
func (d service) bookmarkable(ctx context.Context, r *api.BookmarkAdd) (*state.Stream, error) {
	object := r.Group + "/" + r.Name
	if err := d.journal.AwaitSync(ctx); err != nil {
		return nil, fail.At("add bookmark", object, err)
	}
	var st *state.Stream
	var taken, group bool
	d.journal.View(func(s *state.State) {
		group = s.Groups[r.Group] != nil
		taken = s.Bookmarks[object] != nil
		if p := s.StreamOf(r.Group, d.conf.Name); p != nil {
			c := *p
			st = &c
		}
	})
	switch {
	case !group:
		return nil, verbs.NoSuch("group", r.Group)
	case taken:
		return nil, fail.New(fail.Exists, "add bookmark", object, "it exists").WithHint("choose another name")
	case st == nil:
		return nil, fail.New(fail.Refused, "add bookmark", object, "the group has no volume yet")
	}
	return st, fail.At("add bookmark", object, d.agent.NoPoint(st.ID))
}

// mark puts a mark into a stream, in limit.
func (d service) mark(ctx context.Context, st *state.Stream, r *api.BookmarkAdd,
	limit time.Duration) (lsn uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	lsn, err = d.agent.Mark(ctx, st.ID, r.Name)
	if err != nil && ctx.Err() != nil {
		return 0, fail.New(fail.Retry, "add bookmark", r.Group+"/"+r.Name, err.Error()).
			WithHint("the group's writers are held up: `pollux status` says why")
	}
	return lsn, err
}

// nameMark makes a mark a bookmark.
func (d service) nameMark(st *state.Stream, lsn uint64, r *api.BookmarkAdd) (api.Bookmark, error) {
	_, epoch, _ := d.journal.ID()
	b := state.Bookmark{Name: r.Name, Group: r.Group, Stream: st.ID, LSN: lsn, Epoch: epoch, Time: clock.Now().UTC(),
		Quiesced: r.Quiesce}
	if _, err := d.journal.Propose(state.KindBookmarkAdd, b); err != nil {
		return api.Bookmark{}, err
	}
	d.log.Info("bookmark added", "bookmark", r.Name, "group", r.Group, "lsn", lsn, "by", r.By)
	return d.bookmark(&b), nil
}

// BookmarkRemove ends a bookmark. Its point is kept as long as any other.
func (d service) BookmarkRemove(ctx context.Context, r api.BookmarkRemove) (api.Bookmark, error) {
	key := r.Group + "/" + r.Name
	if err := d.lockVerbs(ctx, "remove bookmark", r.Name); err != nil {
		return api.Bookmark{}, err
	}
	defer d.endTurn()
	if err := d.journal.AwaitSync(ctx); err != nil {
		return api.Bookmark{}, fail.At("remove bookmark", key, err)
	}
	var b *state.Bookmark
	d.journal.View(func(s *state.State) {
		if old := s.Bookmarks[key]; old != nil {
			c := *old
			b = &c
		}
	})
	if b == nil {
		return api.Bookmark{}, fail.New(fail.NotFound, "remove bookmark", key, "no such bookmark").
			WithHint("pollux bookmark ls lists them")
	}
	if r.DryRun {
		return d.bookmark(b), nil
	}
	if _, err := d.journal.Propose(state.KindBookmarkRemove,
		state.BookmarkRemove{Name: r.Name, Group: r.Group}); err != nil {
		return api.Bookmark{}, err
	}
	d.log.Info("bookmark removed", "bookmark", r.Name, "group", r.Group, "by", r.By)
	return d.bookmark(b), nil
}

func (d service) bookmark(b *state.Bookmark) api.Bookmark {
	return d.bookmarks([]state.Bookmark{*b})[0]
}

// bookmarks are bookmarks as the control API tells them.
func (d service) bookmarks(all []state.Bookmark) []api.Bookmark {
	streams, out := d.agent.Status().Streams, make([]api.Bookmark, 0, len(all))
	for i := range all {
		b := &all[i]
		x := api.Bookmark{Name: b.Name, Group: b.Group, LSN: b.LSN, Epoch: b.Epoch, Time: b.Time,
			HeldSeconds: b.HeldSeconds, Quiesced: b.Quiesced}
		for k := range streams {
			if lsn, ok := b.On(streams[k].Conf.ID); ok {
				x.LSN, x.Durable = lsn, streams[k].RemoteLSN >= lsn
			}
		}
		out = append(out, x)
	}
	d.journal.View(func(s *state.State) {
		for i := range all {
			if len(all[i].Points) > 0 {
				out[i].Points = pointsOf(s, &all[i])
			}
		}
	})
	return out
}

// BookmarkList lists bookmarks, of one group or of all.
func (d service) BookmarkList(ctx context.Context, r api.List) ([]api.Bookmark, error) {
	if err := d.journal.AwaitSync(ctx); err != nil {
		return nil, err
	}
	var marks []state.Bookmark
	known := r.Group == ""
	d.journal.View(func(s *state.State) {
		known = known || s.Groups[r.Group] != nil
		for _, b := range state.Sorted(s.Bookmarks, func(b *state.Bookmark) string { return b.Group + "/" + b.Name }) {
			if r.Group == "" || b.Group == r.Group {
				marks = append(marks, *b)
			}
		}
	})
	if !known {
		return nil, verbs.NoSuch("group", r.Group)
	}
	return d.bookmarks(marks), nil
}
