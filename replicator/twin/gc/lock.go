package gc

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// Locked is what a collection did about Object Lock.
type Locked struct {
	Mode       string    `json:"mode"`
	ForSeconds int64     `json:"for_seconds"`
	Until      time.Time `json:"until"`    // everything that is needed is kept until then at least; zero: not yet
	Extended   int       `json:"extended"` // objects, in this run
	Failed     int       `json:"failed"`
	FailedWhy  string    `json:"failed_why,omitempty"`
}

const (
	// extending is how many requests are under way at once.
	extending = 16
	// maxRounds bounds the rounds that a catalog notes.
	maxRounds = 100
)

// findRule takes the bucket's rule where the options have none.
func (o *CollectOptions) findRule(ctx context.Context, s objstore.Store) error {
	if o.Lock.For > 0 {
		return nil
	}
	rule, err := s.LockRule(ctx)
	if fail.Is(err, fail.Denied) {
		o.Logger.Warn("the bucket's Object Lock rule cannot be read, and dates are not extended", "err", err,
			"hint", "allow these credentials s3:GetBucketObjectLockConfiguration, or give the rule by --object-lock")
		return nil
	}
	o.Lock = rule
	return err
}

// warnUnextended tells when the log's objects carry dates and nobody moves them on.
func (g *collection) warnUnextended(ctx context.Context, c *catalog.Catalog) {
	next := c.End().Position
	if g.o.Lock.For > 0 || next == 0 {
		return
	}
	if is, err := g.store.Lock(ctx, objlog.ObjectName(next-1)); err == nil && is.Mode != "" {
		g.o.Logger.Warn("the log's objects are kept until a date (Object Lock), and gc does not extend it",
			"until", is.Until,
			"hint", "give gc the target's object_lock: --object-lock "+strings.ToLower(is.Mode)+"=TIME")
	}
}

// extend moves the dates of all that is needed, and of garbage in its time of grace,
// once half of the time of the last round is over, and notes the round in c. It reports
// whether it did.
func (g *collection) extend(ctx context.Context, c *catalog.Catalog, all *listed) (bool, error) {
	now, rule := g.o.Now().UTC(), g.o.Lock
	if rule.For <= 0 {
		return false, nil
	}
	rep := &Locked{Mode: rule.Mode, ForSeconds: int64(rule.For / time.Second)}
	g.rep.Locked = rep
	if n := len(c.Locked); n > 0 {
		last := &c.Locked[n-1]
		if rep.Until = last.Until; last.Until.Sub(now) >= rule.For/2 && rule.For >= last.For && rule.Mode == last.Mode {
			return false, nil
		}
	}
	names := slices.Clone(all.stay)
	for name := range all.objects {
		if since, dead := c.Dead[name]; !dead || now.Sub(since) < g.o.Grace {
			names = append(names, name)
		}
	}
	if rep.Extended = len(names); g.o.DryRun {
		return false, nil
	}
	round := catalog.Locked{At: now, Until: now.Add(rule.For).Truncate(time.Second), For: rule.For, Mode: rule.Mode}
	if err := g.extendAll(ctx, names, objstore.Lock{Mode: rule.Mode, Until: round.Until}); err != nil ||
		rep.Failed > 0 {
		return false, err // what was extended is; the next run does the round again
	}
	rep.Until = round.Until
	for len(c.Locked) > 0 && (c.Locked[0].Until.Before(now) || len(c.Locked) >= maxRounds) {
		c.Locked = c.Locked[1:]
	}
	c.Locked = append(c.Locked, round)
	return true, nil
}

func (g *collection) extendAll(ctx context.Context, names []string, to objstore.Lock) error {
	var failed atomic.Int64
	var why atomic.Value
	each, ctx := errgroup.WithContext(ctx)
	each.SetLimit(extending)
	for _, name := range names {
		each.Go(func() error {
			err := g.store.Extend(ctx, name, to)
			switch {
			case err == nil, fail.Is(err, fail.NotFound): // another run has deleted it
				return nil
			case ctx.Err() != nil, fail.Is(err, fail.Retry):
				return err
			}
			failed.Add(1)
			why.Store(err.Error())
			return nil
		})
	}
	err := each.Wait()
	rep := g.rep.Locked
	rep.Failed = int(failed.Load())
	rep.FailedWhy, _ = why.Load().(string)
	rep.Extended = len(names) - rep.Failed
	return err
}

// held reports whether garbage is kept by its date still, as far as can be told without
// asking: it was extended in the last round in which it was needed, or in its time of
// grace, and made with a date of its own.
func (g *collection) held(c *catalog.Catalog, since, made time.Time) bool {
	now := g.o.Now()
	if g.o.Lock.For > 0 && made.Add(g.o.Lock.For).After(now) {
		return true
	}
	for _, r := range slices.Backward(c.Locked) {
		if r.At.Before(since.Add(g.o.Grace)) {
			return r.Until.After(now)
		}
	}
	return false
}
