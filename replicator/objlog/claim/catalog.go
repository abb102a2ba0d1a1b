package claim

import (
	"context"
	"slices"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
)

// NewestCatalog is what the newest catalog of a journal's log says to a walk that began at a
// position; nil where there is none. Errors are catalog.Newest's.
func NewestCatalog(ctx context.Context, s objstore.Store, journal uuid.UUID, began uint64) (*Catalog, error) {
	c, err := catalog.Newest(ctx, s, journal)
	if c == nil || err != nil {
		return nil, err
	}
	return Look(c, c, began), nil
}

// Look is what a log's newest catalog, and the newest of them that covers no dead branch, say to
// a walk that began at a position; live is nil where there is none, and newest too where there
// is no catalog at all.
func Look(newest, live *catalog.Catalog, began uint64) *Catalog {
	if newest == nil {
		return nil
	}
	k := &Catalog{End: Place{Position: 1, Next: 1}, Passed: newest.Passed(began)}
	if live != nil {
		end := live.End()
		k.End = Place{Position: end.Position, Next: end.Index + 1, Token: end.Token}
	}
	k.Freed = live != newest && newest.Passed(k.End.Position)
	return k
}

// Dead reports whether a catalog covers a part of a dead branch. deadFrom is the journal index
// from which on what an epoch wrote is one, 0 where none is: state.State has it.
func Dead(c *catalog.Catalog, deadFrom func(epoch uint64) uint64) bool {
	end := c.End()
	from := deadFrom(end.Token.Epoch)
	return from > 0 && end.Index >= from
}

// Strays reports whether a catalog that ends at a journal index is of another history than a journal's: of
// the moves of its seat it lacks one that lies within, or has another. A site that took the log over
// under the journal's own epoch, and gave that up, leaves such: by its token it is no dead branch.
func Strays(end uint64, theirs, ours []state.SeatMove) bool {
	within := slices.Clone(ours)
	within = slices.DeleteFunc(within, func(m state.SeatMove) bool { return m.First > end })
	return !slices.EqualFunc(theirs, within, SameMove)
}

// SameMove reports whether two logs tell of one move of the seat.
func SameMove(a, b state.SeatMove) bool {
	return a.From == b.From && a.Epoch == b.Epoch && a.Site == b.Site && a.First == b.First && a.Time.Equal(b.Time)
}
