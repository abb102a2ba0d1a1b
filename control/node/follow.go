package node

import (
	"context"
	"slices"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
)

// syncStreams tells the agent which streams there are, and which are paused.
func (d *Daemon) syncStreams() error {
	var confs []agent.StreamConf
	d.journal.View(func(s *state.State) {
		for _, st := range s.Streams {
			if st.Agent == d.conf.Name {
				g := s.Groups[st.Group]
				confs = append(confs, agent.StreamConf{ID: st.ID, Number: st.Number, Group: st.Group, Paused: g.Paused,
					Policy: agent.Policy{Ack: g.Ack, OnLoss: g.OnAckLoss, Overflow: g.Overflow}})
			}
		}
	})
	slices.SortFunc(confs, func(a, b agent.StreamConf) int { return int(a.Number) - int(b.Number) })
	for _, c := range confs {
		if err := d.agent.AddStream(c); err != nil {
			return err
		}
	}
	return nil
}

// reconcile brings the agent to what the journal says: a verb may have been cut
// short by a crash.
func (d *Daemon) reconcile(ctx context.Context) error {
	if err := d.syncStreams(); err != nil {
		return err
	}
	known, served := map[string]bool{}, map[string]bool{}
	for _, v := range d.agent.Volumes() {
		known[v.Name], served[v.Name] = true, v.Ready
	}
	var add, drop []string
	d.journal.View(func(s *state.State) {
		for _, v := range s.Volumes {
			if v.Agent != d.conf.Name {
				continue
			}
			if v.Removed && known[v.Name] {
				drop = append(drop, v.Name)
			} else if !v.Removed && (!served[v.Name] || !v.Ready) {
				add = append(add, v.Name)
			}
		}
	})
	for _, name := range add {
		d.log.Info("completing a volume's creation", "volume", name)
		if err := d.attach(ctx, name, true); err != nil { // the others are served all the same
			d.log.Error("volume is not served", "volume", name, "err", err, "hint", fail.HintOf(err))
			continue
		}
		d.sync(name)
	}
	for _, name := range drop {
		if err := d.agent.RemoveVolume(ctx, name); err != nil { // the next start tries again
			d.log.Error("a removed volume is still attached", "volume", name, "err", err, "hint", fail.HintOf(err))
		}
	}
	return nil
}

// follow brings the agent to what a journal elsewhere says: at first when it is
// reached, then whenever something changes there.
func (d *Daemon) follow(ctx context.Context) {
	for first := true; ; {
		changed := d.journal.Changed()
		if d.journal.Synced() {
			err := d.lockVerbs(ctx, "follow", "journal")
			if err == nil && first {
				err = d.reconcile(ctx)
				first = err != nil
			} else if err == nil {
				err = d.syncStreams()
			}
			if ctx.Err() == nil {
				d.endTurn()
			}
			if err != nil {
				d.log.Error("the agent does not follow the journal", "err", err, "hint", fail.HintOf(err))
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
