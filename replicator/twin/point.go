package twin

import (
	"context"
	"fmt"
	"sort"
	"strconv"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/state"
)

// Point is a recovery point of a volume.
type Point struct {
	Volume *state.Volume
	Epoch  uint64
	LSN    uint64
	Time   time.Time // of the last frame that it contains
	// Note says, for people, why this is not quite what was asked for; "" where it is.
	Note string
	// Before is the LSN that was asked for, where the log has no point there because
	// of a resync, and this one is the last before; else 0.
	Before uint64
}

// Volume finds a volume by name; removed ones still have their history.
func (l *Log) Volume(name string) (*state.Volume, error) {
	if v := l.State.Volumes[name]; v != nil {
		return v, nil
	}
	if l.Damage != nil {
		return nil, l.lost(context.Background(), "volume "+name, nil)
	}
	if l.State.Groups[name] != nil {
		return nil, fail.New(fail.NotFound, "find volume", name, "it is a group, and a volume is asked for").
			WithHint("pollux volume ls --store " + l.store.URL() + " lists its volumes")
	}
	return nil, fail.New(fail.NotFound, "find volume", name, "no such volume in "+l.store.URL()).
		WithHint("pollux volume ls --store " + l.store.URL() + " lists them")
}

// PointOf is Resolve of a volume by its name, now.
func (l *Log) PointOf(ctx context.Context, name, at string) (Point, error) {
	v, err := l.Volume(name)
	if err != nil {
		return Point{}, err
	}
	return l.Resolve(ctx, v, at, time.Now())
}

// Resolve turns what an operator wrote behind --at into a point: "" is the
// newest, digits an LSN, RFC 3339 or -10m a time (the last frame that ends at or
// before it), anything else a bookmark of the volume's group.
func (l *Log) Resolve(ctx context.Context, v *state.Volume, at string, now time.Time) (Point, error) {
	q := &query{l: l, ctx: ctx, v: v, at: at, now: now}
	q.r, q.known = l.RangeOf(v.Stream)
	if !q.known {
		q.r.LastTime = v.Created // a volume that nobody wrote to is all zeros
	}
	q.p = Point{Volume: v, Epoch: l.Epoch, LSN: q.r.LastLSN, Time: q.r.LastTime}
	err := q.find()
	if err == nil {
		err = q.outsideResync()
	}
	if err == nil {
		err = q.exact()
	}
	if err == nil && (!v.Ready || q.p.LSN < v.FirstLSN) {
		err = q.refuse(fail.Refused, "the volume's initial sync was not complete then")
	}
	if err == nil {
		q.p.Time = l.timeOf(ctx, v, q.p.LSN)
	}
	return q.p, err
}

// query is one Resolve.
type query struct {
	l     *Log
	ctx   context.Context
	v     *state.Volume
	at    string
	now   time.Time
	r     Range
	known bool // there is anything of the stream
	p     Point
}

func (q *query) when(lsn uint64) string {
	return q.l.timeOf(q.ctx, q.v, lsn).UTC().Format(time.RFC3339Nano)
}

// refuse is the error of what cannot be a point, with what could be.
func (q *query) refuse(kind fail.Kind, why string) error {
	if q.l.DamageOf(q.v) != nil && kind != fail.Invalid {
		return q.l.lost(q.ctx, "--at "+q.at, q.v)
	}
	first := q.l.FirstPoint(q.ctx, q.v)
	hint := fmt.Sprintf("the log holds LSN %d (%s) to %d (%s)", first, q.when(first), q.r.LastLSN, q.r.LastTime.UTC().
		Format(time.RFC3339Nano))
	if !q.known {
		hint = "the log holds nothing of the volume's group yet"
	}
	return fail.New(kind, "resolve", "--at "+q.at, why).WithHint(hint)
}

// find sets the point's LSN to what was asked for.
func (q *query) find() error {
	at, l := q.at, q.l
	switch {
	case at == "" && l.DamageOf(q.v) != nil:
		return l.lost(q.ctx, "the newest point", q.v)
	case at == "":
	case isDigits(at):
		lsn, err := strconv.ParseUint(at, 10, 64)
		if err != nil || lsn > q.r.LastLSN {
			return q.refuse(fail.NotFound, "no such LSN in the log")
		}
		q.p.LSN = lsn
	case at[0] == '-' || (at[0] >= '0' && at[0] <= '9'):
		t, err := parseTime(at, q.now)
		if err != nil {
			return q.refuse(fail.Invalid, "neither an LSN, nor RFC 3339, nor a time ago as in -10m")
		}
		return q.findTime(t)
	default:
		b := l.State.Bookmarks[q.v.Group+"/"+at]
		if b == nil {
			return q.refuse(fail.NotFound, "no such bookmark in group "+q.v.Group+" (pollux points lists them)")
		}
		lsn, on := b.On(q.v.Stream)
		if !on || lsn > q.r.LastLSN {
			return q.refuse(fail.NotFound, "the bookmark's writes are not in the log")
		}
		q.p.LSN = lsn
	}
	return nil
}

func (q *query) findTime(t time.Time) error {
	l, v := q.l, q.v
	if l.DamageOf(v) != nil && t.After(q.r.LastTime) { // what the damage took may end before t as well
		return l.lost(q.ctx, "--at "+q.at, v)
	}
	w, err := l.viewAtTime(q.ctx, v.Stream, t)
	if err != nil {
		return err
	}
	if w == nil {
		k, next, ok := l.retainedBefore(v.Stream, t)
		if !ok || k.LSN < v.FirstLSN {
			return q.refuse(fail.NotFound, "before all points that are kept")
		}
		q.p.LSN = k.LSN
		q.p.Note = fmt.Sprintf("of that time only some points are kept: this is the last one at or before it, the "+
			"next is LSN %d (%s)", next, q.when(next))
		return nil
	}
	q.p.LSN = w.lsnAt(v, t)
	if err := q.clocks(t); err != nil {
		return err
	}
	if t.After(q.now.Add(time.Minute)) {
		q.p.Note = "that time is in the future: this is the newest point so far"
	}
	if q.p.LSN == 0 && (!q.known || q.r.FirstTime.IsZero() || t.Before(q.r.FirstTime)) && t.Before(v.Created) {
		return q.refuse(fail.NotFound, "before the volume was protected")
	}
	if r := l.resyncAfter(v.Stream, q.p.LSN); r != nil && t.After(l.timeOf(q.ctx, v, q.p.LSN)) {
		q.p.Note = "the primary's WAL overflowed then: this is the last point before, and the resync has not ended yet"
		if r.Until > 0 {
			q.p.Note = fmt.Sprintf("the primary's WAL overflowed then: this is the last point before, the next is "+
				"LSN %d (%s)", r.Until, q.when(r.Until))
		}
	}
	if e := w.foldAt(v, t); e != nil {
		q.p.Note = fmt.Sprintf("writes from %s to %s were folded while replication was behind: this is the last "+
			"point before them, the next is LSN %d",
			time.Unix(0, e.FirstTime).UTC().Format(time.RFC3339Nano), time.Unix(0, e.LastTime).UTC().
				Format(time.RFC3339Nano), e.LastLSN)
		if q.p.LSN < v.FirstLSN && e.LastLSN >= v.FirstLSN {
			return q.refuse(fail.NotFound, "the volume's first points were folded while replication was behind")
		}
	}
	return nil
}

// outsideResync sees to it that the point is none while the primary had overflowed.
func (q *query) outsideResync() error {
	if st := q.l.State.Streams[q.v.Stream]; st != nil && q.p.LSN > 0 && q.p.LSN <= st.Forgotten {
		if _, retained := q.l.retainedAt(q.v.Stream, q.p.LSN); !retained {
			return fail.New(fail.NotFound, "resolve", "--at "+q.at,
				fmt.Sprintf("LSN %d lies before the resyncs that are still listed, and no catalog keeps it as a point",
					q.p.LSN)).
				WithHint(fmt.Sprintf("points are those behind LSN %d, and what pollux points lists as kept",
					st.Forgotten))
		}
	}
	r := q.l.resyncing(q.v.Stream, q.p.LSN)
	if r == nil {
		return nil
	}
	if (q.at != "" && isDigits(q.at)) || r.After < q.v.FirstLSN {
		until := "the resync has not ended yet"
		if r.Until > 0 {
			until = fmt.Sprintf("points go on with LSN %d", r.Until)
		}
		return fail.New(fail.NotFound, "resolve", "--at "+q.at,
			fmt.Sprintf("the log has no point between LSN %d and the end of the resync: the primary's WAL had "+
				"overflowed", r.After)).
			WithHint(fmt.Sprintf("the point before is LSN %d (%s); %s", r.After, q.when(r.After), until))
	}
	if b := q.l.State.Bookmarks[q.v.Group+"/"+q.at]; b != nil {
		return q.refuse(fail.NotFound,
			fmt.Sprintf("its mark, LSN %d, was lost when the primary's WAL overflowed: it is no point", q.p.LSN))
	}
	q.p.LSN, q.p.Before = r.After, q.p.LSN
	q.p.Note = fmt.Sprintf("the primary's WAL overflowed, and LSN %d is no point: this is the last one before",
		q.p.Before)
	return nil
}

// exact sees to it that the point lies in no fold, and is kept.
func (q *query) exact() error {
	before, after, exact, err := q.l.exact(q.ctx, q.v.Stream, q.p.LSN)
	if err != nil || exact {
		return err
	}
	why := fmt.Sprintf("writes around LSN %d were folded while replication was behind: it is no point any more",
		q.p.LSN)
	if w, _ := q.l.viewAt(q.ctx, q.v.Stream, q.p.LSN); w == nil {
		why = fmt.Sprintf("LSN %d is not kept any more", q.p.LSN)
	}
	near := fmt.Sprintf("the next point is LSN %d (%s)", after, q.when(after))
	if before > 0 && before >= q.v.FirstLSN {
		near = fmt.Sprintf("the nearest points are LSN %d (%s) and %d (%s)", before, q.when(before), after,
			q.when(after))
	}
	return fail.New(fail.NotFound, "resolve", "--at "+q.at, why).
		WithHint(near + "; a time is taken to the last point at or before it")
}

// resyncing returns the resync because of which an LSN is no recovery point, nil
// where there is none.
func (l *Log) resyncing(id change.StreamID, lsn uint64) *state.Resync {
	if st := l.State.Streams[id]; st != nil {
		for i := range st.Resyncs {
			if r := &st.Resyncs[i]; lsn > r.After && (r.Until == 0 || lsn < r.Until) {
				return r
			}
		}
	}
	return nil
}

// resyncAfter returns the resync that follows a point, nil where there is none.
func (l *Log) resyncAfter(id change.StreamID, lsn uint64) *state.Resync {
	if st := l.State.Streams[id]; st != nil {
		for i := range st.Resyncs {
			if r := &st.Resyncs[i]; r.After == lsn {
				return r
			}
		}
	}
	return nil
}

// foldAt returns the fold in whose time t lies, nil where there is none.
func (l *Log) foldAt(v *state.Volume, t time.Time) *segment.Entry {
	f := l.Frames[v.Stream]
	n := sort.Search(len(f), func(i int) bool { return f[i].entry().LastTime > t.UnixNano() })
	if n == len(f) {
		return nil
	}
	if e := f[n].entry(); e.Kind == segment.FoldEntry && e.FirstTime <= t.UnixNano() {
		return e
	}
	return nil
}

// FirstPoint is the first LSN at which a volume can be restored.
func (l *Log) FirstPoint(ctx context.Context, v *state.Volume) uint64 {
	first := v.FirstLSN
	if l.Catalog != nil {
		if at, ok := l.oldest(v.Stream); ok && at.LSN > first {
			s := l.Catalog.Streams[v.Stream]
			n := len(s.Retained)
			if i := sort.Search(n, func(i int) bool { return s.Retained[i].LSN >= first }); i < n {
				return s.Retained[i].LSN
			}
			return at.LSN
		}
	}
	if _, after, exact, err := l.exact(ctx, v.Stream, first); err == nil && !exact {
		return after
	}
	return first
}

// exact reports whether an LSN is a recovery point, and where it is not, because it
// lies in a fold or is not kept, which points are next to it; 0 is none.
func (l *Log) exact(ctx context.Context, id change.StreamID, lsn uint64) (before, after uint64, ok bool, err error) {
	if _, retained := l.retainedAt(id, lsn); retained {
		return 0, 0, true, nil
	}
	w, err := l.viewAt(ctx, id, lsn)
	if err != nil {
		return 0, 0, false, err
	}
	if w == nil {
		var retained []catalog.RetainedPoint
		if s := l.Catalog.Streams[id]; s != nil {
			retained = s.Retained
		}
		n := sort.Search(len(retained), func(i int) bool { return retained[i].LSN >= lsn })
		if n > 0 {
			before = retained[n-1].LSN
		}
		if n == len(retained) {
			return before, 0, false, nil
		}
		return before, retained[n].LSN, retained[n].LSN == lsn, nil
	}
	f := w.Frames[id]
	n := sort.Search(len(f), func(i int) bool { return f[i].entry().LastLSN >= lsn })
	if n == len(f) || lsn == 0 {
		return 0, 0, true, nil
	}
	e := f[n].entry()
	if e.Kind == segment.FrameEntry || e.LastLSN == lsn || lsn < e.FirstLSN {
		return 0, 0, true, nil
	}
	return e.FirstLSN - 1, e.LastLSN, false, nil
}

func isDigits(s string) bool {
	for _, c := range s {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

func parseTime(s string, now time.Time) (time.Time, error) {
	if s[0] == '-' {
		d, err := time.ParseDuration(s)
		return now.Add(d), err
	}
	return time.Parse(time.RFC3339Nano, s)
}

// lsnAt is the last LSN of the last frame that ends at or before t.
func (l *Log) lsnAt(v *state.Volume, t time.Time) uint64 {
	f := l.Frames[v.Stream]
	n := sort.Search(len(f), func(i int) bool { return f[i].entry().LastTime > t.UnixNano() })
	if n == 0 {
		return l.start(v.Stream).LSN
	}
	return f[n-1].entry().LastLSN
}
