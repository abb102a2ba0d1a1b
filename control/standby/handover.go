package standby

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/promote"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/standby"
)

// The other side of a planned hand-over: the log asks the sites' standbys, the first one that has
// all of the journal answers beside the log that it follows, and takes the hand-over up once the log
// names it.

// nearLimit is for how long a standby that follows tries to see the end of the log before it answers: what
// it has not read when I/O waits, clients wait for.
const nearLimit = 5 * time.Second

// watchHandOver answers and takes up hand-overs to this site, until the context ends.
func (d *Daemon) watchHandOver(ctx context.Context) {
	answered, taken := map[uuid.UUID]bool{}, map[uuid.UUID]bool{}
	ours := map[uuid.UUID]bool{} // the answer beside the log is known to be this host's
	since := map[uuid.UUID]time.Time{}
	for {
		changed := d.engine.Changed()
		var again <-chan time.Time
		h := d.engine.Handing()
		if h == nil {
			d.setRead(nil) // of one that has ended: it takes memory
		}
		if h != nil && h.To == d.conf.Site {
			switch {
			case h.Phase == state.HandOverPrepare && !answered[h.ID] && (h.Following || len(h.Unwanted) > 0):
				if since[h.ID].IsZero() {
					since[h.ID] = time.Now()
				}
				if h.Following && !h.AtEnd && time.Since(since[h.ID]) < nearLimit {
					again = time.After(nearLimit / 10)
					break
				}
				err := d.answer(ctx, h)
				answered[h.ID], ours[h.ID] = err == nil || fail.Is(err, fail.Exists), err == nil
				d.log.Info("a hand-over to this site was answered", "id", h.ID, "err", err)
			case h.Phase == state.HandOverHand && h.Host == d.conf.Name && !taken[h.ID]:
				taken[h.ID] = true
				go d.takeUp(h, ours[h.ID]) // not a part of this daemon, which ends by it
			}
		}
		select {
		case <-changed:
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

// answer says beside the log whether this host can take a hand-over up.
func (d *Daemon) answer(ctx context.Context, h *standby.Handing) error {
	r := state.Ready{ID: h.ID, Site: d.conf.Site, Host: d.conf.Name, Index: h.At.Next - 1, Time: clock.Now().UTC()}
	if len(h.Unwanted) > 0 {
		r.Refusal = fmt.Sprintf("it does not follow %s", strings.Join(h.Unwanted[:min(len(h.Unwanted), 8)], ", "))
	}
	s, err := d.makeReady(ctx)
	if err != nil {
		return err
	}
	if err := d.rival(ctx, h.From+1); err != nil && r.Refusal == "" {
		r.Refusal = text.ShortLine(fail.Explain(err), maxRefusal)
	}
	return objlog.WriteReady(ctx, s, r)
}

const maxRefusal = 400

// rival looks at the other targets for a site that has taken the journal over by force, with a log that the
// seat may not reach. It is done before anybody waits: nothing is asked of them behind the fence.
func (d *Daemon) rival(ctx context.Context, epoch uint64) error {
	journal, err := uuid.Parse(d.engine.Status().Journal)
	if err != nil {
		return fail.Wrap(fail.Internal, "look for", "another seat", err)
	}
	others := slices.DeleteFunc(slices.Clone(d.conf.Journal.Targets), func(t config.Target) bool {
		return t.Name == d.target.Name
	})
	return promote.Rival(ctx, others, d.opener(0), journal, epoch)
}

// makeReady does beforehand what would keep clients waiting: the store is connected to, and the log
// read as far as it goes by now.
func (d *Daemon) makeReady(ctx context.Context) (s objstore.Store, err error) {
	s, cache := d.atHand()
	if s == nil {
		dir := filepath.Join(promote.StandbyDir(d.conf.State), "read")
		if cache, err = twin.NewCache(dir, twin.CacheBytes); err != nil {
			return nil, err
		}
		if s, _, err = d.opener(0)(ctx, d.target); err != nil {
			return nil, err
		}
		d.mu.Lock()
		d.writer, d.cache = s, cache
		d.mu.Unlock()
	}
	l, err := twin.Open(ctx, s, &twin.Reading{Cache: cache})
	d.setRead(l)
	return s, err
}

// setRead keeps the log as it was read beforehand; nil is none.
func (d *Daemon) setRead(l *twin.Log) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.read = l
}

// takeRead gives that away: it is read on by whoever has it.
func (d *Daemon) takeRead() (l *twin.Log) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l, d.read = d.read, nil
	return l
}

// atHand is what makeReady has made.
func (d *Daemon) atHand() (objstore.Store, *twin.Cache) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.writer, d.cache
}

// openerFor is opener, which for a hand-over takes the store that is connected to.
func (d *Daemon) openerFor(h *promote.HandOver, limit time.Duration) func(context.Context, config.Target) (
	objstore.Store, func(), error) {
	open := d.opener(limit)
	s, _ := d.atHand()
	if h == nil || s == nil {
		return open
	}
	return func(ctx context.Context, t config.Target) (objstore.Store, func(), error) {
		if t.Name == d.target.Name {
			return s, func() {}, nil
		}
		return open(ctx, t)
	}
}

// takeUp becomes the agent of a journal that was handed over to this host. What passes is waited out: once
// the fence stands, which may be though nothing was heard of it, nobody else can serve the journal. ours:
// the answer that was beside the log is known to be.
func (d *Daemon) takeUp(h *standby.Handing, ours bool) {
	for d.takeTurn(d.verbs) {
		err := d.tryTakeUp(h, ours)
		<-d.turn
		if err != nil {
			d.log.Error("a hand-over is not taken up", "id", h.ID, "err", err, "hint", fail.HintOf(err))
		}
		if !fail.Is(err, fail.Retry) {
			return
		}
		select {
		case <-time.After(takeUpWait):
		case <-d.verbs.Done():
		}
	}
}

// takeUpWait is between two attempts.
const takeUpWait = time.Second

// tryTakeUp is one of them. Called with the turn.
func (d *Daemon) tryTakeUp(h *standby.Handing, ours bool) error {
	// The answer lies beside the log that decides: this is the one where it is ours.
	if !ours {
		r, err := objlog.ReadReady(d.verbs, d.store, h.ID)
		if err == nil && r.Host != d.conf.Name {
			err = fail.New(fail.Refused, "take over", "journal", "host "+r.Host+" has answered, and not this one")
		}
		if err != nil {
			return err
		}
	}
	_, err := d.failOver(api.Failover{Target: d.target.Name, By: "hand-over " + h.ID.String()},
		&promote.HandOver{ID: h.ID, From: h.From, Index: h.At.Next - 1, At: h.At, Back: h.Back}, func(string) {})
	return err
}
