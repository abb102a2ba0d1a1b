package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/state"
)

// Which log decides about a hand-over: any that has everything may, and the one does that the other
// site's standby follows, beside which it answers.

// notReplicating is a group that cannot be handed over, and what it is. One that is Unprotected can:
// where the only bucket is at this site, that is what handing over puts an end to.
func (d service) notReplicating() (name, is string) {
	for _, g := range d.Model().Status().Groups {
		switch g.State {
		case api.Replicating, api.Lagging, api.Unprotected:
		default:
			return g.Name, g.State + ": " + g.Reason
		}
	}
	d.journal.View(func(s *state.State) { // Unprotected hides these
		for _, v := range s.Volumes {
			if !v.Removed && !v.Ready {
				name, is = v.Group, "not complete: the initial sync of volume "+v.Name+" has not ended"
			}
		}
		for _, g := range s.Groups {
			if g.Paused {
				name, is = g.Name, "paused"
			}
		}
	})
	return name, is
}

// choose finds the logs that may decide: those at the other site first, then those outside this one.
// What the other site's standby follows does.
func (h *handing) choose() error {
	for i, info := range h.journal.Info().Targets {
		if info.State == "" && !info.Fenced && !info.Stopped {
			h.logs = append(h.logs, h.conf.Journal.Targets[i])
		}
	}
	if len(h.logs) == 0 {
		return fail.New(fail.Refused, "hand over to", h.r.To, "no target has all of the log").
			WithHint("pollux status shows the targets")
	}
	rank := func(t config.Target) int {
		switch t.Site {
		case h.r.To:
			return 0
		case h.conf.Site:
			return 2
		}
		return 1
	}
	slices.SortStableFunc(h.logs, func(a, b config.Target) int { return cmp.Compare(rank(a), rank(b)) })
	h.target, h.r.Target = h.logs[0], h.logs[0].Name
	return nil
}

// openLogs opens the stores of the logs that may decide: those that it can.
func (h *handing) openLogs(ctx context.Context) error {
	var errs []error
	for _, t := range h.logs {
		s, err := h.host.OpenStore(ctx, t, 0)
		if err != nil {
			s = nil
			errs = append(errs, err)
		}
		h.open = append(h.open, s)
	}
	if len(errs) == len(h.logs) {
		return errors.Join(errs...)
	}
	return nil
}

func (h *handing) closeLogs() {
	for _, s := range h.open {
		if s != nil {
			_ = s.Close()
		}
	}
}

func (h *handing) unansweredHint() string {
	names := make([]string, 0, len(h.logs))
	for _, t := range h.logs {
		names = append(names, t.Name)
	}
	follows := "does it follow target " + strings.Join(names, " or ") +
		", and may it write there? Nothing was changed here"
	if h.back != nil {
		return "start the former seat's daemon there, on host " + h.back.Host + ": it becomes a standby by itself, " +
			"or after pollux failback, where it says so. If it runs, " + follows
	}
	return "is pollux standby running there, " + follows
}

// readReady looks for an answer beside each log.
func (h *handing) readReady(ctx context.Context) (ready state.Ready, err error) {
	for i, s := range h.open {
		if s == nil {
			continue
		}
		ready, rerr := objlog.ReadReady(ctx, s, h.r.ID)
		if rerr == nil {
			h.target, h.store, h.r.Target = h.logs[i], s, h.logs[i].Name
			return ready, nil
		}
		if err == nil || fail.Is(rerr, fail.NotFound) || fail.Is(rerr, fail.Retry) { // it may come yet
			err = rerr
		}
	}
	return ready, err
}

// successorLimit is how long a seat that is superseded looks for who took its journal.
const successorLimit = 10 * time.Second

// takenUp is the end of a hand-over after which the seat is not here any more. It is taken up where the
// fence behind its last entry is of the site that it was for; another site may have been faster.
func (h *handing) takenUp(ctx context.Context, held time.Duration) (out api.HandOverReport, err error) {
	handed := false
	h.journal.View(func(s *state.State) { handed = s.HandedOver() })
	if !handed || h.store == nil {
		return out, h.lost("before it was handed over")
	}
	ctx, cancel := context.WithTimeout(ctx, successorLimit)
	defer cancel()
	for position := h.host.Target(h.target.Name).Position; ; {
		x, err := objlog.ReadIndex(ctx, h.store, position)
		if err == nil && x.Token.Epoch <= h.r.From { // a fence of this seat's own
			position++
			continue
		}
		var fence *state.Fence
		if err == nil {
			fence, err = objlog.ReadFence(ctx, h.store, position)
		}
		switch over := h.host.Superseded(); {
		case err == nil && fence.Site == h.r.To:
			h.index = fence.NextIndex - 1
			h.log.Info("the journal was handed over", "to", h.r.To, "host", h.r.Host, "index", h.index)
			out = h.report("taken up")
			out.HeldSeconds = held.Seconds()
			h.noteReport(out)
			return out, nil
		case err == nil:
			return out, h.lost("and its seat is at " + fence.Site)
		case over.Target != h.target.Name && fail.Is(err, fail.NotFound):
			return out, h.lost("as the log of target " + over.Target + " says")
		}
		select {
		case <-time.After(handOverPoll):
		case <-ctx.Done():
			return out, fail.Wrap(fail.Retry, "look at the end of target", h.target.Name, err)
		}
	}
}

// lost says that the journal went on, and not by the hand-over.
func (h *handing) lost(how string) error {
	return fail.New(fail.Fenced, "hand over to", h.r.To, fmt.Sprintf("another site has taken the journal over under "+
		"epoch %d, %s", h.host.Superseded().Epoch, how)).
		WithHint("use it there; pollux failback makes a standby of this host")
}
