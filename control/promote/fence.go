package promote

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/claim"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/state"
)

// fence makes the log ours: from here on nothing that the former seat writes counts. What it wrote
// until then is taken along, so the log is read again up to the fence.
func (r *run) fence(ctx context.Context) error {
	if r.intent.Fence != nil {
		return r.reread(ctx)
	}
	end := &r.found.end
	c := r.intent.claim(claim.Place{Position: end.Position, Next: end.Index + 1, Token: end.Token})
	for c.Step() != claim.Done {
		err := r.claimStep(ctx, &c)
		if errors.Is(err, claim.ErrRolledBack) {
			return errors.Join(err, r.forget())
		}
		if err != nil {
			return r.explainLoss(err)
		}
	}
	if r.intent.HandOver == nil { // else the seat has named this site, clients wait, and the agent finds out
		if err := r.alone(ctx); err != nil {
			return r.explainLoss(err)
		}
	}
	r.intent.Fence = &fenced{Position: c.Place().Position - 1, Next: c.Place().Next, At: clock.Now().UTC()}
	if err := r.reread(ctx); err != nil {
		return err
	}
	points, err := r.branches(ctx)
	if err != nil {
		return err
	}
	r.intent.Points = points
	return r.saveIntent()
}

// alone refuses to go on where another site has taken the journal over at the same time, with another
// target's log. Each has fenced its own before it looks at the others', so that at least one of them
// sees the other, and gives up; two that look at the same moment both do. A target that does not answer
// cannot tell.
func (r *run) alone(ctx context.Context) error {
	others := slices.DeleteFunc(slices.Clone(r.conf.Journal.Targets), func(t config.Target) bool {
		return t.Name == r.intent.Target || t.Site == r.intent.FromSite
	})
	return Rival(ctx, others, r.Open, r.intent.Journal, r.intent.Token.Epoch)
}

// rivalLimit is how long other targets have to say whether another site fenced them.
const rivalLimit = 5 * time.Second

// Rival is the error of targets of which one was fenced under an epoch, or a later one, by whoever took the
// journal over: fail.Fenced. Those that do not answer in time cannot tell.
func Rival(ctx context.Context, targets []config.Target, open Opener, journal uuid.UUID, epoch uint64) error {
	ctx, cancel := context.WithTimeout(ctx, rivalLimit)
	defer cancel()
	looks := make([]*look, 0, len(targets))
	var wg sync.WaitGroup
	for _, t := range targets {
		l := newLook(t)
		defer func() { l.close() }()
		looks = append(looks, l)
		wg.Go(func() { l.open(ctx, open, nil) })
	}
	wg.Wait()
	for _, l := range looks {
		if l.err == nil && l.log.Identity.Journal == journal && l.log.Epoch >= epoch {
			return fail.New(fail.Fenced, "take", l.store.URL(), fmt.Sprintf("another site has fenced it under epoch %d",
				l.log.Epoch))
		}
	}
	return nil
}

// claimStep carries out one step of the claim.
func (r *run) claimStep(ctx context.Context, c *claim.Claim) error {
	store, at := r.found.store, c.Place()
	switch c.Step() {
	case claim.Read:
		x, err := objlog.ReadIndex(ctx, store, at.Position)
		if fail.Is(err, fail.NotFound) {
			return c.Absent()
		}
		if err == nil {
			dead, counts := r.found.log.State.DeadFrom(x.Token.Epoch), false
			if counts, err = c.Found(claim.Of(x), dead); counts {
				x = c.Counted(x)
				r.found.follow(&x.Head, x.Entries)
			}
		}
		return fail.At("claim", store.URL()+"/"+objlog.ObjectName(at.Position), err)
	case claim.Create:
		points, err := r.upTo(ctx, at)
		if err != nil {
			return err
		}
		err = store.Create(ctx, objlog.ObjectName(at.Position), r.fenceObject(at, points))
		if fail.Is(err, fail.Exists) {
			c.Refused()
			return nil
		}
		if err == nil {
			c.Created()
		}
		return err
	default:
		k, err := claim.NewestCatalog(ctx, store, r.intent.Journal, c.Began())
		if err == nil {
			err = c.Catalog(k)
		}
		return err
	}
}

// ahead is how far the walk has followed the log behind what was read of it.
type ahead struct {
	next   uint64 // journal index; 0: what followed has to be read like all of the log
	points map[change.StreamID]change.Point
}

// follow takes the frames of an object into account that the log got since it was read. A former seat
// that is not lost may extend it faster than all of it can be read again, and again.
func (f *found) follow(h *segment.Head, entries []segment.Entry) {
	last := f.end.Index
	if a := f.ahead; a != nil {
		last = a.next - 1
	}
	switch {
	case h.LastIndex <= f.end.Index || f.ahead != nil && f.ahead.next == 0:
		return
	case f.ahead == nil:
		f.ahead = &ahead{points: f.points()}
	}
	f.ahead.next = 0
	if h.FirstIndex != last+1 {
		return
	}
	for i := range entries {
		e := &entries[i]
		if !e.OfStream() { // a command, which may change where a stream is
			return
		}
		if e.LastLSN > f.ahead.points[e.Stream].LSN {
			f.ahead.points[e.Stream] = change.Point{LSN: e.LastLSN, Hash: e.Hash}
		}
	}
	f.ahead.next = h.LastIndex + 1
}

// upTo returns where the streams are as far as the fence is going to stand. What was not followed up
// to there is read again.
func (r *run) upTo(ctx context.Context, at claim.Place) (map[change.StreamID]change.Point, error) {
	f := r.found
	if f.end.Position == at.Position && f.end.Index+1 == at.Next {
		return f.points(), nil
	}
	if f.ahead != nil && f.ahead.next == at.Next {
		return f.ahead.points, nil
	}
	if err := r.readAgain(ctx, at.Position); err != nil {
		return nil, err
	}
	if f.end.Index+1 < at.Next {
		return nil, fail.New(fail.Retry, "read", f.store.URL(), fmt.Sprintf("it ends at journal index %d, and was "+
			"seen to reach %d", f.end.Index, at.Next-1))
	}
	return f.points(), nil
}

func (r *run) fenceObject(at claim.Place, points map[change.StreamID]change.Point) []byte {
	doc := state.Fence{NextIndex: at.Next, Streams: points, Site: r.intent.Site,
		Reason: fmt.Sprintf("%s failover from %s to %s", r.intent.how(), r.intent.FromSite, r.intent.Site)}
	return segment.Document(segment.Head{Type: segment.Fence, Journal: r.intent.Journal, Token: r.intent.Token,
		ChecksTail: true, Position: at.Position, DurablePosition: at.Position, FirstIndex: at.Next,
		Time: clock.Now().UnixNano()}, state.KindFence, doc)
}

// readAgain reads what the log got since it was read, up to a position that it is known to reach.
func (r *run) readAgain(ctx context.Context, to uint64) error {
	if ok, err := r.found.log.Extend(ctx, to); err == nil && ok && r.found.log.End >= to {
		r.found.end, r.found.ahead = r.found.log.ReadPoint(clock.Now()), nil
		return nil
	}
	l := newLook(r.found.target)
	l.open(ctx, r.Open, r.Cache)
	r.found.closers = append(r.found.closers, l.close)
	if l.err == nil {
		r.found.take(l)
	}
	return l.err
}

// reread reads the log with the fence, and makes sure that it counts.
func (r *run) reread(ctx context.Context) error {
	if err := r.readAgain(ctx, r.intent.Fence.Position+1); err != nil {
		return err
	}
	f, at := r.found, r.intent.Fence.place()
	if f.end.Position < at.Position || f.log.Epoch < r.intent.Token.Epoch {
		return fail.New(fail.Retry, "read", f.store.URL(), fmt.Sprintf("the fence at position %d is not to be seen yet",
			r.intent.Fence.Position)).WithHint("repeat the verb: it goes on from here")
	}
	if f.log.Epoch > r.intent.Token.Epoch {
		return r.explainLoss(fail.New(fail.Fenced, "take", f.store.URL(), fmt.Sprintf("it went on under epoch %d",
			f.log.Epoch)))
	}
	if f.end.Token != r.intent.Token { // a rival of our epoch, with another log, has brought this one in line
		return r.explainLoss(claim.ErrLost(r.intent.Token, f.end.Token))
	}
	return nil
}

// explainLoss says what a lost race means here.
func (r *run) explainLoss(err error) error {
	if !fail.Is(err, fail.Fenced) {
		return err
	}
	name := "journal " + api.JournalName(r.intent.Journal)
	return (&fail.Error{Kind: fail.Fenced, Op: "fail over", Object: name, Err: err}).
		WithHint("another site has taken the journal over, and this one has changed nothing that counts: look at the " +
			"log with pollux doctor --store " + r.found.store.URL() + ", and move " + r.conf.State + " away here")
}
