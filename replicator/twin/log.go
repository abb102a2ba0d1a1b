package twin

import (
	"context"
	"fmt"
	"sort"
	"sync"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/flight"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
)

// readers is how many requests run at once: as many as a store has connections unless it
// is told otherwise. They are small, so that what they take is the way there and back.
const readers = 64

// Log is an object log as it stood when it was opened: the newest catalog, and what
// followed it. Older history is read when a point needs it (see view).
type Log struct {
	store    objstore.Store
	Identity state.Identity
	State    *state.State
	// Catalog is the newest one that could be used, nil where there is none.
	Catalog *catalog.Catalog
	// Objects are the valid segments behind the catalog, in order; void ones and fences
	// are left out.
	Objects []*segment.Index
	// Frames are, per stream, all frames and folds behind the catalog, in order.
	Frames map[change.StreamID][]FrameRef
	Epoch  uint64 // of the newest fence
	End    uint64 // positions in the log, up to the damage
	Void   int    // objects of fenced writers, behind the catalog
	Beyond int    // objects behind a position that does not exist (yet)
	Bytes  int64  // of all objects behind the catalog
	// Damage is what ends the log before its time, nil for a whole one: an object
	// that is missing, cannot be read, or does not follow. What lies before stands.
	Damage error
	// Broken is why a stream has no later points here, though the log goes on: its
	// frames do not follow one another. Other streams have all of theirs.
	Broken map[change.StreamID]error
	// CatalogDamage is why newer catalogs than the one that is used are not.
	CatalogDamage error

	readPoint int             // of the catalog, from which on it was read; -1: from the beginning
	next      uint64          // the journal index that follows
	durable   uint64          // the position that the last segment stated
	checks    bool            // the writer of the token in force checks its tail
	fences    []catalog.Fence // behind the catalog
	moves     *moves
	token     segment.Token

	reading *reader

	mu    sync.Mutex
	views map[int]*Log // of older history, by mark
	reads flight.Group[int, *Log]
}

// FrameRef is a frame's or a fold's place in the log.
type FrameRef struct {
	Object *segment.Index
	Entry  int
}

func (r FrameRef) entry() *segment.Entry { return &r.Object.Entries[r.Entry] }

func (l *Log) at(position uint64) string { return l.store.URL() + "/" + objlog.ObjectName(position) }

func (l *Log) damaged(position uint64, format string, args ...any) error {
	return l.damagedObject(objlog.InLog(position), format, args...)
}

func (l *Log) damagedObject(o objlog.ObjectID, format string, args ...any) error {
	return fail.New(fail.Damaged, "read", l.store.URL()+"/"+o.Name(), fmt.Sprintf(format, args...))
}

// order applies the rules of fences and checks that the journal index goes on
// without a gap, up to the first object that breaks the log.
func (l *Log) order(ctx context.Context, all []footer, rest []located) error {
	first := l.next
	r := objlog.Rules{Journal: l.Identity.Journal, Next: l.next, Token: l.token}
	defer func() { l.next, l.token = r.Next, r.Token }()
	for i := range all {
		x, err, valid := all[i].x, all[i].err, false
		position := l.End - uint64(len(all)-i)
		if err == nil {
			if valid, err = r.Judge(x); err != nil {
				err = l.damaged(x.Position, "%v", err)
			}
		}
		switch {
		case err != nil:
			l.stop(position, err)
			return l.branch(ctx, r.Token, all[i+1:], rest)
		case !valid:
			l.Void++
		case x.Type == segment.Fence:
			if x.FirstIndex < first {
				return errBranch
			}
			l.Epoch = x.Token.Epoch
			l.fences = append(l.fences, catalog.Fence{Position: x.Position, From: l.durable, ChecksTail: l.checks})
			l.checks = x.ChecksTail
			l.cut(x.FirstIndex)
		default:
			l.durable = x.DurablePosition
			l.Objects = append(l.Objects, x)
		}
	}
	if l.Damage != nil { // an object is missing behind all of these
		return l.branch(ctx, r.Token, nil, rest)
	}
	return nil
}

// cut drops entries from a journal index on: a dead branch. A fold that goes beyond
// it cannot be cut, and goes as a whole: what it had from before the index is
// missed where its stream goes on.
func (l *Log) cut(index uint64) {
	for len(l.Objects) > 0 {
		x := l.Objects[len(l.Objects)-1]
		if x.LastIndex < index {
			return
		}
		n := sort.Search(len(x.Entries), func(i int) bool { return x.Entries[i].Index >= index })
		if n > 0 {
			x.Entries, x.LastIndex = x.Entries[:n], index-1
			return
		}
		l.Objects = l.Objects[:len(l.Objects)-1]
	}
}

// index lists the frames by stream. One that does not go on costs that stream what
// follows, and no other.
func (l *Log) index() {
	last := map[change.StreamID]uint64{}
	if l.Catalog != nil && l.readPoint >= 0 {
		for id := range l.State.Streams {
			last[id] = l.Catalog.PointAt(l.readPoint, id).LSN
		}
	}
	l.Broken = map[change.StreamID]error{}
	for _, x := range l.Objects {
		for i := range x.Entries {
			e := &x.Entries[i]
			if !e.OfStream() || l.Broken[e.Stream] != nil {
				continue
			}
			if at := last[e.Stream]; e.FirstLSN != at+1 && !l.gap(e.Stream, at, e.FirstLSN) {
				l.Broken[e.Stream] = l.damaged(x.Position, "stream %s goes from LSN %d to %d", e.Stream, at, e.FirstLSN)
				continue
			}
			last[e.Stream] = e.LastLSN
			l.Frames[e.Stream] = append(l.Frames[e.Stream], FrameRef{x, i})
		}
	}
}

// DamageOf is what takes points that the log should have from a volume, of several
// from the first one hit; nil where nothing does.
func (l *Log) DamageOf(volumes ...*state.Volume) error {
	for _, v := range volumes {
		if l.Damage == nil && l.Broken[v.Stream] != nil {
			return l.Broken[v.Stream]
		}
	}
	return l.Damage
}

// gap reports whether a resync closed the gap before an LSN.
func (l *Log) gap(id change.StreamID, last, first uint64) bool {
	st := l.State.Streams[id]
	g := st.GapBefore(first)
	return g != nil && g.From.LSN == last || first > last && st.ForgotGapBefore(first)
}

// replay applies the log's commands to the control state, up to the first object
// whose commands cannot be read.
func (l *Log) replay(ctx context.Context, footers []footer) error {
	of := make(map[uint64]*footer, len(footers))
	for i := range footers {
		if x := footers[i].x; x != nil {
			of[x.Position] = &footers[i]
		}
	}
	bodies, errs := make([][]byte, len(l.Objects)), make([]error, len(l.Objects))
	err := parallel(ctx, len(l.Objects), func(ctx context.Context, i int) error {
		x := l.Objects[i]
		f := *of[x.Position]
		errs[i] = objstore.Reread(func() error {
			b, err := l.bodies(ctx, f, isCommand)
			if bodies[i] = b; err == nil && b != nil {
				err = fail.At("replay", l.at(x.Position), checkCommands(x, b))
			}
			f.again = true
			return err
		})
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	for i, x := range l.Objects {
		err := errs[i]
		if err == nil {
			err = fail.At("replay", l.at(x.Position), l.replayObject(x, bodies[i]))
		}
		if err != nil {
			l.stop(x.Position, err)
			l.Objects = l.Objects[:i]
			return nil
		}
	}
	return nil
}

// checkCommands checks the commands of an object, of which bodies begins with the first.
func checkCommands(x *segment.Index, bodies []byte) error {
	lo, _ := bytesOf(x, isCommand)
	for k := range x.Entries {
		if e := &x.Entries[k]; isCommand(e) {
			if _, _, err := x.Command(bodies[e.Offset-lo:][:e.Bytes], k); fail.Is(err, fail.Damaged) {
				return err
			}
		}
	}
	return nil
}

func (l *Log) replayObject(x *segment.Index, bodies []byte) error {
	lo, _ := bytesOf(x, isCommand)
	for k := range x.Entries {
		e := &x.Entries[k]
		if !isCommand(e) {
			continue
		}
		kind, body, err := x.Command(bodies[e.Offset-lo:][:e.Bytes], k)
		if err == nil {
			err = objlog.Replay(l.State, kind, body)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func isCommand(e *segment.Entry) bool {
	return e.Kind == segment.CommandEntry && e.Command != state.KindHeartbeat
}

// bytesOf returns the byte range of the entries that match; 0, 0 if none does.
func bytesOf(x *segment.Index, match func(*segment.Entry) bool) (lo, hi int64) {
	for i := range x.Entries {
		e := &x.Entries[i]
		if !match(e) {
			continue
		}
		if hi == 0 || e.Offset < lo {
			lo = e.Offset
		}
		hi = max(hi, e.Offset+int64(e.Bytes))
	}
	return lo, hi
}

// Range is what the log holds of a stream.
type Range struct {
	FirstLSN, LastLSN   uint64
	FirstTime, LastTime time.Time
}

// start is where a stream stood where this part of the log begins.
func (l *Log) start(id change.StreamID) (at catalog.At) {
	if l.Catalog != nil {
		at = l.Catalog.PointAt(l.readPoint, id)
	}
	return at
}

// RangeOf returns the recovery points of a stream: every LSN in between that does
// not lie in a fold, nor before what is kept.
func (l *Log) RangeOf(id change.StreamID) (r Range, ok bool) {
	if f := l.Frames[id]; len(f) > 0 {
		first, last := f[0].entry(), f[len(f)-1].entry()
		r = Range{first.FirstLSN, last.LastLSN, time.Unix(0, first.FirstTime), time.Unix(0, last.LastTime)}
	}
	at := l.start(id)
	if at.LSN == 0 {
		return r, r.LastLSN > 0
	}
	if r.LastLSN == 0 {
		r.LastLSN, r.LastTime = at.LSN, time.Unix(0, at.Time)
	}
	r.FirstLSN, r.FirstTime = 1, time.Time{}
	if oldest, ok := l.oldest(id); ok {
		r.FirstLSN, r.FirstTime = oldest.LSN, time.Unix(0, oldest.Time)
	}
	return r, true
}

// oldest returns the first point of a stream that is kept, where some before it are
// not.
func (l *Log) oldest(id change.StreamID) (at catalog.At, ok bool) {
	if _, cut := l.first(id); cut {
		return l.Catalog.Streams[id].Retained[0].At, true
	}
	return at, false
}
