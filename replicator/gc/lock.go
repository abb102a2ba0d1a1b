package gc

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/catalog"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/uploader"
)

// Locked is what a collection did about Object Lock. Its rule is that of the log's
// newest object: as the uploader, or the bucket, has it kept.
type Locked struct {
	Mode       string    `json:"mode"`
	ForSeconds int64     `json:"for_seconds"` // behind an object's creation
	Until      time.Time `json:"until"`       // everything that is needed is kept until then at least
	Extended   int       `json:"extended"`    // objects, in this run
	Failed     int       `json:"failed"`
	FailedWhy  string    `json:"failed_why,omitempty"`
}

// extending is how many requests are under way at once.
const extending = 16

// keeper keeps what is needed from deletion, where the bucket has Object Lock.
type keeper struct {
	store  objstore.Store
	rule   objstore.LockRule // zero: nothing is kept
	newest string            // object of the log
	now    func() time.Time
}

// newKeeper finds the rule. Credentials that may not ask for it are told of, and do
// without.
func newKeeper(ctx context.Context, s objstore.Store, l *twin.Log, o *Options) (*keeper, error) {
	k := &keeper{store: s, now: o.Now}
	next := l.Mark(o.Now()).Position
	if next == 0 {
		return k, nil
	}
	k.newest = uploader.ObjectName(next - 1)
	is, err := s.Lock(ctx, k.newest)
	if fail.Is(err, fail.Denied) {
		o.Logger.Warn("retention dates cannot be read, and are not extended", "err", err, "hint", "allow gc's credentials s3:GetObjectRetention and s3:GetBucketObjectLockConfiguration")
		return k, nil
	}
	if err != nil {
		return nil, err
	}
	k.rule = objstore.LockRule{Mode: is.Mode, For: is.For().Round(time.Minute)}
	if l.Catalog != nil && k.keeps() {
		if n := len(l.Catalog.Locked); n > 0 && is.Created.Before(l.Catalog.Locked[n-1].At.Add(clockSlack)) {
			k.rule.For = l.Catalog.Locked[n-1].For // a round may have moved its date
		}
	}
	return k, nil
}

func (k *keeper) keeps() bool { return k.rule.For > 0 }

// until is the date of what is kept now. Dates have seconds.
func (k *keeper) until() time.Time { return k.now().UTC().Add(k.rule.For).Truncate(time.Second) }

func (k *keeper) extend(ctx context.Context, name string) error {
	return k.store.Extend(ctx, name, objstore.Lock{Mode: k.rule.Mode, Until: k.until()})
}

// ensure keeps an object that was made just now, if the bucket has not done so.
func (k *keeper) ensure(ctx context.Context, name string) error {
	if !k.keeps() {
		return nil
	}
	is, err := k.store.Lock(ctx, name)
	if err == nil && is.Until.Before(k.until().Add(-k.rule.For/8)) {
		err = k.extend(ctx, name)
	}
	return err
}

// kept is a store whose new objects are kept as the log's are: the uploader asks for
// its own, and the bucket need not have a rule.
type kept struct {
	objstore.Store
	k *keeper
}

func (s kept) Create(ctx context.Context, name string, body []byte) error {
	err := s.Store.Create(ctx, name, body)
	if err == nil {
		err = s.k.ensure(ctx, name)
	}
	return err
}

// extend moves the dates of all that is needed, once half of the time of the last
// round is over, and notes the round in c. It reports whether it did.
func (g *collection) extend(ctx context.Context, c *catalog.Catalog, all *listed) (bool, error) {
	now, k, n := g.o.Now().UTC(), g.keeper, len(c.Locked)
	if !k.keeps() {
		return false, nil
	}
	rep := &Locked{Mode: k.rule.Mode, ForSeconds: int64(k.rule.For / time.Second)}
	g.rep.Locked = rep
	if n > 0 {
		last := &c.Locked[n-1]
		if rep.Until = last.Until; last.Until.Sub(now) >= k.rule.For/2 && k.rule.For >= last.For-clockSlack {
			if g.o.DryRun {
				return false, nil
			}
			return false, k.ensure(ctx, catalog.Name(g.log.Catalog.Number)) // its run may have ended before
		}
	}
	names := slices.Clone(all.stay)
	for name := range all.bytes {
		if _, dead := c.Dead[name]; !dead {
			names = append(names, name)
		}
	}
	names = slices.DeleteFunc(names, func(name string) bool { return name == k.newest })
	if rep.Extended = len(names) + 1; g.o.DryRun {
		return false, nil
	}
	round := catalog.Locked{At: now, Until: k.until(), For: k.rule.For}
	err := k.extendAll(ctx, names, rep)
	if err == nil && rep.Failed == 0 {
		err = k.extendAll(ctx, []string{k.newest}, rep) // last: until then the rule is read from it
	}
	if err != nil || rep.Failed > 0 {
		return false, err // what was extended is; the next run does the round again
	}
	rep.Extended, rep.Until = len(names)+1, round.Until
	c.Locked = append(slices.DeleteFunc(c.Locked, func(r catalog.Locked) bool { return r.Until.Before(now) }), round)
	return true, nil
}

func (k *keeper) extendAll(ctx context.Context, names []string, rep *Locked) error {
	var failed atomic.Int64
	var why atomic.Value
	each, ctx := errgroup.WithContext(ctx)
	each.SetLimit(extending)
	for _, name := range names {
		each.Go(func() error {
			err := k.extend(ctx, name)
			if err != nil && ctx.Err() == nil && !fail.Is(err, fail.Retry) {
				failed.Add(1)
				why.Store(err.Error())
				return nil
			}
			return err
		})
	}
	err := each.Wait()
	rep.Failed = int(failed.Load())
	rep.FailedWhy, _ = why.Load().(string)
	rep.Extended = len(names) - rep.Failed
	return err
}

// lockedUntil is the earliest date of what has been garbage since then: it was needed
// in all rounds before, and made before them or with a date of its own.
func lockedUntil(c *catalog.Catalog, since time.Time) time.Time {
	for _, r := range slices.Backward(c.Locked) {
		if r.At.Before(since) {
			return r.Until
		}
	}
	return time.Time{}
}
