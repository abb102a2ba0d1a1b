package standby

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/control/adminhttp"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/failback/record"
	"github.com/pollux-dr/pollux/control/node"
	"github.com/pollux-dr/pollux/control/promote"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/parked"
	"github.com/pollux-dr/pollux/replicator/journal/journalnode"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/standby"
)

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
	parked  *parked.Server // clients that are attached already; nil where none are to be
	metrics *metrics
	http    adminhttp.HTTP

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	failed chan error

	// guard is called before the process becomes an agent's.
	guard func()
	// turn holds one while a failover runs; verbs is the context of it.
	turn     chan struct{}
	verbs    context.Context
	endVerbs context.CancelFunc
	closed   bool                    // the standby has ended; of whoever has the turn
	step     func(name string) error // a test's, in a failover

	mu        sync.Mutex
	writer    objstore.Store // store's target, connected to for a hand-over; nil before the first
	cache     *twin.Cache    // of its log, the same
	read      *twin.Log      // and that as it was then
	next      *node.Daemon   // what it became
	became    chan struct{}  // closed when next is set
	over      chan struct{}  // closed when next has handed the journal over
	promoting bool           // a failover that was begun is not done
	promotion error          // why it does not go on
}

// Options are what Start needs beside a configuration.
type Options struct {
	Version string
	Logger  *slog.Logger
	// Guard is called before the process becomes an agent's: what that needs of the system.
	Guard func()

	step func(name string) error // a test's, in a failover
}

// Start brings a standby up. It returns when it answers on its control socket; it needs no store
// for that. Where a failover has fenced the log and is not done it goes on with that; where one is
// done, it is the agent that it has become. Errors: fail.Invalid where the target is not said,
// fail.Refused where the state directory is in use, or is that of an agent that has volumes.
func Start(ctx context.Context, conf *config.Agent, o Options) (*Daemon, error) {
	d := &Daemon{conf: conf, version: o.Version, log: o.Logger, start: time.Now(), failed: make(chan error, 4),
		became: make(chan struct{}), over: make(chan struct{}), guard: o.Guard, turn: make(chan struct{}, 1),
		step: o.step}
	d.http = adminhttp.HTTP{Log: d.log, Spawn: d.spawn}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.verbs, d.endVerbs = context.WithCancel(context.Background())
	if err := d.open(ctx); err != nil {
		_ = d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Daemon) open(ctx context.Context) (err error) {
	c := d.conf
	for _, dir := range []string{c.State, filepath.Dir(c.Socket), filepath.Dir(c.NBD.Unix), c.Standby.Dir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fail.Wrap(fail.Denied, "create", dir, err)
		}
	}
	if d.lock, err = node.Lock(vfs.Default, c.State, "is the standby, or an agent, already running?"); err != nil {
		return err
	}
	if err := record.Pending(c.State); err != nil {
		return err
	}
	if c, err = record.Places(c); err != nil {
		return err
	}
	d.conf = c
	stage, err := promote.StageOf(c.State)
	switch {
	case err != nil:
		return err
	case stage == promote.Done:
		return d.become(ctx, false)
	case stage == promote.None:
		if err := d.notAnAgent(); err != nil {
			return err
		}
	case stage == promote.Begun:
		d.promoting, d.promotion = true, errBegun
	case stage == promote.Fenced:
		d.promoting = true
	}
	if d.target, err = c.Followed(); err != nil {
		return err
	}
	adminhttp.WarnExposed(d.log, c.Secrets())
	d.metrics = newMetrics(d)
	d.store = d.openStore()
	d.engine, err = standby.Open(standby.Options{Store: d.store, Dir: promote.StandbyDir(c.State),
		Want: promote.Wanted(c), Delay: time.Duration(c.Standby.Delay), BytesPerSecond: int64(c.Standby.CopyRate),
		StageBytes: int64(c.Standby.StageBudget), Logger: d.log})
	if err != nil {
		return err
	}
	if err := d.serveHTTP(); err != nil {
		return err
	}
	if err := d.park(); err != nil {
		return err
	}
	if stage == promote.Fenced { // its images may be the agent's already
		d.goOn()
		return nil
	}
	d.wg.Go(func() {
		if err := d.engine.Run(d.ctx); err != nil {
			d.log.Error("the standby does not follow", "err", err)
		}
	})
	d.wg.Go(func() { d.watchHandOver(d.ctx) })
	return nil
}

// notAnAgent keeps a standby away from an agent's state directory.
func (d *Daemon) notAnAgent() error {
	state := d.conf.State
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
		o := journalnode.StoreOptions(t)
		o.ReadOnly, o.Observe = true, d.metrics.store.Observe(t.Name)
		return objstore.Open(ctx, t.URL, o)
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

func (d *Daemon) serveHTTP() error {
	reg := prometheus.NewRegistry()
	reg.MustRegister(d.metrics)
	prom := promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
	v1 := api.StandbyHandler(service{d}, nil)
	if err := d.http.ServeOwner(d.conf.Socket, v1, prom); err != nil {
		return err
	}
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

// HandedOver is closed once the agent that this standby became has handed the journal over.
func (d *Daemon) HandedOver() <-chan struct{} { return d.over }

// Leave is Close, but what asked for it is answered.
func (d *Daemon) Leave() error {
	d.mu.Lock()
	next := d.next
	d.mu.Unlock()
	if next == nil {
		return d.Close()
	}
	d.endVerbs()
	return next.Leave()
}

// Close stops following, a failover that is under way, or what the standby became. The next start
// goes on from here.
func (d *Daemon) Close() error {
	d.endVerbs()
	d.turn <- struct{}{} // a failover has ended
	defer func() { <-d.turn }()
	d.mu.Lock()
	next := d.next
	d.mu.Unlock()
	if next != nil {
		return next.Close()
	}
	if d.parked != nil {
		_ = d.parked.Close()
	}
	return d.stop(d.http.Close, true)
}

// stop ends all of the standby, once. With unlock the state directory is given up, too.
func (d *Daemon) stop(endHTTP func(), unlock bool) error {
	var errs []error
	if !d.closed {
		d.closed = true
		endHTTP()
		d.cancel()
		d.wg.Wait()
		writer, _ := d.atHand()
		for _, s := range []objstore.Store{d.store, writer} {
			if s != nil {
				errs = append(errs, s.Close())
			}
		}
	}
	if d.lock != nil && unlock {
		errs = append(errs, d.lock.Close())
		d.lock = nil
	}
	err := errors.Join(errs...)
	return fail.Wrap(fail.KindOf(err), "stop", "standby", err)
}
