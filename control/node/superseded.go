package node

import (
	"context"
	"time"

	"github.com/pollux-dr/pollux/control/seat"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/journal"
	"github.com/pollux-dr/pollux/replicator/state"
)

// claimLimit is for how long a start waits for a look at the targets before it serves: a store that
// does not answer must not keep a site from its volumes.
const claimLimit = 3 * time.Second

// watchSeat ends the serving once the journal has its seat elsewhere.
func (d *Daemon) watchSeat(ctx context.Context) {
	seat.Watch(ctx, seat.Options{Journal: d.journal, Host: d.host, Targets: d.conf.Journal.Targets, FS: d.hooks.fs,
		State: d.conf.State, Logger: d.log, Superseded: d.supersede})
}

// supersede refuses all clients from here on; what they have under way is cancelled. What was
// acknowledged and never left this site stays in the WAL and in the backings.
func (d *Daemon) supersede(s *change.Superseded) {
	if d.superseded.Swap(s) == nil {
		d.log.Error("this host serves nothing any more: the journal has its seat elsewhere", "epoch", s.Epoch,
			"own_epoch", s.Own, "target", s.Target)
	}
	d.nbd.DetachAll()
	d.noteHandedOver()
}

// HandedOver is closed once the journal has its seat elsewhere because this site has handed it over,
// the log says where it went on, and the verb that did so has ended. Then there is nothing here that
// the log does not have, unless what is here says otherwise.
func (d *Daemon) HandedOver() <-chan struct{} { return d.handedOver }

func (d *Daemon) noteHandedOver() {
	handed := false
	// Before Branch is known, the new seat has not written to the log yet.
	if s := d.superseded.Load(); s != nil && s.Branch > 0 && d.journal.Alone() {
		d.journal.View(func(s *state.State) { handed = s.HandedOver() })
	}
	if !handed {
		return
	}
	d.sayHandedOver.Do(func() {
		go func() { // not a part that Close waits for: it may wait for Close to give up the turn
			if d.lockVerbs(d.ctx, "hand over", "journal") == nil {
				d.reportLate()
				d.endTurn()
				close(d.handedOver)
			}
		}()
	})
}

// maySeat refuses what only the seat of the journal may do.
func (d *Daemon) maySeat(op, object string) error {
	if s := d.superseded.Load(); s != nil {
		err := journal.ErrSuperseded(s)
		return (&fail.Error{Kind: fail.Fenced, Op: op, Object: object, Err: err}).WithHint(fail.HintOf(err))
	}
	return nil
}

// mayServe refuses clients where the seat is elsewhere, or where nobody knows yet.
func (d *Daemon) mayServe(volume string) error {
	err := d.maySeat("open", "volume "+volume)
	if r := d.unresolved(); err == nil && r != nil && r.Phase != state.HandOverPrepare {
		err = fail.At("open", "volume "+volume, state.ErrHandedOver(r.To))
	}
	return err
}
