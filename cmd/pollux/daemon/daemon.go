package daemon

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/agent/backing"
	"github.com/pollux-dr/pollux/agent/nbd"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/journal"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/uploader"
)

// Daemon is a running agent process.
type Daemon struct {
	conf    *config.Agent
	version string
	log     *slog.Logger
	start   time.Time

	seams   seams
	lock    io.Closer
	journal *journal.Journal
	agent   *agent.Agent
	nbd     *nbd.Server
	targets []*target
	metrics *metrics
	http    []*http.Server

	verbs  chan struct{} // holds one while a state-changing verb runs; see takeTurn
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	failed chan error

	listening chan struct{} // closed when the journal takes sessions
}

// target is one object store with its uploader.
type target struct {
	conf  config.Target
	store objstore.Store
	up    *uploader.Uploader
}

const (
	closeTimeout   = 60 * time.Second
	journalTimeout = 60 * time.Second
)

// seams are where crash tests put another disk under the daemon.
type seams struct {
	fs            vfs.FS
	createBacking func(path string, sizeBytes int64) (existed bool, err error)
	openBacking   func(path string, sizeBytes int64) (backing.Backing, error)
	election      time.Duration
	checkpoint    time.Duration
	logSegment    int64
	walSegment    int64
	trailingLogs  uint64
}

// Start brings everything up. It returns when volumes are served.
func Start(ctx context.Context, conf *config.Agent, version string, log *slog.Logger) (*Daemon, error) {
	return start(ctx, conf, version, log, seams{fs: vfs.Default})
}

func start(ctx context.Context, conf *config.Agent, version string, log *slog.Logger, s seams) (*Daemon, error) {
	d := &Daemon{conf: conf, version: version, log: log, seams: s, start: time.Now(), failed: make(chan error, 16), verbs: make(chan struct{}, 1), listening: make(chan struct{})}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	if err := d.open(ctx, d.ctx); err != nil {
		_ = d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Daemon) open(ctx, run context.Context) error {
	c := d.conf
	if err := d.seams.fs.MkdirAll(c.State, 0o700); err != nil {
		return fail.Wrap(fail.Denied, "create", c.State, err)
	}
	for _, dir := range []string{c.Runtime, filepath.Dir(c.Socket), filepath.Dir(c.NBD.Unix)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fail.Wrap(fail.Denied, "create", dir, err)
		}
	}
	if err := d.lockState(); err != nil {
		return err
	}
	d.metrics = newMetrics(d)
	var err error
	if err = d.openJournal(ctx); err != nil {
		return err
	}
	if err = d.openTargets(ctx); err != nil {
		return err
	}
	if err = d.openAgent(); err != nil {
		return err
	}
	if err = d.serveJournal(run); err != nil {
		return err
	}
	for _, t := range d.targets {
		d.wg.Go(func() { d.upload(run, t) })
	}
	if err = d.reconcile(ctx); err != nil {
		return err
	}
	if err = d.serveNBD(run); err != nil {
		return err
	}
	return d.serveHTTP()
}

// lockState keeps a second process away from the state directory.
func (d *Daemon) lockState() error {
	path := filepath.Join(d.conf.State, "lock")
	l, err := d.seams.fs.Lock(path)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
		return fail.New(fail.Refused, "lock", d.conf.State, "another process uses this state directory").
			WithHint("is the agent already running?")
	case err != nil:
		return fail.Wrap(fail.Denied, "lock", path, err)
	}
	d.lock = l
	return nil
}

func (d *Daemon) openJournal(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, journalTimeout)
	defer cancel()
	o := journal.Options{Dir: filepath.Join(d.conf.State, "journal"), Logger: d.log, Site: d.conf.Site,
		FS: d.seams.fs, OnSync: d.metrics.observeSync("journal"),
		Election: d.seams.election, TrailingLogs: d.seams.trailingLogs, LogSegmentBytes: d.seams.logSegment, LogBudgetBytes: int64(d.conf.Journal.LogBudget), Heartbeat: time.Duration(d.conf.Journal.Heartbeat)}
	for _, t := range d.conf.Journal.Targets {
		o.Targets = append(o.Targets, t.Name)
		if !t.Optional {
			o.Required = append(o.Required, t.Name)
		}
	}
	d.journal, err = journal.Open(ctx, o)
	return err
}

func (d *Daemon) openTargets(ctx context.Context) error {
	for _, tc := range d.conf.Journal.Targets {
		t := &target{conf: tc}
		open := func(ctx context.Context) (objstore.Store, error) {
			return objstore.Open(ctx, tc.URL, objstore.Options{FS: d.seams.fs, Endpoint: tc.Endpoint, Region: tc.Region,
				CredentialsFile: tc.CredentialsFile, CAFile: tc.CAFile, Observe: d.metrics.observeStore(tc.Name)})
		}
		s, err := open(ctx)
		if err != nil && !fail.Is(err, fail.Invalid) && d.journal.Target(tc.Name).Position > 0 {
			d.log.Warn("the target is not there; volumes are served, and it is tried again", "target", tc.Name, "err", err, "hint", fail.HintOf(err))
			s, err = objstore.Late(tc.URL, open), nil // it worked once: this delays, no more
		}
		if err != nil {
			return fail.At("open target", tc.Name, err)
		}
		t.store = objstore.WithRetry(s, objstore.Policy{Retryable: uploader.Retryable, Notify: func(err error) { t.up.Notify(err) }})
		t.up = uploader.New(uploader.Options{Target: tc.Name, Journal: d.journal, Store: t.store, Logger: d.log,
			RequestsPerSecond: *tc.Requests.Rate, Burst: tc.Requests.Burst})
		d.targets = append(d.targets, t)
	}
	return nil
}

// runtimePath names a file in the runtime directory that belongs to this state
// directory and to no other, whatever name its agent goes by.
func (d *Daemon) runtimePath(kind string) string {
	return filepath.Join(d.conf.Runtime, fmt.Sprintf("%s-%s-%08x", kind, d.conf.Name, crc32.ChecksumIEEE([]byte(filepath.Clean(d.conf.State)))))
}

func (d *Daemon) journalSocket() string {
	return d.runtimePath("journal") + ".sock"
}

func (d *Daemon) openAgent() (err error) {
	c := d.conf
	walSegment := int64(c.WAL.Segment)
	if d.seams.walSegment > 0 {
		walSegment = d.seams.walSegment
	}
	d.agent, err = agent.Open(agent.Options{
		Name: c.Name, StateDir: filepath.Join(c.State, "agent"), ArenaPath: d.runtimePath("arena"),
		Logger: d.log, MemoryBytes: int64(c.Memory), WALBudgetBytes: int64(c.WAL.Budget), WALSegmentBytes: walSegment,
		OnSync: d.metrics.observeSync("agent"), Linger: time.Duration(c.WAL.Linger), Reference: true, FS: d.seams.fs, Committed: d.journal.Point, Remote: d.journal.Durable, CheckpointInterval: d.seams.checkpoint,
		CreateBacking: d.seams.createBacking, OpenBacking: d.seams.openBacking,
		Dial: func(ctx context.Context) (net.Conn, error) {
			select { // the agent is ready before the journal listens
			case <-d.listening:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			var nd net.Dialer
			return nd.DialContext(ctx, "unix", d.journalSocket())
		},
	})
	if err == nil {
		d.journal.SetSource(d.agent.Frame)
		d.watch(d.agent.Failed(), d.agent.Err)
		d.watch(d.journal.Failed(), d.journal.Err)
	}
	return err
}

// takeTurn waits for its turn among the verbs that change state. A caller who left
// meanwhile gets none.
func (d *Daemon) takeTurn(ctx context.Context, op, object string) error {
	select {
	case d.verbs <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fail.Wrap(fail.Retry, op, object, ctx.Err())
	}
}

func (d *Daemon) endTurn() { <-d.verbs }

// watch turns a part's failure into the daemon's.
func (d *Daemon) watch(failed <-chan struct{}, why func() error) {
	d.wg.Go(func() {
		select {
		case <-failed:
			d.fail(why())
		case <-d.ctx.Done():
		}
	})
}

func (d *Daemon) fail(err error) {
	select {
	case d.failed <- err:
	default:
	}
}

// spawn runs a part whose error ends the daemon.
func (d *Daemon) spawn(part func() error) {
	d.wg.Go(func() {
		if err := part(); err != nil && !errors.Is(err, context.Canceled) {
			d.fail(err)
		}
	})
}

// upload runs a target's uploader. Whatever ends it, a fence or a damaged log,
// the host goes on serving: the writes collect in the WAL, and the status says
// why.
func (d *Daemon) upload(ctx context.Context, t *target) {
	if err := t.up.Run(ctx); err != nil {
		d.log.Error("replication to this target has stopped", "target", t.conf.Name, "err", err, "hint", fail.HintOf(err))
	}
}

// Wait blocks until ctx ends or a part cannot go on.
func (d *Daemon) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-d.failed:
		return err
	}
}

// Close stops serving, makes everything acknowledged durable, and stops. What is
// not yet in the targets is shipped by the next start.
func (d *Daemon) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	var errs []error
	for _, s := range d.http {
		_ = s.Close() // ends the verbs' contexts
	}
	if d.takeTurn(ctx, "stop", "agent") == nil { // the last of them has returned, or hangs for good
		defer d.endTurn()
	}
	if d.nbd != nil {
		errs = append(errs, d.nbd.Shutdown(ctx))
	}
	if d.agent != nil {
		errs = append(errs, d.agent.Close(ctx))
	}
	d.cancel()
	d.wg.Wait()
	if d.journal != nil {
		errs = append(errs, d.journal.Close())
	}
	for _, t := range d.targets {
		errs = append(errs, t.store.Close())
	}
	if d.lock != nil {
		errs = append(errs, d.lock.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fail.Wrap(fail.KindOf(err), "stop", "agent", fmt.Errorf("%w", err))
	}
	return nil
}
