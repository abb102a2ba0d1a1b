package twin

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/segment"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/uploader"
)

// readers is how many requests run at once.
const readers = 16

// Log is an object log as it stood when it was opened.
type Log struct {
	store    objstore.Store
	Identity state.Identity
	State    *state.State
	// Objects are the valid segments in order; void ones and fences are left
	// out.
	Objects []*segment.Index
	// Frames are, per stream, all frames in order.
	Frames map[change.StreamID][]FrameRef
	Epoch  uint64 // of the newest fence
	End    uint64 // positions in the log
	Void   int    // objects of fenced writers
	Beyond int    // objects behind a position that does not exist (yet)
	Bytes  int64  // of all objects in the log
}

// FrameRef is a frame's place in the log.
type FrameRef struct {
	Object *segment.Index
	Entry  int
}

func (r FrameRef) entry() *segment.Entry { return &r.Object.Entries[r.Entry] }

// Progress is told how far a long call has come. It may be nil.
type Progress func(done, total int64)

// Open reads the log's footers and commands. Errors: fail.NotFound for an empty
// prefix, fail.Damaged with the object's name for a broken log.
func Open(ctx context.Context, s objstore.Store, progress Progress) (*Log, error) {
	l := &Log{store: s, State: state.New(), Frames: map[change.StreamID][]FrameRef{}}
	there, err := l.list(ctx)
	if err != nil {
		return nil, err
	}
	n := len(there)
	all := make([]*segment.Index, n)
	var done atomic.Int64
	err = parallel(ctx, n, func(ctx context.Context, i int) error {
		var err error
		all[i], err = uploader.ReadIndexSized(ctx, s, uint64(i), there[i].bytes)
		if progress != nil {
			progress(done.Add(1), int64(n))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	l.End = uint64(n)
	if err := l.identify(ctx, all[0]); err != nil {
		return nil, err
	}
	if err := l.order(all[1:]); err != nil {
		return nil, err
	}
	return l, l.replay(ctx)
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

// list finds the contiguous positions from 0 on. Objects beyond the first
// missing one are on their way, or their writer died: they do not count, unless
// one of them proves that the missing one was there.
func (l *Log) list(ctx context.Context) (there []located, err error) {
	all, err := positions(ctx, l.store)
	if err != nil {
		return nil, err
	}
	n := contiguous(all)
	for _, o := range all[:n] {
		l.Bytes += o.bytes
	}
	l.Beyond = len(all) - n
	for _, o := range all[n:] {
		gone := n == 0 || missing(uint64(n), o.position, nil)
		if !gone {
			x, err := uploader.ReadIndex(ctx, l.store, o.position)
			if err != nil {
				return nil, err
			}
			gone = missing(uint64(n), o.position, x)
		}
		if gone {
			return nil, l.missing(uint64(n), o.position)
		}
	}
	return all[:n], nil
}

func (l *Log) at(position uint64) string { return l.store.URL() + "/" + uploader.ObjectName(position) }

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

// order applies the rules of fences and checks that the journal index and every
// stream go on without a gap.
func (l *Log) order(all []*segment.Index) error {
	r := rules{journal: l.Identity.Journal, next: 1}
	for _, x := range all {
		valid, err := r.judge(x)
		switch {
		case err != nil:
			return l.damaged(x.Position, "%v", err)
		case !valid:
			l.Void++
		case x.Type == segment.Fence:
			l.Epoch = x.Token.Epoch
			l.cut(x.FirstIndex)
		default:
			l.Objects = append(l.Objects, x)
		}
	}
	return l.index()
}

// cut drops entries from a journal index on: a dead branch.
func (l *Log) cut(index uint64) {
	for len(l.Objects) > 0 {
		x := l.Objects[len(l.Objects)-1]
		if x.LastIndex < index {
			return
		}
		if x.FirstIndex < index {
			x.Entries = x.Entries[:index-x.FirstIndex]
			x.LastIndex = index - 1
			return
		}
		l.Objects = l.Objects[:len(l.Objects)-1]
	}
}

// index lists the frames by stream.
func (l *Log) index() error {
	for _, x := range l.Objects {
		for i := range x.Entries {
			e := &x.Entries[i]
			if e.Kind != segment.FrameEntry {
				continue
			}
			list := l.Frames[e.Stream]
			last := uint64(0)
			if len(list) > 0 {
				last = list[len(list)-1].entry().LastLSN
			}
			if e.FirstLSN != last+1 {
				return l.damaged(x.Position, "stream %s goes from LSN %d to %d", e.Stream, last, e.FirstLSN)
			}
			l.Frames[e.Stream] = append(list, FrameRef{x, i})
		}
	}
	return nil
}

// replay applies the log's commands to the control state.
func (l *Log) replay(ctx context.Context) error {
	bodies := make([][]byte, len(l.Objects))
	err := parallel(ctx, len(l.Objects), func(ctx context.Context, i int) error {
		x := l.Objects[i]
		lo, hi := span(x, isCommand)
		if hi == 0 {
			return nil
		}
		b, err := l.store.Read(ctx, uploader.ObjectName(x.Position), lo, hi-lo, nil)
		if err == nil && int64(len(b)) < hi-lo {
			err = l.damaged(x.Position, "object cut short at byte %d", lo+int64(len(b)))
		}
		bodies[i] = b
		return err
	})
	if err != nil {
		return err
	}
	for i, x := range l.Objects {
		lo, _ := span(x, isCommand)
		for k := range x.Entries {
			e := &x.Entries[k]
			if !isCommand(e) {
				continue
			}
			kind, body, err := x.Command(bodies[i][e.Offset-lo:][:e.Bytes], k)
			if err == nil {
				err = apply(l.State, kind, body)
			}
			if err != nil {
				return fail.At("replay", l.at(x.Position), err)
			}
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

// span returns the byte range of the entries that match; 0, 0 if none does.
func span(x *segment.Index, match func(*segment.Entry) bool) (lo, hi int64) {
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

// RangeOf returns the recovery points of a stream: every LSN in between.
func (l *Log) RangeOf(id change.StreamID) (r Range, ok bool) {
	f := l.Frames[id]
	if len(f) == 0 {
		return r, false
	}
	first, last := f[0].entry(), f[len(f)-1].entry()
	return Range{first.FirstLSN, last.LastLSN, time.Unix(0, first.FirstTime), time.Unix(0, last.LastTime)}, true
}
