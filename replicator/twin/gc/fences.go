package gc

import (
	"slices"
	"time"

	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
)

// settleFences takes off the catalog the fences that nobody can pass by any more: those that
// an earlier catalog, old, has passed for catalog.FenceGrace, with all that the fenced writer
// may have created behind them, where that writer checks its tail. What they kept becomes
// garbage. Time is the store's: it is later than its newest object. Neither the store's clock
// nor ours is believed where it is ahead of the other.
func settleFences(old, c *catalog.Catalog, all *listed, ours time.Time) (changed bool) {
	made := all.objects[catalog.Name(old.Number)].Modified // zero: it was not listed
	now := earlier(all.newest, ours.Add(clockSlack))
	seen := later(made, earlier(ours, all.newest.Add(clockSlack))) // old was there by then
	c.Fences = slices.DeleteFunc(c.Fences, func(f catalog.Fence) bool {
		settled := f.ChecksTail && !f.Passed.IsZero() && now.Sub(f.Passed) >= catalog.FenceGrace
		changed = changed || settled
		return settled
	})
	for i := range c.Fences {
		if f := &c.Fences[i]; f.ChecksTail && f.Passed.IsZero() && !made.IsZero() &&
			old.Passed(f.Position+segment.MaxInFlight) {
			f.Passed, changed = seen, true
		}
	}
	return changed
}
