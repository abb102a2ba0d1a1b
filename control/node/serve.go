package node

import (
	"context"
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

// newNBD makes the server of the volumes, which does not listen yet.
func (d *Daemon) newNBD() error {
	c := d.conf.NBD
	o := nbd.Options{Exports: exports{d.agent, d}, MaxConnections: c.MaxConnections,
		StallLimit: time.Duration(c.StallLimit), Logger: d.log, Metrics: d.metrics,
		ReceiveBudgetBytes: int64(d.conf.Memory) / 2}
	if c.TCP != "" {
		o.ReceiveBudgetBytes /= 2 // a half for each listener
	}
	if c.TLS.Cert != "" {
		var err error
		if o.TLS, err = adminhttp.LoadTLS(c.TLS); err != nil {
			return err
		}
		o.RequireTLS = true
	}
	d.nbd = nbd.New(o)
	return nil
}

func (d *Daemon) serveNBD(ctx context.Context) error {
	c := d.conf.NBD
	l, err := adminhttp.ListenUnix(c.Unix)
	if err != nil {
		return err
	}
	d.spawn(func() error { return d.nbd.Serve(ctx, l) })
	if c.TCP == "" {
		return nil
	}
	t, err := net.Listen("tcp", c.TCP)
	if err != nil {
		return fail.Wrap(fail.Refused, "listen on", c.TCP, err)
	}
	d.spawn(func() error { return d.nbd.Serve(ctx, t) })
	return nil
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
