package gc

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/replicator/objstore"
)

// forgetful is a store of which a list lacks objects that are there, but for catalogs.
type forgetful struct {
	objstore.Store
	r *rand.Rand
}

func (s forgetful) List(ctx context.Context, prefix, after string, fn func(objstore.Info) error) error {
	return s.Store.List(ctx, prefix, after, func(i objstore.Info) error {
		if !strings.HasPrefix(i.Name, "catalog/") && s.r.IntN(4) == 0 {
			return nil
		}
		return fn(i)
	})
}

// TestCollectListIsNoSnapshot: what a list lacks is not missing, and what is known of it
// stays known.
func TestCollectListIsNoSnapshot(t *testing.T) {
	l := retained(t, false)
	whole := l.Store
	packs := 0
	for range 14 {
		l.Random(l.r, 8)
		l.horizon()
		l.Store = forgetful{whole, l.r}
		packs += l.collect().Packs.Objects
		l.Store = whole
		l.check(l.open(), l.promised(nil))
	}
	if packs == 0 {
		t.Error("no pack was made")
	}
}
