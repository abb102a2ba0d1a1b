package twin

import (
	"context"
	"fmt"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
)

// A frame has the time of the agent's clock, and the object that holds it that of the
// journal's, a moment later. Where they contradict each other, a time names no point for
// sure, and whoever asked must know.

// clockTolerance is how far the two may be apart before they contradict each other.
const clockTolerance = time.Minute

// clocks refuses a time for which the two clocks name different points because the
// agent's was ahead, and notes where what was found was written down late.
func (q *query) clocks(t time.Time) error {
	taken, err := q.l.takenAt(q.ctx, q.v.Stream, t, q.now)
	if err != nil || taken.Written == 0 {
		return err
	}
	here := q.l.When(q.ctx, q.v.Stream, q.p.LSN)
	ahead := time.Unix(0, taken.Time).Sub(time.Unix(0, taken.Written))
	late := time.Unix(0, here.Written).Sub(time.Unix(0, here.Time))
	switch {
	case taken.LSN > q.p.LSN && ahead > clockTolerance:
		why := fmt.Sprintf("the time is ambiguous: the agent's clock was %s ahead of the journal's then",
			text.Duration(ahead.Round(time.Second)))
		return fail.New(fail.Refused, "resolve", "--at "+q.at, why).
			WithHint(fmt.Sprintf("by the agent's clock the point is LSN %d, by the journal's LSN %d: "+
				"name one of them, or one between, with --at", q.p.LSN, taken.LSN))
	case taken.LSN < q.p.LSN && here.Written > t.UnixNano() && late > clockTolerance:
		q.p.Note = fmt.Sprintf("the journal wrote this point down %s after the time that the agent gave it: "+
			"replication was behind, or the agent's clock was; by the journal's clock the point of that time is LSN %d",
			text.Duration(late.Round(time.Second)), taken.LSN)
	}
	return nil
}

// takenAt is the newest point of a stream that the journal had written down by t, by its
// clock; without Written where that is not known. Of times beyond now its clock was ahead;
// where it went back, what was written before still counts.
func (l *Log) takenAt(ctx context.Context, id change.StreamID, t, now time.Time) (at catalog.At, err error) {
	newest := int64(0)
	by := func(written int64) bool { // reports whether it was written down by t
		if written != 0 && written <= now.UnixNano() {
			newest = max(newest, written)
		}
		return newest <= t.UnixNano()
	}
	w, mark := l, -1
	if l.Catalog != nil {
		for i := range l.Catalog.ReadPoints {
			p := l.Catalog.PointAt(i, id)
			if !by(p.Written) {
				break
			}
			if p.Written != 0 && p.Written <= now.UnixNano() {
				mark, at = i, p
			}
		}
		if mark < 0 {
			return at, nil
		}
		if w, err = l.view(ctx, mark); err != nil {
			return at, err
		}
		newest = at.Written
	}
	for _, f := range w.Frames[id] {
		e := f.entry()
		if !by(f.Object.Time) {
			break
		}
		if f.Object.Time != 0 && f.Object.Time <= now.UnixNano() {
			at = catalog.At{Point: change.Point{LSN: e.LastLSN, Hash: e.Hash}, Time: e.LastTime, Written: f.Object.Time}
		}
	}
	return at, nil
}
