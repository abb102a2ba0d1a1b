package twin

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
)

// Open reads the newest catalog and, from there on, the log's footers and commands.
// Errors: fail.NotFound for an empty prefix, fail.Damaged with the object's name when
// not even the identity can be read. Damage further on ends the log there: see
// Log.Damage.
func Open(ctx context.Context, s objstore.Store, r *Reading) (*Log, error) {
	numbers, err := catalog.List(ctx, s)
	for err == nil {
		var l *Log
		l, err = openAt(ctx, s, numbers, r)
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
func openAt(ctx context.Context, s objstore.Store, numbers []uint64, r *Reading) (*Log, error) {
	var skipped error
	for i := len(numbers) - 1; i >= 0; i-- {
		c, err := catalog.Load(ctx, s, numbers[i])
		if err == nil {
			var l *Log
			if l, err = openFrom(ctx, s, c, r); err == nil {
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
	l, err := openFrom(ctx, s, nil, r)
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
func OpenWhole(ctx context.Context, s objstore.Store, r *Reading) (*Log, error) {
	return openFrom(ctx, s, nil, r)
}

// errBranch is of a catalog of which a part is a dead branch by now.
var errBranch = fail.New(fail.NotFound, "open", "catalog", "a fence went back behind it")

// openFrom opens the log behind a catalog; nil is from the beginning.
func openFrom(ctx context.Context, s objstore.Store, c *catalog.Catalog, r *Reading) (*Log, error) {
	l := &Log{store: s, State: state.New(), Catalog: c, Frames: map[change.StreamID][]FrameRef{}, readPoint: -1,
		next: 1, views: map[int]*Log{},
		moves: newMoves(s, c), reading: newReader(r)}
	first := uint64(0)
	if c != nil {
		m := c.End()
		l.durable, l.checks = m.Durable, m.ChecksTail
		l.readPoint, l.next, l.token, l.Epoch, first = len(c.ReadPoints)-1, m.Index+1, m.Token, m.Token.Epoch,
			m.Position
		var err error
		if l.State, err = c.LoadState(); err != nil {
			return nil, err
		}
	}
	there, rest, err := l.begin(ctx, first)
	if err != nil {
		return nil, err
	}
	l.End = first + uint64(len(there))
	if c == nil {
		there = there[1:] // the identity
	}
	footers, err := l.footers(ctx, there, isCommand)
	if err != nil {
		return nil, err
	}
	if err := l.order(ctx, footers, rest); err != nil {
		return nil, err
	}
	if err := l.replay(ctx, footers); err != nil {
		return nil, err
	}
	l.index()
	l.reading.Cache.trim()
	return l, nil
}

// begin reads the identity while it lists what there is from a position on.
func (l *Log) begin(ctx context.Context, first uint64) (there, rest []located, err error) {
	known := make(chan error, 1)
	go func() { known <- l.identify(ctx) }()
	there, rest, err = l.list(ctx, first)
	unknown := <-known
	c := l.Catalog
	if c != nil && (fail.Is(unknown, fail.NotFound) || fail.Is(unknown, fail.Damaged)) { // the catalog knows it as well
		l.Identity, unknown = state.Identity{Journal: c.Journal, Format: state.FormatVersion}, nil
	}
	switch {
	case err != nil && (c == nil || unknown == nil):
		return nil, nil, err
	case unknown != nil:
		return nil, nil, unknown
	case c != nil && c.Journal != l.Identity.Journal:
		return nil, nil, fail.New(fail.Damaged, "open", l.store.URL()+"/"+catalog.Name(c.Number),
			fmt.Sprintf("it is of journal %s, the log of %s", c.Journal, l.Identity.Journal))
	}
	return there, rest, nil
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
		gone := free == 0 || objlog.ProvesMissing(free, o.position, nil)
		if !gone {
			x, err := objlog.ReadIndex(ctx, l.store, o.position)
			if ctx.Err() != nil {
				return nil, nil, err
			}
			gone = err == nil && objlog.ProvesMissing(free, o.position, x)
		}
		if gone && free == 0 {
			return nil, nil, objlog.ErrMissing(l.store.URL(), 0, o.position)
		}
		if gone {
			l.stop(free, objlog.ErrMissing(l.store.URL(), free, o.position))
			break
		}
	}
	return all[:n], all[n:], nil
}

// identify reads the log's identity.
func (l *Log) identify(ctx context.Context) error {
	f := l.footer(ctx, located{position: 0, bytes: -1}, everyEntry)
	if f.err != nil {
		return f.err
	}
	if f.x.Type != segment.Identity {
		return l.damaged(0, "position 0 is a %v, not the log's identity", f.x.Type)
	}
	if len(f.x.Entries) != 1 {
		return l.damaged(0, "%v with %d entries", f.x.Type, len(f.x.Entries))
	}
	err := objstore.Reread(func() error {
		b, err := l.bodies(ctx, f, everyEntry)
		if err == nil {
			err = fail.At("read", l.at(0), state.Decode(b, state.KindIdentity, &l.Identity))
		}
		f.again = true
		return err
	})
	if err != nil {
		return err
	}
	return fail.At("read", l.at(0), checkIdentity(f.x, &l.Identity))
}

// checkIdentity refuses a log that this build does not know.
func checkIdentity(x *segment.Index, id *state.Identity) error {
	if id.Format != state.FormatVersion {
		return fail.New(fail.Unsupported, "open", "object log",
			fmt.Sprintf("format %d; this build reads %d", id.Format, state.FormatVersion)).
			WithHint("use a pollux version that knows this format")
	}
	if id.Journal != x.Journal {
		return fail.New(fail.Damaged, "open", "object log",
			fmt.Sprintf("the identity names journal %s, its head %s", id.Journal, x.Journal))
	}
	return nil
}
