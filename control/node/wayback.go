package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/extentmap"
	"github.com/pollux-dr/pollux/replicator/twin/gc"
)

// The way back of a hand-over that this site has taken up: it is given up, or gone.

// wayBack is the one of this epoch; nil where there is none.
func (d *Daemon) wayBack() (w *state.WayBack) {
	d.journal.View(func(s *state.State) { w = s.WayBack })
	return w
}

// answersLimit bounds how long a commit takes to delete what lies beside the logs: gc does it as well.
const answersLimit = 10 * time.Second

// Commit gives up the way back of the hand-over that this site has taken up.
func (d service) Commit(ctx context.Context, r api.Commit) (out api.CommitReport, err error) {
	if err := d.lockVerbs(ctx, "commit", "hand-over"); err != nil {
		return out, err
	}
	defer d.endTurn()
	if err := d.maySeat("commit", "hand-over"); err != nil {
		return out, err
	}
	w := d.wayBack()
	if w == nil || w.Step == state.WayBackCommit {
		out.Outcome = "nothing to commit"
		if w != nil {
			out.Epoch, out.To, out.Who, out.Time = w.Epoch, w.To, w.Who, w.Time
		}
		return out, nil
	}
	out = api.CommitReport{Outcome: "dry run", Epoch: w.Epoch, To: w.To, Host: w.Host, Bookmark: w.Bookmark, Who: r.By,
		Time: clock.Now().UTC()}
	if r.DryRun {
		return out, nil
	}
	index, err := d.journal.Propose(state.KindWayBack, state.WayBack{Step: state.WayBackCommit, Epoch: w.Epoch,
		Who: r.By, Time: out.Time})
	if err != nil {
		return out, err
	}
	out.Outcome = "committed"
	d.log.Info("the way back of a hand-over was given up", "to", w.To, "epoch", w.Epoch, "by", r.By)
	out.AnswersDeleted, out.AnswersLeft = d.deleteAnswers(ctx, index)
	return out, nil
}

// deleteAnswers removes the answers to hand-overs beside the logs, where this host's credentials let
// it and the log says, in an entry at index at the latest, that they have ended. What it leaves is gc's.
func (d *Daemon) deleteAnswers(ctx context.Context, index uint64) (deleted, left int) {
	ctx, cancel := context.WithTimeout(ctx, answersLimit)
	defer cancel()
	for _, t := range d.conf.Journal.Targets {
		n, m, err := d.deleteAnswersAt(ctx, t, index)
		if deleted, left = deleted+n, left+m; err != nil {
			d.log.Warn("answers to hand-overs are left to gc", "target", t.Name, "err", err)
		}
	}
	return deleted, left
}

func (d *Daemon) deleteAnswersAt(ctx context.Context, t config.Target, index uint64) (deleted, left int, err error) {
	ctx, cancel := context.WithTimeout(ctx, answersLimit/time.Duration(len(d.conf.Journal.Targets)))
	defer cancel()
	if err := d.awaitIndex(ctx, t.Name, index); err != nil {
		return 0, 0, err
	}
	s, err := d.host.OpenStore(ctx, t, 0)
	if err != nil {
		return 0, 0, err
	}
	deleted, left, err = gc.CollectAnswers(ctx, s)
	return deleted, left, errors.Join(err, s.Close())
}

// RollBack hands the journal back to the site that had it before, and has the volumes go on from the
// point of the hand-over. What was written here since stays in the log. Nothing is changed that is
// not what the caller has seen.
func (d service) RollBack(ctx context.Context, r api.RollBack) (out api.RollBackReport, err error) {
	if err := d.lockVerbs(ctx, "roll back", "hand-over"); err != nil {
		return out, err
	}
	turn := true
	defer func() {
		if turn {
			d.endTurn()
		}
	}()
	w, err := d.mayRollBack()
	if err != nil {
		return out, err
	}
	h, err := d.mayHandOver(&api.HandOver{To: w.To, LimitSeconds: r.LimitSeconds, WaitSeconds: r.WaitSeconds, By: r.By})
	if err != nil {
		return out, err
	}
	h.back = w
	out = api.RollBackReport{HandOverReport: h.report("dry run"), Since: w.Time, Bookmark: w.Bookmark,
		Keeps: fmt.Sprintf("before-rollback-%d", w.Epoch+1)}
	journal, _, _ := d.journal.ID()
	out.Journal = api.JournalName(journal)
	out.Host = w.Host
	if out.Groups, err = h.undone(ctx); err != nil || r.DryRun {
		return out, err
	}
	if r.Journal != out.Journal || r.Epoch != w.Epoch {
		return out, fail.New(fail.Refused, "roll back", "journal "+out.Journal, fmt.Sprintf("epoch %d of it was not "+
			"confirmed; epoch %d of %q was", w.Epoch, r.Epoch, r.Journal)).WithHint("look again, and repeat the verb")
	}
	turn = false
	out.HandOverReport, err = h.start(ctx, seconds(r.WaitSeconds, defaultReadyWait))
	return out, err
}

// mayRollBack refuses where there is no way back to go.
func (d service) mayRollBack() (*state.WayBack, error) {
	no := func(why, hint string) (*state.WayBack, error) {
		return nil, fail.New(fail.Refused, "roll back", "hand-over", why).WithHint(hint)
	}
	if err := d.maySeat("roll back", "hand-over"); err != nil {
		return nil, err
	}
	w := d.wayBack()
	switch {
	case w == nil:
		return no("the journal's newest epoch was not begun by a hand-over",
			"pollux failover --planned --to SITE moves it; pollux restore --at brings back what a volume was")
	case w.Step == state.WayBackCommit:
		return no(fmt.Sprintf("it was committed by %s at %s", w.Who, w.Time.Format(time.RFC3339)),
			"pollux failover --planned --to "+w.To+" moves the journal back with all that was written; "+
				"pollux restore --at brings back what a volume was")
	}
	var later string
	d.journal.View(func(s *state.State) {
		for _, v := range s.Volumes {
			if lsn, named := w.Points[v.Stream]; named && !v.Removed && v.FirstLSN > lsn {
				later = v.Name
			}
		}
	})
	if later != "" {
		return no("volume "+later+" was not complete at that point: it would hold nothing",
			"copy what it has, and pollux volume rm it; what it had stays in the log")
	}
	return w, nil
}

// sayRollBack writes down that the hand-over which is being prepared goes back.
func (h *handing) sayRollBack() error {
	if h.back == nil {
		return nil
	}
	_, err := h.journal.Propose(state.KindWayBack, state.WayBack{Step: state.WayBackRollBack, Epoch: h.back.Epoch,
		HandOver: h.r.ID, Who: h.by, Time: clock.Now().UTC()})
	return err
}

// undone is what a rollback takes back of each group, as far as the log has it. It makes sure that
// the point is still there.
func (h *handing) undone(ctx context.Context) (out []api.Undone, err error) {
	if err := h.openLogs(ctx); err != nil {
		return nil, err
	}
	defer func() {
		h.closeLogs()
		h.open = nil
	}()
	var l *twin.Log
	var errs []error
	for _, s := range h.open {
		if l, err = openLog(ctx, s); err == nil {
			break
		}
		errs = append(errs, err)
	}
	if l == nil {
		return nil, errors.Join(errs...)
	}
	heads := map[change.StreamID]uint64{}
	for _, st := range h.agent.Status().Streams {
		heads[st.Conf.ID] = st.LastLSN
	}
	for _, st := range state.Sorted(l.State.Streams, func(st *state.Stream) string { return st.Group }) {
		lsn, named := h.back.Points[st.ID]
		if !named {
			continue
		}
		u := api.Undone{Group: st.Group, LSN: lsn, LastLSN: heads[st.ID], Bytes: -1}
		if u.LastLSN <= lsn {
			u.Bytes = 0
			out = append(out, u)
			continue
		}
		u.Writes = u.LastLSN - lsn
		if u.Bytes, err = writtenSince(ctx, l, st, lsn); err != nil {
			return nil, err
		}
		if at := l.EndOf(st.ID); at.Time > 0 {
			u.Last = time.Unix(0, at.Time).UTC()
		}
		out = append(out, u)
	}
	return out, nil
}

func openLog(ctx context.Context, s objstore.Store) (*twin.Log, error) {
	if s == nil {
		return nil, fail.New(fail.Retry, "open", "log", "its store cannot be opened")
	}
	return twin.Open(ctx, s, nil)
}

// writtenSince is how much of a stream's volumes was written behind an LSN, -1 where that is not kept
// one by one. Errors: what cannot go back to that point.
func writtenSince(ctx context.Context, l *twin.Log, st *state.Stream, lsn uint64) (bytes int64, err error) {
	for _, v := range l.State.Volumes {
		if v.Stream != st.ID || v.Removed || !v.Ready {
			continue
		}
		p, err := l.Resolve(ctx, v, fmt.Sprint(lsn), clock.Now())
		if err == nil && p.LSN != lsn {
			err = fail.New(fail.NotFound, "go back to", fmt.Sprintf("LSN %d", lsn), p.Note)
		}
		if err != nil {
			return 0, fail.At("roll back", "volume "+v.Name, err)
		}
	}
	sorter, err := l.Changed(ctx, st.ID, lsn, l.EndOf(st.ID).Point.LSN, "")
	if fail.Is(err, fail.NotFound) {
		return -1, nil
	}
	if err != nil {
		return 0, err
	}
	defer sorter.Close()
	for _, v := range l.State.Volumes {
		if v.Stream != st.ID || v.Removed {
			continue
		}
		m := extentmap.Map{Volume: v.Number, SizeBytes: v.SizeBytes, Recent: sorter}
		err := m.Each(ctx, true, func(_ int64, extents []extent.Extent) error {
			for i := range extents {
				bytes += extents[i].Len
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	return bytes, nil
}
