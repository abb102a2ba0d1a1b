package gc

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
)

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// anyDue reports whether there is something to delete that the catalog before the
// newest may refer to. Then one more is made first: should it be lost, the one before
// it knows what is gone.
func (g *collection) anyDue(old *catalog.Catalog, dead map[string]time.Time, all *listed, now time.Time) bool {
	for name, since := range dead {
		if _, known := old.Dead[name]; known && now.Sub(since) >= g.o.Grace && !strings.HasPrefix(name, "catalog/") &&
			!g.held(old, since, all.objects[name].Modified) {
			return true
		}
	}
	return false
}

// deleting is how many objects are deleted at once: over a link of 100 ms some 300 a
// second, which is more than journals make.
const deleting = 32

// delete removes what the catalog before this run knew as garbage for the time of
// grace, and what still is.
func (g *collection) delete(parent context.Context, old, c *catalog.Catalog, all *listed, now time.Time) error {
	var mu sync.Mutex // of the report
	each, ctx := errgroup.WithContext(parent)
	each.SetLimit(deleting)
	for _, name := range slices.Sorted(maps.Keys(all.objects)) {
		object := all.objects[name]
		since, ok := c.Dead[name]
		if !ok {
			continue
		}
		if _, known := old.Dead[name]; !known {
			continue // the next run knows since when
		}
		due, why := now.Sub(since) >= g.o.Grace, whyOf(name)
		held := due && g.held(c, since, object.Modified)
		if held {
			why += "; held by Object Lock"
		}
		g.rep.Names = append(g.rep.Names, Garbage{name, object.Bytes, why, since, due && !held})
		count := func(a *Amount) {
			mu.Lock()
			a.add(object.Bytes)
			mu.Unlock()
		}
		switch {
		case held:
			count(&g.rep.Held)
		case !due:
			count(&g.rep.Waiting)
		case g.o.DryRun:
			count(&g.rep.Deleted)
		case ctx.Err() == nil:
			each.Go(func() error {
				to, why, err := g.deleteOne(ctx, name)
				if err != nil {
					return err
				}
				count(to)
				if why != nil {
					mu.Lock()
					g.rep.FailedWhy = why.Error()
					mu.Unlock()
				}
				return nil
			})
		}
	}
	if err := each.Wait(); err != nil {
		return err
	}
	return parent.Err()
}

// deleteOne returns what of the report counts the object, and why it could not be deleted;
// an error ends the run.
func (g *collection) deleteOne(ctx context.Context, name string) (to *Amount, why, err error) {
	err = g.store.Delete(ctx, name)
	if err == nil {
		return &g.rep.Deleted, nil, nil
	}
	if ctx.Err() != nil || fail.Is(err, fail.Retry) { // the others would wait as long
		return nil, nil, err
	}
	if is, lerr := g.store.Lock(ctx, name); lerr == nil && is.Until.After(g.o.Now()) {
		return &g.rep.Held, nil, nil
	}
	return &g.rep.Failed, err, nil
}

// clockSlack is how far gc's clock may be ahead of when the journal last wrote, a
// heartbeat at least, before it counts as wrong.
const clockSlack = time.Hour

func whyOf(name string) string {
	switch {
	case strings.HasPrefix(name, "log/"):
		return "no point that is kept needs anything of it"
	case strings.HasPrefix(name, "map/"):
		return "no catalog refers to it"
	case strings.HasPrefix(name, "pack/"):
		return "nothing in it is needed, or it was moved"
	}
	return "a newer catalog replaces it"
}
