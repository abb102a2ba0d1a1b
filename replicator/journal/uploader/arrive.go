package uploader

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/claim"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
)

// A target whose log this journal has not written yet, and whose beginning it no longer holds, is
// brought in line. The journal may have come from another site since, so that the log has a dead
// branch: what the former seat uploaded to it beyond the place where the journal goes on. The
// walk begins at the newest catalog that covers none of that, passes over it, and our fence goes
// back to where the common history ends. Nothing of it counts before the fence stands.

// arrives reports whether the log is to be brought in line.
func (u *Uploader) arrives() bool {
	t := u.o.Journal.Target(u.o.Target)
	return t.Position <= 1 && t.LetGo != nil
}

// arrive makes ready for that: the journal must know of all moves of its seat, or a dead branch
// would be taken for history; and a new log gets its beginning.
func (u *Uploader) arrive(ctx context.Context) error {
	var seat state.Seat
	u.o.Journal.View(func(s *state.State) { seat = s.Seat })
	if u.token.Epoch > 1 && seat.Epoch < u.token.Epoch {
		return fail.New(fail.Retry, "claim", "target "+u.o.Target,
			fmt.Sprintf("the journal has not said yet that it is here, under epoch %d", u.token.Epoch))
	}
	u.points, u.reached = map[change.StreamID]change.Point{}, nil
	return u.seed(ctx)
}

// deadFrom is state.State's.
func (u *Uploader) deadFrom(epoch uint64) (from uint64) {
	u.o.Journal.View(func(s *state.State) { from = s.DeadFrom(epoch) })
	return from
}

// catalogs finds a log's newest catalog, and the newest that covers no dead branch.
func (u *Uploader) catalogs(ctx context.Context, s objstore.Store) (newest, live *catalog.Catalog, err error) {
	id, _, _ := u.o.Journal.ID()
	return catalog.NewestOf(ctx, s, id, func(c *catalog.Catalog) bool {
		return claim.Dead(c, u.deadFrom) || u.strays(c)
	})
}

// strays is claim.Strays of a catalog that ends where the journal is its own, under its present epoch.
func (u *Uploader) strays(c *catalog.Catalog) bool {
	if c.End().Token.Epoch != u.token.Epoch {
		return false // sameHistory says what is wrong with it
	}
	s, err := c.LoadState()
	return err == nil && claim.Strays(c.End().Index, s.Moves, u.moves())
}

// moves are those of the journal's seat.
func (u *Uploader) moves() (moves []state.SeatMove) {
	u.o.Journal.View(func(s *state.State) { moves = s.Moves })
	return moves
}

// lookAround is newestCatalog for a log that is brought in line.
func (u *Uploader) lookAround(ctx context.Context, first uint64) (*claim.Catalog, error) {
	newest, live, err := u.catalogs(ctx, u.o.Store)
	if err != nil {
		return nil, err
	}
	u.reached = map[change.StreamID]change.Point{}
	if live != nil {
		if err := u.sameHistory(live); err != nil {
			return nil, err
		}
		for id := range live.Streams {
			if at := live.PointAt(len(live.ReadPoints)-1, id); at.LSN > 0 {
				u.reached[id] = at.Point
			}
		}
	}
	return claim.Look(newest, live, first), nil
}

// sameHistory refuses a catalog in which the journal's seat has moved in another way than here:
// then two sites took the journal over at the same time, each with a log of its own.
func (u *Uploader) sameHistory(c *catalog.Catalog) error {
	s, err := c.LoadState()
	if err != nil {
		return err
	}
	ours := u.moves()
	if last := u.o.Journal.LastIndex(); c.End().Index > last {
		return u.errHistory(catalog.Name(c.Number), fmt.Sprintf("it reaches journal index %d, and the journal %d",
			c.End().Index, last))
	}
	if n := len(s.Moves); n > len(ours) || !slices.EqualFunc(s.Moves, ours[:n], claim.SameMove) {
		return u.errHistory(catalog.Name(c.Number), "the journal's seat has moved in another way there than here")
	}
	return nil
}

// sameMoves refuses an object in which the seat moves in another way than it did here.
func (u *Uploader) sameMoves(ctx context.Context, x *segment.Index) error {
	for i := range x.Entries {
		e := &x.Entries[i]
		if e.Kind != segment.CommandEntry || e.Command != state.KindSeatMove {
			continue
		}
		var m state.SeatMove
		err := objstore.Reread(func() error {
			b, err := u.o.Store.Read(ctx, objlog.ObjectName(x.Position), e.Offset, int64(e.Bytes), nil)
			if err != nil {
				return err
			}
			return state.Decode(b, state.KindSeatMove, &m)
		})
		if err != nil {
			return fail.At("read", u.o.Store.URL()+"/"+objlog.ObjectName(x.Position), err)
		}
		if !slices.ContainsFunc(u.moves(), func(o state.SeatMove) bool { return claim.SameMove(m, o) }) {
			return u.errHistory(objlog.ObjectName(x.Position), fmt.Sprintf(
				"the seat moves to site %s there, under epoch %d from journal index %d, and did not here", m.Site,
				m.Epoch, m.First))
		}
	}
	return nil
}

func (u *Uploader) errHistory(name, why string) error {
	return fail.New(fail.Fenced, "claim", u.o.Store.URL()+"/"+name, why).
		WithHint("two sites took this journal over, each with another log: stop one of them, and give this target a " +
			"new, empty prefix")
}

// follows holds what comes next of a stream against where the log has brought it: the chain of
// hashes must go on from there, or the two logs are not of one history.
func (u *Uploader) follows(points map[change.StreamID]change.Point, e *segment.Entry, body []byte) error {
	at, known := points[e.Stream]
	if !e.OfStream() || !known {
		return nil
	}
	prev, err := prevOf(e, body)
	switch {
	case err != nil:
		return err
	case e.FirstLSN == at.LSN+1 && (prev == at.Hash || at.Hash == change.Hash{}):
		return nil
	case e.FirstLSN > at.LSN+1:
		gap := false // which a resync closed
		u.o.Journal.View(func(s *state.State) {
			st := s.Streams[e.Stream]
			gap = st.GapBefore(e.FirstLSN) != nil || st.ForgotGapBefore(e.FirstLSN)
		})
		if gap {
			return nil
		}
	}
	return fail.New(fail.Refused, "fill", "stream "+e.Stream.String(),
		fmt.Sprintf("LSN %d of the other target does not follow this log's LSN %d", e.FirstLSN, at.LSN)).
		WithHint("the two logs are not of one history: give this target a new, empty prefix")
}

// prevOf is the hash of the frame before a frame or a fold.
func prevOf(e *segment.Entry, body []byte) (change.Hash, error) {
	if e.Kind == segment.FoldEntry {
		h, err := segment.ParseFoldHeader(body)
		if err != nil {
			return change.Hash{}, err
		}
		return h.Prev, nil
	}
	h, _, err := change.ParseHeader(body)
	return h.Prev, err
}

// goOn holds all of some pieces against where the log has brought the streams.
func (u *Uploader) goOn(pieces []piece) error {
	points := maps.Clone(u.points)
	for i := range pieces {
		p := &pieces[i]
		for k := range p.entries {
			e := &p.entries[k]
			if err := u.follows(points, e, p.obj[e.Offset:][:e.Bytes]); err != nil {
				return fail.At("read", objlog.ObjectName(p.pos), err)
			}
			if e.OfStream() {
				points[e.Stream] = change.Point{LSN: e.LastLSN, Hash: e.Hash}
			}
		}
	}
	return nil
}
