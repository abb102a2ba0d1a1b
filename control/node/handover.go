package node

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
)

// The seat's side of a planned hand-over. The log says how far it is: prepare, hand, and then
// either the fence of the site that takes it up or the seat's own back. Whoever creates the log's
// next object decides; no clock does.

const (
	defaultHandOverLimit = 30 * time.Second
	defaultReadyWait     = 30 * time.Second
	// maxDrain bounds for how long I/O waits before the journal is handed over.
	maxDrain = 20 * time.Second
	// handOverPoll is how often the store is looked at for an answer.
	handOverPoll = 50 * time.Millisecond
)

// handing is one hand-over under way.
type handing struct {
	*Daemon
	r    state.HandOver
	back *state.WayBack // it goes back to the point of this one; else nil
	by   string
	logs []config.Target  // of which one decides: the one that the other site's standby follows
	open []objstore.Store // theirs; nil where it cannot be opened
	// target is the one that decides, and store its store: the first of logs until one answers.
	target config.Target
	store  objstore.Store
	park   *agent.Parking
	index  uint64 // of the entry that hands over
}

// HandOver moves the journal to another site, in order: I/O waits, all that was acknowledged is
// brought into the log that the other site follows, and it goes on there. Where it is not taken up
// in time it is taken back, and I/O goes on here. It goes on when the caller leaves.
func (d service) HandOver(ctx context.Context, r api.HandOver) (out api.HandOverReport, err error) {
	if err := d.lockVerbs(ctx, "hand over", "journal"); err != nil {
		return out, err
	}
	if done := d.handedOverTo(r.To); done != nil {
		d.endTurn()
		return *done, nil
	}
	h, err := d.mayHandOver(&r)
	if err != nil || r.DryRun {
		d.endTurn()
		if h != nil {
			out = h.report("dry run")
		}
		return out, err
	}
	return h.start(ctx, seconds(r.WaitSeconds, defaultReadyWait))
}

// start runs a hand-over to its end, and gives up the turn then, even where the caller leaves.
func (h *handing) start(ctx context.Context, wait time.Duration) (out api.HandOverReport, err error) {
	done := make(chan struct{})
	h.wg.Go(func() {
		defer h.endTurn()
		defer close(done)
		out, err = h.run(h.handing, wait)
	})
	select {
	case <-done:
		return out, err
	case <-ctx.Done():
		return api.HandOverReport{}, fail.Wrap(fail.Retry, "hand over to", h.r.To, ctx.Err())
	}
}

func seconds(s float64, otherwise time.Duration) time.Duration {
	if s == 0 {
		return otherwise
	}
	return time.Duration(s * float64(time.Second))
}

// mayHandOver refuses what cannot work, before anything is changed.
func (d service) mayHandOver(r *api.HandOver) (*handing, error) {
	no := func(kind fail.Kind, why, hint string) (*handing, error) {
		return nil, fail.New(kind, "hand over to", r.To, why).WithHint(hint)
	}
	if err := d.maySeat("hand over to", r.To); err != nil {
		return nil, err
	}
	if err := state.CheckName("site", r.To); err != nil {
		return nil, err
	}
	if !d.journal.Alone() {
		return no(fail.Refused, "the journal has other members, or is on other hosts",
			"only an embedded journal can be handed over so far: stop its writers, and use pollux failover "+
				"--force there")
	}
	_, epoch, _ := d.journal.ID()
	h := &handing{Daemon: d.Daemon, by: r.By, r: state.HandOver{ID: uuid.New(), From: epoch, To: r.To,
		LimitSeconds: seconds(r.LimitSeconds, defaultHandOverLimit).Seconds()}}
	level, seat := 0, state.Seat{}
	d.journal.View(func(s *state.State) { level, seat = s.Level, s.Seat })
	switch {
	case level < state.LevelOf(state.KindHandOver):
		return no(fail.Refused, fmt.Sprintf("the journal's feature level is %d", level), "restart its agent once")
	case seat.Site == r.To:
		return no(fail.Exists, "the journal has its seat there", "name the other site")
	case r.LimitSeconds < 0 || r.LimitSeconds > 3600 || r.WaitSeconds < 0 || r.WaitSeconds > 3600:
		return no(fail.Invalid, "a limit of less than nothing, or of more than an hour", "--limit 30s, say")
	}
	if err := h.choose(); err != nil {
		return nil, err
	}
	if name, is := d.notReplicating(); name != "" {
		return no(fail.Refused, "group "+name+" is "+is, "a hand-over takes all of a journal's groups, and those "+
			"replicate: mend it, or use pollux failover --force")
	}
	return h, nil
}

// report is of the hand-over, as far as it is.
func (h *handing) report(outcome string) api.HandOverReport {
	return api.HandOverReport{ID: h.r.ID.String(), To: h.r.To, Host: h.r.Host, Target: h.r.Target, Epoch: h.r.From,
		LimitSeconds: h.r.LimitSeconds, Index: h.index, Outcome: outcome}
}

func (h *handing) run(ctx context.Context, wait time.Duration) (out api.HandOverReport, err error) {
	defer h.closeLogs()
	if err := h.openLogs(ctx); err != nil {
		return out, err
	}
	if err := h.propose(state.HandOverPrepare, ""); err != nil {
		return out, err
	}
	if err := h.sayRollBack(); err != nil {
		return h.cancel(ctx, err)
	}
	if err := h.awaitReady(ctx, wait); err != nil {
		return h.cancel(ctx, err)
	}
	defer h.host.Hurry(h.target.Name)()
	h.approach(ctx)
	began := time.Now()
	if err := h.drain(ctx); err != nil {
		return h.cancel(ctx, err)
	}
	limit := time.Duration(h.r.LimitSeconds * float64(time.Second))
	if err := h.awaitSuccessor(ctx, limit-time.Since(began)); err != nil {
		return h.cancel(ctx, err)
	}
	return h.takenUp(ctx, time.Since(began))
}

// propose writes the next phase down.
func (h *handing) propose(phase, reason string) error {
	r := h.r
	r.Phase, r.Reason, r.Time = phase, reason, clock.Now().UTC()
	index, err := h.journal.Propose(state.KindHandOver, r)
	if err == nil && phase == state.HandOverHand {
		h.index = index
	}
	return err
}

// awaitReady waits for the answer of the other site's standby, beside one of the logs: the one that
// decides from then on.
func (h *handing) awaitReady(ctx context.Context, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		ready, err := h.readReady(ctx)
		switch {
		case err == nil && ready.Refusal != "":
			return fail.New(fail.Refused, "hand over to", h.r.To, "host "+ready.Host+" cannot take it up: "+
				ready.Refusal).WithHint("pollux status there says more")
		case err == nil && ready.Site != h.r.To:
			return fail.New(fail.Refused, "hand over to", h.r.To,
				"host "+ready.Host+" answers, which is at "+ready.Site)
		case err == nil:
			h.r.Host = ready.Host
			return nil
		case !fail.Is(err, fail.NotFound) && !fail.Is(err, fail.Retry):
			return err
		}
		select {
		case <-time.After(handOverPoll):
		case <-ctx.Done():
			return fail.New(fail.Retry, "hand over to", h.r.To,
				fmt.Sprintf("no standby there answered within %v", wait)).WithHint(h.unansweredHint())
		}
	}
}

// approachLimit is how long a hand-over waits for what has collected, while I/O goes on.
const approachLimit = 2 * time.Second

// approach lets what has collected leave before I/O waits: what comes meanwhile leaves at once, so that
// little is on its way then.
func (h *handing) approach(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, approachLimit)
	defer cancel()
	_ = h.awaitIndex(ctx, h.target.Name, h.host.LastIndex()) // else there is more to be waited for
}

// drain makes I/O wait, and brings all that was acknowledged into the log that decides, with the
// entry that hands over as its last one.
func (h *handing) drain(ctx context.Context) (err error) {
	limit := min(time.Duration(h.r.LimitSeconds*float64(time.Second)), maxDrain)
	if h.park, err = h.agent.Park(ctx, "hand-over", limit); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for id, lsn := range h.park.Points {
		if err := h.agent.WaitCommitted(ctx, id, lsn); err != nil {
			return err
		}
	}
	if !h.park.Keep() {
		return fail.New(fail.Retry, "hand over to", h.r.To, fmt.Sprintf("what was written did not reach the journal "+
			"within %v, and I/O went on", limit))
	}
	if err := h.propose(state.HandOverHand, ""); err != nil {
		return err
	}
	return h.awaitIndex(ctx, h.target.Name, h.index)
}

// awaitIndex waits until the log of a target has an entry.
func (d *Daemon) awaitIndex(ctx context.Context, target string, index uint64) error {
	for {
		changed := d.journal.Changed()
		if err := d.maySeat("bring", "the journal to target "+target); err != nil {
			return err
		}
		if d.host.Target(target).Index >= index {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fail.Wrap(fail.Retry, "bring", "the journal to target "+target, ctx.Err())
		}
	}
}

// awaitSuccessor looks for the other site's fence, right behind the entry that hands over.
func (h *handing) awaitSuccessor(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		if h.superseded.Load() != nil {
			return nil
		}
		x, err := objlog.ReadIndex(ctx, h.store, h.host.Target(h.target.Name).Position)
		if err == nil && x.Token.Epoch > h.r.From {
			h.host.SupersededBy(h.target.Name, x.Token.Epoch)
			return nil
		}
		select {
		case <-time.After(handOverPoll):
		case <-ctx.Done():
			return fail.New(fail.Retry, "hand over to", h.r.To, fmt.Sprintf("host %s did not take it up within %g s",
				h.r.Host, h.r.LimitSeconds)).WithHint("pollux status there says why")
		}
	}
}

// cancel takes a hand-over back because of err, and lets I/O go on once that is certain. Where it
// was taken up all the same, that is what it reports.
func (h *handing) cancel(ctx context.Context, err error) (out api.HandOverReport, _ error) {
	if ctx.Err() != nil { // the daemon stops: the other site may still take it up, and the next start sees to it
		return out, err
	}
	back := h.takeBack(ctx, h.r.ID, fail.Explain(err))
	switch {
	case h.superseded.Load() != nil:
		return h.takenUp(ctx, 0)
	case back != nil:
		return out, back
	case h.park != nil:
		h.log.Info("the hand-over was taken back, and I/O goes on", "to", h.r.To, "held", h.park.Release())
	}
	return out, err
}

// takeBack ends a hand-over at the seat's side. Where the journal was handed over, the log that
// decides has the entry that says so when it returns: until then nobody knows who is the seat.
func (d *Daemon) takeBack(ctx context.Context, id uuid.UUID, reason string) error {
	for wait := firstTakeBack; ; wait = min(2*wait, longestTakeBack) {
		var now *state.HandOver
		d.journal.View(func(s *state.State) { now = s.HandOver })
		if now == nil || now.ID != id || now.Phase == state.HandOverOver {
			return nil
		}
		next := *now
		next.Reason, next.Time = text.ShortLine(cmp.Or(now.Reason, reason), maxReason), clock.Now().UTC()
		err := d.nextPhase(ctx, &next)
		if d.superseded.Load() != nil || ctx.Err() != nil {
			return err
		}
		if err == nil {
			continue
		}
		d.log.Error("a hand-over cannot be taken back yet: I/O waits", "to", now.To, "err", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// nextPhase is one step back of a hand-over.
func (d *Daemon) nextPhase(ctx context.Context, r *state.HandOver) error {
	switch r.Phase {
	case state.HandOverHand:
		r.Phase = state.HandOverBack
	case state.HandOverBack:
		// What the journal takes as over comes behind back: the log has it all up to here.
		if err := d.awaitIndex(ctx, r.Target, d.host.LastIndex()); err != nil {
			return err
		}
		r.Phase = state.HandOverOver
	default:
		r.Phase = state.HandOverOver
	}
	_, err := d.journal.Propose(state.KindHandOver, r)
	return err
}

const (
	firstTakeBack   = 50 * time.Millisecond
	longestTakeBack = 2 * time.Second
	maxReason       = 200
)

// unresolved is a hand-over of this seat of which it is not known who takes it up; nil is none.
func (d *Daemon) unresolved() (r *state.HandOver) {
	d.journal.View(func(s *state.State) {
		if s.HandOver != nil && s.HandOver.Phase != state.HandOverOver {
			r = s.HandOver
		}
	})
	return r
}

// resolveHandOver takes back what a run before this start had begun, unless the other site has
// taken it up. Nothing is served before.
func (d *Daemon) resolveHandOver(ctx context.Context) {
	if r := d.unresolved(); r != nil && d.superseded.Load() == nil {
		err := d.takeBack(ctx, r.ID, "the seat's agent was started again")
		d.log.Info("a hand-over of an earlier run has ended", "to", r.To, "err", err)
	}
}
