package gc

import (
	"slices"
	"time"

	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
)

// settleFences takes off the catalog the fences that nobody can pass by any more: those that
// an earlier catalog, old, has passed for catalog.FenceGrace, where the writer that was fenced
// checks its tail. What they kept becomes garbage. Time is the store's: it is later than its
// newest object. A store whose clock has jumped ahead is not believed beyond ours.
func settleFences(old, c *catalog.Catalog, all *listed, now time.Time) (changed bool) {
	made := all.objects[catalog.Name(old.Number)].Modified // zero: it was not listed
	now = earlier(all.newest, now.Add(clockSlack))
	c.Fences = slices.DeleteFunc(c.Fences, func(f catalog.Fence) bool {
		settled := f.ChecksTail && !f.Passed.IsZero() && now.Sub(f.Passed) >= catalog.FenceGrace
		changed = changed || settled
		return settled
	})
	for i := range c.Fences {
		if f := &c.Fences[i]; f.ChecksTail && f.Passed.IsZero() && !made.IsZero() && old.Passed(f.Position) {
			f.Passed, changed = later(made, old.Created), true
		}
	}
	return changed
}
