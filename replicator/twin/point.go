package twin

import (
	"fmt"
	"sort"
	"strconv"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/segment"
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
		return nil, l.lost("volume "+name, nil)
	}
	return nil, fail.New(fail.NotFound, "find volume", name, "no such volume in "+l.store.URL()).
		WithHint("pollux volume ls --store " + l.store.URL() + " lists them")
}

// Resolve turns what an operator wrote behind --at into a point: "" is the
// newest, digits an LSN, RFC 3339 or -10m a time (the last frame that ends at or
// before it), anything else a bookmark of the volume's group.
func (l *Log) Resolve(v *state.Volume, at string, now time.Time) (Point, error) {
	r, ok := l.RangeOf(v.Stream)
	if !ok {
		r.LastTime = v.Created // a volume that nobody wrote to is all zeros
	}
	p := Point{Volume: v, Epoch: l.Epoch, LSN: r.LastLSN, Time: r.LastTime}
	bad := func(kind fail.Kind, why string) (Point, error) {
		if l.Damage != nil && kind != fail.Invalid {
			return p, l.lost("--at "+at, v)
		}
		first := l.FirstPoint(v)
		hint := fmt.Sprintf("the log holds LSN %d (%s) to %d (%s)", first, l.timeOf(v, first).UTC().Format(time.RFC3339), r.LastLSN, r.LastTime.UTC().Format(time.RFC3339))
		if !ok {
			hint = "the log holds nothing of the volume's group yet"
		}
		return p, fail.New(kind, "resolve", "--at "+at, why).WithHint(hint)
	}
	switch {
	case at == "" && l.Damage != nil:
		return p, l.lost("the newest point", v)
	case at == "":
	case at[0] >= '0' && at[0] <= '9' && isDigits(at):
		lsn, err := strconv.ParseUint(at, 10, 64)
		if err != nil || lsn > r.LastLSN {
			return bad(fail.NotFound, "no such LSN in the log")
		}
		p.LSN = lsn
	case at[0] == '-' || (at[0] >= '0' && at[0] <= '9'):
		t, err := parseTime(at, now)
		if err != nil {
			return bad(fail.Invalid, "neither an LSN, nor RFC 3339, nor a time ago as in -10m")
		}
		if l.Damage != nil && t.After(r.LastTime) { // what the damage took may end before t as well
			return p, l.lost("--at "+at, v)
		}
		p.LSN = l.lsnAt(v, t)
		if p.LSN == 0 && (!ok || t.Before(r.FirstTime)) && t.Before(v.Created) {
			return bad(fail.NotFound, "before the volume was protected")
		}
		if r := l.resyncAfter(v.Stream, p.LSN); r != nil && t.After(l.timeOf(v, p.LSN)) {
			p.Note = "the primary's WAL overflowed then: this is the last point before, and the resync has not ended yet"
			if r.Until > 0 {
				p.Note = fmt.Sprintf("the primary's WAL overflowed then: this is the last point before, the next is LSN %d (%s)", r.Until, l.timeOf(v, r.Until).UTC().Format(time.RFC3339Nano))
			}
		}
		if e := l.foldAt(v, t); e != nil {
			p.Note = fmt.Sprintf("writes from %s to %s were folded while replication was behind: this is the last point before them, the next is LSN %d",
				time.Unix(0, e.FirstTime).UTC().Format(time.RFC3339Nano), time.Unix(0, e.LastTime).UTC().Format(time.RFC3339Nano), e.LastLSN)
			if p.LSN < v.FirstLSN && e.LastLSN >= v.FirstLSN {
				return bad(fail.NotFound, "the volume's first points were folded while replication was behind")
			}
		}
	default:
		b := l.State.Bookmarks[v.Group+"/"+at]
		if b == nil {
			return bad(fail.NotFound, "no such bookmark in group "+v.Group)
		}
		lsn, on := b.On(v.Stream)
		if !on || lsn > r.LastLSN {
			return bad(fail.NotFound, "the bookmark's writes are not in the log")
		}
		p.LSN = lsn
	}
	if r := l.resyncing(v.Stream, p.LSN); r != nil {
		if at != "" && isDigits(at) || r.After < v.FirstLSN {
			until := "the resync has not ended yet"
			if r.Until > 0 {
				until = fmt.Sprintf("points go on with LSN %d", r.Until)
			}
			return p, fail.New(fail.NotFound, "resolve", "--at "+at, fmt.Sprintf("the log has no point between LSN %d and the end of the resync: the primary's WAL had overflowed", r.After)).
				WithHint(fmt.Sprintf("the point before is LSN %d (%s); %s", r.After, l.timeOf(v, r.After).UTC().Format(time.RFC3339Nano), until))
		}
		if b := l.State.Bookmarks[v.Group+"/"+at]; b != nil {
			return bad(fail.NotFound, fmt.Sprintf("its mark, LSN %d, was lost when the primary's WAL overflowed: it is no point", p.LSN))
		}
		p.LSN, p.Before = r.After, p.LSN
		p.Note = fmt.Sprintf("the primary's WAL overflowed, and LSN %d is no point: this is the last one before", p.Before)
	}
	if before, after, exact := l.exact(v.Stream, p.LSN); !exact {
		why := fmt.Sprintf("writes around LSN %d were folded while replication was behind: it is no point any more", p.LSN)
		near := fmt.Sprintf("the next point is LSN %d (%s)", after, l.timeOf(v, after).UTC().Format(time.RFC3339Nano))
		if before > 0 && before >= v.FirstLSN {
			near = fmt.Sprintf("the nearest points are LSN %d (%s) and %d (%s)", before, l.timeOf(v, before).UTC().Format(time.RFC3339Nano),
				after, l.timeOf(v, after).UTC().Format(time.RFC3339Nano))
		}
		return p, fail.New(fail.NotFound, "resolve", "--at "+at, why).WithHint(near + "; a time is taken to the last point at or before it")
	}
	if !v.Ready || p.LSN < v.FirstLSN {
		return bad(fail.Refused, "the volume's initial sync was not complete then")
	}
	p.Time = l.timeOf(v, p.LSN)
	return p, nil
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
func (l *Log) FirstPoint(v *state.Volume) uint64 {
	if _, after, exact := l.exact(v.Stream, v.FirstLSN); !exact {
		return after
	}
	return v.FirstLSN
}

// exact reports whether an LSN is a recovery point, and where it is not, because it
// lies in a fold, which points are next to it; 0 is none.
func (l *Log) exact(id change.StreamID, lsn uint64) (before, after uint64, ok bool) {
	f := l.Frames[id]
	n := sort.Search(len(f), func(i int) bool { return f[i].entry().LastLSN >= lsn })
	if n == len(f) || lsn == 0 {
		return 0, 0, true
	}
	e := f[n].entry()
	if e.Kind == segment.FrameEntry || e.LastLSN == lsn {
		return 0, 0, true
	}
	return e.FirstLSN - 1, e.LastLSN, false
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
		return 0
	}
	return f[n-1].entry().LastLSN
}

func (l *Log) timeOf(v *state.Volume, lsn uint64) time.Time {
	f := l.Frames[v.Stream]
	n := sort.Search(len(f), func(i int) bool { return f[i].entry().LastLSN >= lsn })
	if n == len(f) || lsn == 0 {
		return v.Created
	}
	return time.Unix(0, f[n].entry().LastTime)
}
