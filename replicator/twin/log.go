package twin

import (
	"context"
	"fmt"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/catalog"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/pack"
	"github.com/pollux-dr/pollux/replicator/segment"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/uploader"
)

// readers is how many requests run at once.
const readers = 16

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
	// CatalogDamage is why newer catalogs than the one that is used are not.
	CatalogDamage error

	mark    int             // of the catalog, from which on it was read; -1: from the beginning
	next    uint64          // the journal index that follows
	durable uint64          // the position that the last segment stated
	fences  []catalog.Fence // behind the catalog
	moves   *moves
	token   segment.Token

	mu    sync.Mutex
	views map[int]*Log // of older history, by mark
}

// FrameRef is a frame's or a fold's place in the log.
type FrameRef struct {
	Object *segment.Index
	Entry  int
}

func (r FrameRef) entry() *segment.Entry { return &r.Object.Entries[r.Entry] }

// Progress is told how far a long call has come. It may be nil.
type Progress func(done, total int64)

// Open reads the newest catalog and, from there on, the log's footers and commands.
// Errors: fail.NotFound for an empty prefix, fail.Damaged with the object's name when
// not even the identity can be read. Damage further on ends the log there: see
// Log.Damage.
func Open(ctx context.Context, s objstore.Store, progress Progress) (*Log, error) {
	numbers, err := catalog.List(ctx, s)
	if err != nil {
		return nil, err
	}
	var skipped error
	for i := len(numbers) - 1; i >= 0; i-- {
		c, err := catalog.Load(ctx, s, numbers[i])
		if err == nil {
			var l *Log
			if l, err = openFrom(ctx, s, c, progress); err == nil {
				l.CatalogDamage = skipped
				return l, nil
			}
		}
		if !ofObject(err) {
			return nil, err
		}
		if skipped == nil {
			skipped = err
		}
	}
	l, err := openFrom(ctx, s, nil, progress)
	if err != nil {
		if skipped != nil && ofObject(err) {
			err = skipped // without a catalog the log cannot be read: that is the cause
		}
		return nil, err
	}
	l.CatalogDamage = skipped
	return l, nil
}

// errBranch is of a catalog of which a part is a dead branch by now.
var errBranch = fail.New(fail.NotFound, "open", "catalog", "a fence went back behind it")

// openFrom opens the log behind a catalog; nil is from the beginning.
func openFrom(ctx context.Context, s objstore.Store, c *catalog.Catalog, progress Progress) (*Log, error) {
	l := &Log{store: s, State: state.New(), Catalog: c, Frames: map[change.StreamID][]FrameRef{}, mark: -1, next: 1, views: map[int]*Log{}, moves: newMoves(s, c)}
	first := uint64(0)
	if c != nil {
		m := c.End()
		l.durable = m.Durable
		l.mark, l.next, l.token, l.Epoch, first = len(c.Marks)-1, m.Index+1, m.Token, m.Token.Epoch, m.Position
		var err error
		if l.State, err = c.LoadState(); err != nil {
			return nil, err
		}
		x, err := uploader.ReadIndex(ctx, s, 0)
		if err != nil {
			return nil, err
		}
		if err := l.identify(ctx, x); err != nil {
			return nil, err
		}
		if c.Journal != l.Identity.Journal {
			return nil, fail.New(fail.Damaged, "open", s.URL()+"/"+catalog.Name(c.Number), fmt.Sprintf("it is of journal %s, the log of %s", c.Journal, l.Identity.Journal))
		}
	}
	there, rest, err := l.list(ctx, first)
	if err != nil {
		return nil, err
	}
	l.End = first + uint64(len(there))
	all, errs, err := l.footers(ctx, there, progress)
	if err != nil {
		return nil, err
	}
	if c == nil {
		if errs[0] != nil {
			return nil, errs[0]
		}
		if err := l.identify(ctx, all[0]); err != nil {
			return nil, err
		}
		all, errs = all[1:], errs[1:]
	}
	if err := l.order(ctx, all, errs, rest); err != nil {
		return nil, err
	}
	if err := l.replay(ctx); err != nil {
		return nil, err
	}
	l.index()
	return l, nil
}

// footers reads the footers of objects, with an error each where one cannot be
// read.
func (l *Log) footers(ctx context.Context, objects []located, progress Progress) ([]*segment.Index, []error, error) {
	all, errs := make([]*segment.Index, len(objects)), make([]error, len(objects))
	var done atomic.Int64
	err := parallel(ctx, len(objects), func(ctx context.Context, i int) error {
		all[i], errs[i] = uploader.ReadIndexSized(ctx, l.store, objects[i].position, objects[i].bytes)
		if progress != nil {
			progress(done.Add(1), int64(len(objects)))
		}
		return ctx.Err() // an object that cannot be read, for whatever reason, is one object
	})
	return all, errs, err
}

// parallel runs fn for 0..n-1, a few at a time.
func parallel(parent context.Context, n int, fn func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(parent)
	g.SetLimit(readers)
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error { return fn(ctx, i) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return parent.Err() // not all of them ran, then
}

// list finds the contiguous positions from the first on, and the rest. Objects beyond the
// first missing one are on their way, or their writer died: they do not count,
// unless one of them proves that the missing one was there.
func (l *Log) list(ctx context.Context, first uint64) (there, rest []located, err error) {
	all, err := positions(ctx, l.store, first, everything)
	if err != nil {
		return nil, nil, err
	}
	n := contiguous(all, first)
	for _, o := range all[:n] {
		l.Bytes += o.bytes
	}
	l.Beyond = len(all) - n
	free := first + uint64(n)
	for _, o := range all[n:] {
		gone := free == 0 || missing(free, o.position, nil)
		if !gone {
			x, err := uploader.ReadIndex(ctx, l.store, o.position)
			if ctx.Err() != nil {
				return nil, nil, err
			}
			gone = err == nil && missing(free, o.position, x)
		}
		if gone && free == 0 {
			return nil, nil, l.missing(0, o.position)
		}
		if gone {
			l.stop(free, l.missing(free, o.position))
			break
		}
	}
	return all[:n], all[n:], nil
}

func (l *Log) at(position uint64) string { return l.store.URL() + "/" + ObjectName(position) }

// ObjectName is where a block's position says that it lies.
func ObjectName(position uint64) string {
	if position&pack.Bit != 0 {
		return pack.Name(position &^ pack.Bit)
	}
	return uploader.ObjectName(position)
}

func (l *Log) damaged(position uint64, format string, args ...any) error {
	return fail.New(fail.Damaged, "read", l.at(position), fmt.Sprintf(format, args...))
}

func (l *Log) identify(ctx context.Context, x *segment.Index) error {
	if x.Type != segment.Identity {
		return l.damaged(0, "position 0 is a %v, not the log's identity", x.Type)
	}
	if err := l.document(ctx, x, state.KindIdentity, &l.Identity); err != nil {
		return err
	}
	return fail.At("read", l.at(0), checkIdentity(x, &l.Identity))
}

// checkIdentity refuses a log that this build does not know.
func checkIdentity(x *segment.Index, id *state.Identity) error {
	if id.Format != state.FormatVersion {
		return fail.New(fail.Unsupported, "open", "object log", fmt.Sprintf("format %d; this build reads %d", id.Format, state.FormatVersion)).
			WithHint("use a pollux version that knows this format")
	}
	if id.Journal != x.Journal {
		return fail.New(fail.Damaged, "open", "object log", fmt.Sprintf("the identity names journal %s, its head %s", id.Journal, x.Journal))
	}
	return nil
}

// document reads the one entry of an identity or a fence.
func (l *Log) document(ctx context.Context, x *segment.Index, kind state.Kind, v any) error {
	if len(x.Entries) != 1 {
		return l.damaged(x.Position, "%v with %d entries", x.Type, len(x.Entries))
	}
	e := &x.Entries[0]
	b, err := l.store.Read(ctx, uploader.ObjectName(x.Position), e.Offset, int64(e.Bytes), nil)
	if err != nil {
		return err
	}
	return fail.At("read", l.at(x.Position), state.Decode(b, kind, v))
}

// order applies the rules of fences and checks that the journal index goes on
// without a gap, up to the first object that breaks the log.
func (l *Log) order(ctx context.Context, all []*segment.Index, errs []error, rest []located) error {
	first := l.next
	r := rules{journal: l.Identity.Journal, next: l.next, cur: l.token}
	defer func() { l.next, l.token = r.next, r.cur }()
	for i, x := range all {
		err, valid := errs[i], false
		position := l.End - uint64(len(all)-i)
		if err == nil {
			if valid, err = r.judge(x); err != nil {
				err = l.damaged(x.Position, "%v", err)
			}
		}
		switch {
		case err != nil:
			l.stop(position, err)
			return l.branch(ctx, r.cur, all[i+1:], rest)
		case !valid:
			l.Void++
		case x.Type == segment.Fence:
			if x.FirstIndex < first {
				return errBranch
			}
			l.Epoch = x.Token.Epoch
			l.fences = append(l.fences, catalog.Fence{Position: x.Position, From: l.durable})
			l.cut(x.FirstIndex)
		default:
			l.durable = x.DurablePosition
			l.Objects = append(l.Objects, x)
		}
	}
	if l.Damage != nil { // an object is missing behind all of these
		return l.branch(ctx, r.cur, nil, rest)
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

// index lists the frames by stream, up to the first object in which a stream
// does not go on.
func (l *Log) index() {
	last := map[change.StreamID]uint64{}
	if l.Catalog != nil && l.mark >= 0 {
		for id := range l.State.Streams {
			last[id] = l.Catalog.PointAt(l.mark, id).LSN
		}
	}
	for k, x := range l.Objects {
		for i := range x.Entries {
			e := &x.Entries[i]
			if !e.OfStream() {
				continue
			}
			if e.FirstLSN != last[e.Stream]+1 && !l.gap(e.Stream, last[e.Stream], e.FirstLSN) {
				l.stop(x.Position, l.damaged(x.Position, "stream %s goes from LSN %d to %d", e.Stream, last[e.Stream], e.FirstLSN))
				l.Objects = l.Objects[:k]
				break
			}
			last[e.Stream] = e.LastLSN
		}
		if k == len(l.Objects) {
			break
		}
	}
	for _, x := range l.Objects {
		for i := range x.Entries {
			if e := &x.Entries[i]; e.OfStream() {
				l.Frames[e.Stream] = append(l.Frames[e.Stream], FrameRef{x, i})
			}
		}
	}
}

// gap reports whether a resync closed the gap before an LSN.
func (l *Log) gap(id change.StreamID, last, first uint64) bool {
	g := gapBefore(l.State, id, first)
	return g != nil && g.From.LSN == last
}

// gapBefore returns what a stream left out just before an LSN, nil where it has a
// record there.
func gapBefore(s *state.State, id change.StreamID, lsn uint64) *state.Gap {
	if st := s.Streams[id]; st != nil {
		for i := range st.Gaps {
			if st.Gaps[i].To.LSN+1 == lsn {
				return &st.Gaps[i]
			}
		}
	}
	return nil
}

// replay applies the log's commands to the control state, up to the first object
// whose commands cannot be read.
func (l *Log) replay(ctx context.Context) error {
	bodies, errs := make([][]byte, len(l.Objects)), make([]error, len(l.Objects))
	err := parallel(ctx, len(l.Objects), func(ctx context.Context, i int) error {
		x := l.Objects[i]
		lo, hi := bytesOf(x, isCommand)
		if hi == 0 {
			return nil
		}
		b, err := l.store.Read(ctx, uploader.ObjectName(x.Position), lo, hi-lo, nil)
		if err == nil && int64(len(b)) < hi-lo {
			err = l.damaged(x.Position, "object cut short at byte %d", lo+int64(len(b)))
		}
		bodies[i], errs[i] = b, err
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

func (l *Log) replayObject(x *segment.Index, bodies []byte) error {
	lo, _ := bytesOf(x, isCommand)
	for k := range x.Entries {
		e := &x.Entries[k]
		if !isCommand(e) {
			continue
		}
		kind, body, err := x.Command(bodies[e.Offset-lo:][:e.Bytes], k)
		if err == nil {
			err = apply(l.State, kind, body)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// apply is State.Apply on a command that the journal accepted: the state must
// take it too.
func apply(s *state.State, kind state.Kind, body []byte) error {
	_, err := s.Apply(kind, body)
	if err == nil || fail.Is(err, fail.Unsupported) {
		return err
	}
	return fail.Wrap(fail.Damaged, "apply", kind.String(), err)
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
		at = l.Catalog.PointAt(l.mark, id)
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
		return l.Catalog.Streams[id].Kept[0].At, true
	}
	return at, false
}
