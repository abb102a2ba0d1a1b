package node

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/control/adminhttp"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/catalogs"
	"github.com/pollux-dr/pollux/control/verbs"
	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbd"
)

// serveJournal opens the journal in this process, if there is one, to the agent and, where
// that is configured, to other hosts. It also starts the work that this member does while
// it leads.
func (d *Daemon) serveJournal(ctx context.Context) error {
	if d.host == nil {
		return nil
	}
	c := &d.conf.Journal
	var l net.Listener
	var err error
	if c.Listen != "" {
		l, err = d.conf.Identity.Files().Listen(c.Listen)
	} else {
		l, err = adminhttp.ListenUnix(d.journalSocket())
	}
	if err != nil {
		return err
	}
	close(d.listening)
	d.spawn(func() error { return d.host.Serve(ctx, l) })
	d.wg.Go(func() { d.host.Run(ctx) })
	o := catalogs.Options{Host: d.host, Targets: c.Targets, Every: *c.Catalog.EveryObjects, StateDir: d.conf.State,
		Logger: d.log}
	if d.hooks.catalogs != nil {
		d.hooks.catalogs(&o)
	}
	d.wg.Go(func() { catalogs.Run(ctx, o) })
	return nil
}

// exports offers the agent's volumes over NBD.
type exports struct {
	a *agent.Agent
	d *Daemon
}

func (e exports) Open(_ context.Context, name string) (block.Device, error) {
	if err := e.d.mayServe(name); err != nil {
		return nil, err
	}
	if vols := e.a.Volumes(); name == "" && len(vols) == 1 {
		name = vols[0].Name
	}
	return e.a.Device(name)
}

func (e exports) List(context.Context) []nbd.Export {
	var out []nbd.Export
	if e.d.superseded.Load() != nil {
		return nil
	}
	for _, v := range e.a.Volumes() {
		if dev, err := e.a.Device(v.Name); err == nil { // those that Open does
			out = append(out, nbd.ExportOf(v.Name, dev))
		}
	}
	return out
}

// newNBD makes the server of the volumes, which does not listen yet, or takes the one to which
// clients are attached already.
func (d *Daemon) newNBD() error {
	if d.parked != nil {
		d.nbd = d.parked.Server
		return nil
	}
	o, err := NBDOptions(d.conf, d.log)
	if err != nil {
		return err
	}
	o.Exports, o.Metrics = exports{d.agent, d}, d.metrics
	d.nbd = nbd.New(o)
	return nil
}

func (d *Daemon) serveNBD(ctx context.Context) error {
	if d.parked != nil { // it listens
		d.parked.Resolve(ctx, exports{d.agent, d}, d.metrics)
		d.watch(d.parked.Failed(), d.parked.Err)
		return nil
	}
	all, err := ListenNBD(d.conf)
	for _, l := range all {
		d.spawn(func() error { return d.nbd.Serve(ctx, l) })
	}
	return err
}

// NBDOptions are those of an agent's configuration, but for what is served and counted.
func NBDOptions(conf *config.Agent, log *slog.Logger) (o nbd.Options, err error) {
	c := conf.NBD
	o = nbd.Options{MaxConnections: c.MaxConnections, StallLimit: time.Duration(c.StallLimit), Logger: log,
		ReceiveBudgetBytes: int64(conf.Memory) / 2}
	if c.TCP != "" {
		o.ReceiveBudgetBytes /= 2 // a half for each listener
	}
	if c.TLS.Cert != "" {
		if o.TLS, err = adminhttp.LoadTLS(c.TLS); err != nil {
			return o, err
		}
		o.RequireTLS = true
	}
	return o, nil
}

// ListenNBD opens what an agent's configuration says that volumes are served on. With an error, it
// returns those that are open.
func ListenNBD(conf *config.Agent) (all []net.Listener, err error) {
	l, err := adminhttp.ListenUnix(conf.NBD.Unix)
	if err != nil {
		return nil, err
	}
	all = append(all, l)
	if conf.NBD.TCP == "" {
		return all, nil
	}
	if l, err = net.Listen("tcp", conf.NBD.TCP); err != nil {
		return all, fail.Wrap(fail.Refused, "listen on", conf.NBD.TCP, err)
	}
	return append(all, l), nil
}

func (d *Daemon) serveHTTP() error {
	reg := prometheus.NewRegistry()
	reg.MustRegister(d.metrics)
	prom := promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
	v1 := api.Handler(d.service(), d.audit.Record)
	if d.host != nil {
		api.AddMembers(v1, verbs.Members{Journal: d.host.Journal, Log: d.log})
	}
	if err := d.http.ServeOwner(d.conf.Socket, v1, prom); err != nil {
		return err
	}
	return d.http.ServeBeyond(d.conf.Control, d.conf.Identity, v1, d.conf.Metrics, prom)
}
