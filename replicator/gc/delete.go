package gc

import (
	"context"
	"strings"
	"time"

	"github.com/pollux-dr/pollux/replicator/catalog"
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
		if _, known := old.Dead[name]; known && now.Sub(since) >= g.o.Grace && !strings.HasPrefix(name, "catalog/") && !g.held(old, since, all.objects[name].Modified) {
			return true
		}
	}
	return false
}

// delete removes what the catalog before this run knew as garbage for the time of
// grace, and what still is.
func (g *collection) delete(ctx context.Context, old, c *catalog.Catalog, all *listed, now time.Time) error {
	for name, object := range all.objects {
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
		switch {
		case held:
			g.rep.Held.add(object.Bytes)
		case !due:
			g.rep.Waiting.add(object.Bytes)
		case g.o.DryRun:
			g.rep.Deleted.add(object.Bytes)
		default:
			if err := g.deleteOne(ctx, name, object.Bytes); err != nil {
				return err
			}
		}
	}
	return nil
}

// deleteOne counts what became of it; an error ends the run.
func (g *collection) deleteOne(ctx context.Context, name string, bytes int64) error {
	err := g.store.Delete(ctx, name)
	if err == nil {
		g.rep.Deleted.add(bytes)
		return nil
	}
	if ctx.Err() != nil {
		return err
	}
	if is, lerr := g.store.Lock(ctx, name); lerr == nil && is.Until.After(g.o.Now()) {
		g.rep.Held.add(bytes)
		return nil
	}
	g.rep.Failed.add(bytes)
	g.rep.FailedWhy = err.Error()
	return nil
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
