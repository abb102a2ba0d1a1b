package standby

import (
	"context"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/promote"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin/standby"
)

// The other side of a planned hand-over: the log asks the sites' standbys, the first one that has
// all of the journal answers beside the log that it follows, and takes the hand-over up once the log
// names it.

// watchHandOver answers and takes up hand-overs to this site, until the context ends.
func (d *Daemon) watchHandOver(ctx context.Context) {
	answered, taken := map[uuid.UUID]bool{}, map[uuid.UUID]bool{}
	for {
		changed := d.engine.Changed()
		if h := d.engine.Handing(); h != nil && h.To == d.conf.Site {
			switch {
			case h.Phase == state.HandOverPrepare && !answered[h.ID] && (h.Following || len(h.Unwanted) > 0):
				err := d.answer(ctx, h)
				answered[h.ID] = err == nil || fail.Is(err, fail.Exists)
				d.log.Info("a hand-over to this site was answered", "id", h.ID, "err", err)
			case h.Phase == state.HandOverHand && h.Host == d.conf.Name && !taken[h.ID]:
				taken[h.ID] = true
				go d.takeUp(h) // not a part of this daemon, which ends by it
			}
		}
		select {
		case <-changed:
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
	s, closeStore, err := d.opener(0)(ctx, d.target)
	if err != nil {
		return err
	}
	defer closeStore()
	return objlog.WriteReady(ctx, s, r)
}

// takeUp becomes the agent of a journal that was handed over to this host.
func (d *Daemon) takeUp(h *standby.Handing) {
	if !d.takeTurn(d.verbs) {
		return
	}
	defer func() { <-d.turn }()
	// The answer lies beside the log that decides: this is the one where it is ours.
	r, err := objlog.ReadReady(d.verbs, d.store, h.ID)
	if err == nil && r.Host != d.conf.Name {
		err = fail.New(fail.Refused, "take over", "journal", "host "+r.Host+" has answered, and not this one")
	}
	if err == nil {
		_, err = d.failOver(api.Failover{Target: d.target.Name, By: "hand-over " + h.ID.String()},
			&promote.HandOver{ID: h.ID, Index: h.At.Next - 1, At: h.At, Back: h.Back}, func(string) {})
	}
	if err != nil {
		d.log.Error("a hand-over is not taken up", "id", h.ID, "err", err, "hint", fail.HintOf(err))
	}
}
