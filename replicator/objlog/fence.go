package objlog

import (
	"context"
	"encoding/json"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
)

// ReadFence reads what the fence at a position says. Errors: fail.NotFound where no object is there,
// fail.Damaged where it is no fence, or is not what was written.
func ReadFence(ctx context.Context, s objstore.Store, position uint64) (*state.Fence, error) {
	name := ObjectName(position)
	doc := &state.Fence{}
	err := objstore.Reread(func() error {
		raw, err := objstore.ReadWhole(ctx, s, name, segment.MaxObjectBytes)
		if err != nil {
			return err
		}
		seen := false
		_, err = segment.Walk(raw, func(_ int, c segment.Checked) {
			if c.Err == nil && c.Command == state.KindFence {
				seen = json.Unmarshal(c.JSON, doc) == nil
			}
		})
		if err == nil && !seen {
			err = fail.New(fail.Damaged, "read", "fence", "it has no document")
		}
		return fail.At("read", s.URL()+"/"+name, err)
	})
	return doc, err
}
