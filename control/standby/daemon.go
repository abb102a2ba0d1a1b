package standby

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/control/adminhttp"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/failback/record"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin/standby"
)

// Process is a daemon: this one, or what it becomes.
type Process interface {
	// Wait blocks until ctx ends or the daemon cannot go on.
	Wait(ctx context.Context) error
	// Close stops it.
	Close() error
}

// Daemon is a running standby.
type Daemon struct {
	conf    *config.Agent
	target  config.Target
	version string
	log     *slog.Logger
	start   time.Time

	lock    io.Closer
	store   objstore.Store
	engine  *standby.Standby
	metrics *metrics
	http    adminhttp.HTTP

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	failed chan error

	mu     sync.Mutex
	closed bool
	next   Process       // what it became
	became chan struct{} // closed when next is set
}

// Start brings a standby up. It returns when it answers on its control socket; it needs no store
// for that. Errors: fail.Invalid where the target is not said, fail.Refused where the state
// directory is in use, or is an agent's that has volumes.
func Start(_ context.Context, conf *config.Agent, version string, log *slog.Logger) (*Daemon, error) {
	d := &Daemon{conf: conf, version: version, log: log, start: time.Now(), failed: make(chan error, 4),
		became: make(chan struct{})}
	d.http = adminhttp.HTTP{Log: log, Spawn: d.spawn}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	if err := d.open(); err != nil {
		_ = d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Daemon) open() (err error) {
	c := d.conf
	for _, dir := range []string{c.State, filepath.Dir(c.Socket), c.Standby.Dir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fail.Wrap(fail.Denied, "create", dir, err)
		}
	}
	if err := d.lockState(); err != nil {
		return err
	}
	if err := record.Pending(c.State); err != nil {
		return err
	}
	if d.conf, err = record.Places(c); err != nil {
		return err
	}
	if d.target, err = d.conf.Followed(); err != nil {
		return err
	}
	adminhttp.WarnExposed(d.log, c.Secrets())
	d.metrics = newMetrics(d)
	d.store = d.openStore()
	d.engine, err = standby.Open(standby.Options{Store: d.store, Dir: filepath.Join(c.State, "standby"), Want: d.want,
		Delay: time.Duration(c.Standby.Delay), BytesPerSecond: int64(c.Standby.CopyRate),
		StageBytes: int64(c.Standby.StageBudget), Logger: d.log})
	if err != nil {
		return err
	}
	d.wg.Go(func() {
		if err := d.engine.Run(d.ctx); err != nil {
			d.log.Error("the standby does not follow", "err", err)
		}
	})
	return d.serveHTTP()
}

// lockState keeps a second process away from the state directory, and this one from an agent's.
func (d *Daemon) lockState() error {
	state := d.conf.State
	var err error
	d.lock, err = vfs.Default.Lock(filepath.Join(state, "lock"))
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
		return fail.New(fail.Refused, "lock", state, "another process uses this state directory").
			WithHint("is the standby, or an agent, already running?")
	case err != nil:
		return fail.Wrap(fail.Denied, "lock", state, err)
	}
	volumes, err := agent.VolumesIn(vfs.Default, filepath.Join(state, "agent"))
	if err != nil {
		return err
	}
	if len(volumes) > 0 {
		return fail.New(fail.Refused, "follow in", state,
			"it is the state directory of an agent that has volumes, of which "+volumes[0]+" is one").
			WithHint("run pollux agent there; a standby needs a state directory of its own")
	}
	return nil
}

// openStore opens the followed target as the agent does, but that it need not be there yet. What
// fails is tried again after a while by the engine, which shows it: only what passes soon is
// waited out here.
func (d *Daemon) openStore() objstore.Store {
	t := d.target
	open := func(ctx context.Context) (objstore.Store, error) {
		return objstore.Open(ctx, t.URL, objstore.Options{Endpoint: t.Endpoint, Region: t.Region, ReadOnly: true,
			CredentialsFile: t.CredentialsFile, CAFile: t.CAFile, Observe: d.metrics.store.Observe(t.Name)})
	}
	return objstore.WithRetry(objstore.Late(t.URL, open), objstore.Policy{
		Patience: func(bool) time.Duration { return patience },
		Notify: func(err error) {
			d.log.Debug("the store is asked again", "target", t.Name, "err", err)
		}})
}

// patience is how long a request to the store is tried again before the status says that it
// fails; it is made again after that all the same.
const patience = 10 * time.Second

// want is standby.Options.Want: the volumes of the groups that are configured.
func (d *Daemon) want(s *state.State) (out []standby.Volume) {
	for _, v := range state.Sorted(s.Volumes, func(v *state.Volume) string { return v.Name }) {
		if !v.Removed && d.conf.Standby.Follows(v.Group) {
			out = append(out, standby.Volume{Name: v.Name, Path: d.conf.Standby.PathOf(v.Name)})
		}
	}
	return out
}

func (d *Daemon) serveHTTP() error {
	reg := prometheus.NewRegistry()
	reg.MustRegister(d.metrics)
	prom := promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
	ctl := http.NewServeMux()
	v1 := api.StandbyHandler(service{d}, nil)
	ctl.Handle("/v1/", v1)
	ctl.Handle("/metrics", prom)
	ctl.HandleFunc("/debug/pprof/", pprof.Index) // the socket is its owner's only
	ctl.HandleFunc("/debug/pprof/profile", pprof.Profile)
	l, err := adminhttp.ListenUnix(d.conf.Socket)
	if err != nil {
		return err
	}
	d.http.Serve(l, ctl)
	return d.http.ServeBeyond(d.conf.Control, d.conf.Identity, v1, d.conf.Metrics, prom)
}

// spawn runs a part whose error ends the daemon.
func (d *Daemon) spawn(part func() error) {
	d.wg.Go(func() {
		if err := part(); err != nil && !errors.Is(err, context.Canceled) {
			select {
			case d.failed <- err:
			default:
			}
		}
	})
}

// Become ends the following for good: what lies below a position of the log, at which the caller
// has put a fence, is taken and applied, the images are synced, and the state directory and the
// control socket are given up. Then next is called with what the images hold, and what it starts
// in this process is what Wait and Close are of from then on. It is for a promotion. After an
// error of the engine the standby still answers, but follows no more: Become may be called again,
// and a restart follows again.
func (d *Daemon) Become(ctx context.Context, end uint64,
	next func(ctx context.Context, held map[string]standby.Held) (Process, error)) error {
	held, err := d.engine.CatchUp(ctx, end)
	if err != nil {
		return err
	}
	if err := d.stop(); err != nil {
		return err
	}
	p, err := next(ctx, held)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next = p
	close(d.became)
	return nil
}

// Wait blocks until ctx ends, a part cannot go on, or what the standby became cannot.
func (d *Daemon) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-d.failed:
		return err
	case <-d.became:
		return d.next.Wait(ctx)
	}
}

// Close stops following, or what the standby became. The next start goes on from here.
func (d *Daemon) Close() error {
	d.mu.Lock()
	next := d.next
	d.mu.Unlock()
	if next != nil {
		return next.Close()
	}
	return d.stop()
}

// stop ends all of it, once.
func (d *Daemon) stop() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	d.mu.Unlock()
	d.http.Close()
	d.cancel()
	d.wg.Wait()
	var errs []error
	if d.store != nil {
		errs = append(errs, d.store.Close())
	}
	if d.lock != nil {
		errs = append(errs, d.lock.Close())
	}
	err := errors.Join(errs...)
	return fail.Wrap(fail.KindOf(err), "stop", "standby", err)
}
