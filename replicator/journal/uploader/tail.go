package uploader

import (
	"context"
	"time"

	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/claim"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// tail is when the tail of the log was checked.
//
// A create proves nothing where garbage collection has freed the position: a writer that was
// cut off, or suspended, for long enough finds it free though its successor's fence stood
// there. So what was created counts as durable only within catalog.TailCheck of a look at the
// newest catalog, by the store's clock and by this machine's: beyond, the catalog is looked at
// again, after the create was answered. Garbage collection keeps a fence, and the positions
// before it, for longer than that once a catalog has passed it. TestTailModel goes through
// all orders of events.
type tail struct {
	dates     *objstore.Dates
	sinceBoot func() time.Duration
	checked   bool
	at        time.Duration // of the machine, when the last check began
}

func newTail(dates *objstore.Dates, sinceBoot func() time.Duration) tail {
	if sinceBoot == nil {
		sinceBoot = clock.SinceBoot
	}
	return tail{dates: dates, sinceBoot: sinceBoot}
}

// due reports whether the tail must be checked before more counts as durable.
func (t *tail) due() bool {
	return !t.checked || t.sinceBoot()-t.at > catalog.TailCheck || t.dates.Span() > catalog.TailCheck
}

// checkTail makes sure that no position from the one on up to which the journal knows the
// log can have been freed: it is first, or of a log that was new to the journal its fence.
func (u *Uploader) checkTail(ctx context.Context, first uint64) error {
	c, err := u.newestCatalog(ctx, first)
	if err != nil {
		return err
	}
	if c != nil && c.End.Token.Epoch > u.token.Epoch {
		return fail.At("extend", u.o.Store.URL()+"/"+objlog.ObjectName(first), claim.ErrLost(u.token, c.End.Token))
	}
	if c != nil && c.Passed {
		return fail.New(fail.Fenced, "extend", u.o.Store.URL()+"/"+objlog.ObjectName(first),
			"the newest catalog has passed this position: another writer has gone on behind it").
			WithHint("this journal's state is older than its bucket, or it was replaced elsewhere: " +
				"do not start it again")
	}
	u.tail.checked = true
	return nil
}

// newestCatalog looks into the newest catalog: nil where there is none.
func (u *Uploader) newestCatalog(ctx context.Context, first uint64) (*claim.Catalog, error) {
	u.tail.checked, u.tail.at = false, u.tail.sinceBoot()
	u.tail.dates.Restart() // what is answered from here on counts
	if u.arrives() {
		return u.lookAround(ctx, first)
	}
	id, _, _ := u.o.Journal.ID()
	return claim.NewestCatalog(ctx, u.o.Store, id, first)
}
