package member

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/control/adminhttp"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/catalogs"
	"github.com/pollux-dr/pollux/control/seat"
	"github.com/pollux-dr/pollux/control/verbs"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/pki"
	"github.com/pollux-dr/pollux/replicator/journal"
	"github.com/pollux-dr/pollux/replicator/journal/journalnode"
)

// Daemon is a running member.
type Daemon struct {
	conf    *config.JournalHost
	version string
	log     *slog.Logger
	start   time.Time

	lock    io.Closer
	host    *journalnode.Host
	journal verbs.Journal // host, as the verbs see it
	audit   *verbs.Auditor
	metrics *metrics
	http    adminhttp.HTTP

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	failed chan error
}

// Start brings a member up. It returns when it can be reached, which is before it
// is in a journal.
func Start(ctx context.Context, conf *config.JournalHost, version string, log *slog.Logger) (*Daemon, error) {
	d := &Daemon{conf: conf, version: version, log: log, start: time.Now(), failed: make(chan error, 4)}
	d.http = adminhttp.HTTP{Log: log, Spawn: d.spawn}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	if err := d.open(ctx); err != nil {
		_ = d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Daemon) open(ctx context.Context) error {
	c := d.conf
	for _, dir := range []string{c.State, filepath.Dir(c.Socket)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fail.Wrap(fail.Denied, "create", dir, err)
		}
	}
	adminhttp.WarnExposed(d.log, c.Secrets())
	if c.Identity.Set() {
		p, err := c.Identity.Files().Check()
		if err != nil {
			return err
		}
		if p.Role != pki.Journal {
			return fail.New(fail.Invalid, "load certificate", c.Identity.Cert, "its role is "+string(p.Role)).
				WithHint("pollux tls issue --role journal")
		}
	}
	var err error
	if d.lock, err = vfs.Default.Lock(filepath.Join(c.State, "lock")); errors.Is(err, unix.EAGAIN) ||
		errors.Is(err, unix.EACCES) {
		return fail.New(fail.Refused, "lock", c.State, "another process uses this state directory").
			WithHint("is this member already running?")
	} else if err != nil {
		return fail.Wrap(fail.Denied, "lock", c.State, err)
	}
	l, err := c.Identity.Files().Listen(c.Listen)
	if err != nil {
		return err
	}
	d.metrics = newMetrics(d)
	d.host, err = journalnode.Open(ctx, journalnode.Options{
		Targets: c.Targets, FS: vfs.Default, Logger: d.log, Observe: d.metrics.store.Observe,
		Journal: journal.Options{Dir: filepath.Join(c.State, "journal"), FS: vfs.Default, Logger: d.log, Site: c.Site,
			Version: d.version, LogBudgetBytes: int64(c.LogBudget), OptionalBytes: int64(c.OptionalBacklog),
			Heartbeat: time.Duration(c.Heartbeat), Election: time.Duration(c.Election), OnSync: d.metrics.observeSync,
			Cluster: &journal.Cluster{Address: c.Advertise, Peers: c.Peers, Dial: c.Identity.Files().Dial,
				DiskStall: time.Duration(c.DiskStall)}}})
	if err != nil {
		_ = l.Close()
		return err
	}
	over, err := seat.Load(vfs.Default, c.State)
	if err != nil {
		_ = l.Close()
		return err
	}
	if over != nil {
		d.host.Supersede(*over)
	}
	d.wg.Go(func() {
		seat.Watch(d.ctx, seat.Options{Journal: d.host, Host: d.host, Targets: c.Targets, FS: vfs.Default,
			State: c.State, Logger: d.log, Superseded: func(*change.Superseded) {}})
	})
	d.wg.Go(func() {
		select {
		case <-d.host.Failed():
			d.fail(d.host.Err())
		case <-d.ctx.Done():
		}
	})
	d.spawn(func() error { return d.host.Serve(d.ctx, l) })
	d.wg.Go(func() { d.host.Run(d.ctx) })
	d.wg.Go(func() {
		catalogs.Run(d.ctx, catalogs.Options{Host: d.host, Targets: c.Targets, Every: *c.Catalog.EveryObjects,
			StateDir: c.State, Logger: d.log})
	})
	return d.serveHTTP()
}

// fail ends the daemon. It says why at once: the end may take long, on a disk that
// does not answer.
func (d *Daemon) fail(err error) {
	d.log.Error("this member cannot go on", "err", err, "hint", fail.HintOf(err))
	select {
	case d.failed <- err:
	default:
	}
}

func (d *Daemon) spawn(part func() error) {
	d.wg.Go(func() {
		if err := part(); err != nil && !errors.Is(err, context.Canceled) {
			d.fail(err)
		}
	})
}

func (d *Daemon) serveHTTP() error {
	reg := prometheus.NewRegistry()
	d.journal = verbs.Member(d.host)
	d.audit = &verbs.Auditor{Host: d.conf.Name, Log: d.log, Journal: d.journal}
	reg.MustRegister(d.metrics) // which asks them
	prom := promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
	mux := http.NewServeMux()
	v1 := api.JournalHandler(service{verbs.Members{Journal: d.host.Journal, Log: d.log}, d.common()}, d.audit.Record)
	mux.Handle("/v1/", v1)
	mux.Handle("/metrics", prom)
	l, err := adminhttp.ListenUnix(d.conf.Socket)
	if err != nil {
		return err
	}
	d.http.Serve(l, mux)
	return d.http.ServeBeyond(d.conf.Control, d.conf.Identity, v1, d.conf.Metrics, prom)
}

// Wait blocks until ctx ends or the member cannot go on.
func (d *Daemon) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-d.failed:
		return err
	}
}

// handOver bounds how long a leader that stops tries to hand the lead over.
const handOver = 3 * time.Second

// closeTimeout bounds the end of a member that has failed: what it waits for may
// never come, and nothing that it acknowledged depends on it.
const closeTimeout = 10 * time.Second

// Close stops the member.
func (d *Daemon) Close() error {
	if d.host == nil || d.host.Err() == nil {
		return d.close()
	}
	done := make(chan error, 1)
	go func() { done <- d.close() }()
	select {
	case err := <-done:
		return err
	case <-time.After(closeTimeout):
		return fail.New(fail.Retry, "stop", "journal", "it does not end in order")
	}
}

// close is Close. A leader hands the lead over first: the others need not wait
// until they miss it.
func (d *Daemon) close() error {
	d.http.Close()
	if d.host != nil && d.host.Leads() && d.host.Err() == nil && d.host.Status().Voters > 1 {
		done := make(chan error, 1)
		go func() { done <- d.host.Transfer("") }()
		select {
		case <-done:
		case <-time.After(handOver):
		}
	}
	d.cancel()
	d.wg.Wait()
	var errs []error
	if d.host != nil {
		errs = append(errs, d.host.Close())
	}
	if d.lock != nil {
		errs = append(errs, d.lock.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fail.Wrap(fail.KindOf(err), "stop", "journal", fmt.Errorf("%w", err))
	}
	return nil
}
