package claim

import (
	"context"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// NewestCatalog is what the newest catalog of a journal's log says to a walk that began at a
// position; nil where there is none. Errors are catalog.Newest's.
func NewestCatalog(ctx context.Context, s objstore.Store, journal uuid.UUID, began uint64) (*Catalog, error) {
	c, err := catalog.Newest(ctx, s, journal)
	if c == nil || err != nil {
		return nil, err
	}
	end := c.End()
	return &Catalog{End: Place{Position: end.Position, Next: end.Index + 1, Token: end.Token},
		Passed: c.Passed(began)}, nil
}
