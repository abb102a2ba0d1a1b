package twin

import (
	"context"
	"fmt"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/catalog"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/segment"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/uploader"
)

// Open reads the newest catalog and, from there on, the log's footers and commands.
// Errors: fail.NotFound for an empty prefix, fail.Damaged with the object's name when
// not even the identity can be read. Damage further on ends the log there: see
// Log.Damage.
func Open(ctx context.Context, s objstore.Store, progress Progress) (*Log, error) {
	numbers, err := catalog.List(ctx, s)
	for err == nil {
		var l *Log
		l, err = openAt(ctx, s, numbers, progress)
		if err != nil && !ofObject(err) || err == nil && l.Damage == nil {
			return l, err
		}
		// What is damaged or missing may be what garbage collection let go of meanwhile:
		// then there is a newer catalog.
		newer, lerr := catalog.List(ctx, s)
		if lerr != nil {
			return nil, lerr
		}
		if !later(newer, numbers) {
			return l, err
		}
		numbers, err = newer, nil
	}
	return nil, err
}

// later reports whether one list of catalogs has a newer one than another.
func later(numbers, than []uint64) bool {
	return len(numbers) > 0 && (len(than) == 0 || numbers[len(numbers)-1] > than[len(than)-1])
}

// openAt opens the log by the newest of some catalogs that can be used.
func openAt(ctx context.Context, s objstore.Store, numbers []uint64, progress Progress) (*Log, error) {
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

// OpenWhole is Open without catalogs, from the log's beginning on, as long as that is
// there: for when a catalog or a map is damaged.
func OpenWhole(ctx context.Context, s objstore.Store, progress Progress) (*Log, error) {
	return openFrom(ctx, s, nil, progress)
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
		if err == nil {
			err = l.identify(ctx, x)
		}
		if fail.Is(err, fail.NotFound) || fail.Is(err, fail.Damaged) { // the catalog knows it as well
			l.Identity, err = state.Identity{Journal: c.Journal, Format: state.FormatVersion}, nil
		}
		if err != nil {
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
	if err == nil {
		all, err = whole(ctx, l.store, all, first, everything)
	}
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
	return objstore.Reread(func() error {
		b, err := l.store.Read(ctx, uploader.ObjectName(x.Position), e.Offset, int64(e.Bytes), nil)
		if err != nil {
			return err
		}
		return fail.At("read", l.at(x.Position), state.Decode(b, kind, v))
	})
}
