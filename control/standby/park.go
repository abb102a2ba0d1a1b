package standby

import (
	"context"
	"time"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/control/node"
	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/parked"
)

// parkCheck is how often it is looked whether what is parked is still what the log says.
const parkCheck = time.Second

// park lets clients attach to the volumes that are followed, where the configuration says so. They
// are held until the journal is here: the agent that this process becomes takes them over.
func (d *Daemon) park() error {
	if !d.conf.Standby.Park {
		return nil
	}
	o, err := node.NBDOptions(d.conf, d.log)
	if err != nil {
		return err
	}
	p := parked.New(o, d.parkable)
	all, err := node.ListenNBD(d.conf)
	p.Listen(all...)
	if err != nil {
		_ = p.Close()
		return err
	}
	d.parked = p
	d.wg.Go(func() { d.watchParked(d.ctx) })
	d.log.Info("clients can attach to what is followed, and wait", "nbd", d.conf.NBD.Unix, "tcp", d.conf.NBD.TCP)
	return nil
}

// parkable are the volumes that the agent would serve, were the journal here.
func (d *Daemon) parkable() map[string]block.Info {
	out := map[string]block.Info{}
	for _, g := range d.engine.Status().Groups {
		for _, v := range g.Volumes {
			if v.Ready {
				out[v.Name] = agent.InfoOf(v.Name, g.Name, v.Size)
			}
		}
	}
	return out
}

// watchParked disconnects clients whose volumes are removed or exchanged.
func (d *Daemon) watchParked(ctx context.Context) {
	tick := time.NewTicker(parkCheck)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			d.parked.Refresh()
		case <-d.parked.Failed():
			select {
			case d.failed <- d.parked.Err():
			default:
			}
			return
		case <-ctx.Done():
			return
		}
	}
}

// clients are how many clients wait, by volume.
func (d *Daemon) clients() map[string]int {
	if d.parked == nil {
		return nil
	}
	return d.parked.Clients()
}
