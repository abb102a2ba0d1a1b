package standby

import (
	"cmp"
	"context"
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/node"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin/standby"
)

// What only the seat can do, asked of a standby: a hand-over that is repeated where it was asked for the
// first time, above all, since that host follows by itself now.

// HandOver says once more how the hand-over went by which the seat came to the site that is asked for, or
// where the seat is.
func (s service) HandOver(_ context.Context, r api.HandOver) (out api.HandOverReport, err error) {
	done, err := node.LoadHandedOver(vfs.Default, s.d.conf.State)
	if err != nil {
		return out, err
	}
	at := s.d.engine.Seat()
	switch {
	// What is followed may be older than the hand-over, where it is delayed or its store is away.
	case done != nil && done.To == r.To && (at == nil || at.Epoch <= done.Epoch):
		return *done, nil
	case at == nil || at.Site != r.To || at.Move == nil || at.Move.How != state.MovePlanned:
		return out, s.d.elsewhere(at, "hand over to", r.To)
	case done != nil && done.To == r.To && done.Epoch == at.Move.From:
		return *done, nil
	}
	return api.HandOverReport{To: r.To, Host: at.Host, Target: s.d.target.Name, Epoch: at.Move.From,
		Index: at.Move.First - 1, Outcome: "taken up"}, nil
}

// Commit says where the seat is.
func (s service) Commit(context.Context, api.Commit) (out api.CommitReport, err error) {
	return out, s.d.elsewhere(s.d.engine.Seat(), "commit", "")
}

// RollBack says where the seat is.
func (s service) RollBack(context.Context, api.RollBack) (out api.RollBackReport, err error) {
	return out, s.d.elsewhere(s.d.engine.Seat(), "roll back", "")
}

// elsewhere is the error of what only the seat does: to is where that shall go, "" for its way back.
func (d *Daemon) elsewhere(at *standby.Seat, op, to string) error {
	object := cmp.Or(to, "hand-over")
	if at == nil {
		return fail.New(fail.Retry, op, object, "this host is a standby, and has not read yet where the seat is").
			WithHint("pollux status says why")
	}
	where := cmp.Or(at.Site, "another site")
	why := fmt.Sprintf("this host is a standby, and the journal has its seat at %s under epoch %d", where, at.Epoch)
	verb := map[string]string{"commit": "--commit", "roll back": "--rollback"}[op]
	switch {
	case to != "" && to == at.Site:
		return fail.New(fail.Exists, op, object, why+" already").
			WithHint("nothing is left to be done; pollux status there says more")
	case to != "":
		verb = "--planned --to " + to
	}
	hint := "there, on host " + cmp.Or(at.Host, "of the seat") + ": pollux failover " + verb
	if at.Open != nil && at.Open.To == to {
		hint += "; or --rollback, which goes back to the point of the hand-over"
	}
	return fail.New(fail.Refused, op, object, why).WithHint(hint + " (from here with --address)")
}
