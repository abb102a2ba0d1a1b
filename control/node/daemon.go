package node

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/agent/backing"
	"github.com/pollux-dr/pollux/control/adminhttp"
	"github.com/pollux-dr/pollux/control/catalogs"
	"github.com/pollux-dr/pollux/control/failback/record"
	"github.com/pollux-dr/pollux/control/seat"
	"github.com/pollux-dr/pollux/control/verbs"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbd"
	"github.com/pollux-dr/pollux/internal/parked"
	"github.com/pollux-dr/pollux/internal/private"
	"github.com/pollux-dr/pollux/replicator/journal"
	"github.com/pollux-dr/pollux/replicator/journal/journalclient"
	"github.com/pollux-dr/pollux/replicator/journal/journalnode"
	"github.com/pollux-dr/pollux/transport"
)

// Daemon is a running agent process.
type Daemon struct {
	conf    *config.Agent
	version string
	log     *slog.Logger
	start   time.Time

	hooks   testHooks
	lock    io.Closer
	host    *journalnode.Host     // a member of the journal in this process, if there is one
	remote  *journalclient.Client // to the journal's leader, unless it is alone in this process
	find    *transport.Finder
	journal verbs.Journal // over one of the two, or both
	audit   *verbs.Auditor
	agent   *agent.Agent
	nbd     *nbd.Server
	parked  *parked.Server // nbd, where clients were attached before; else nil
	metrics *metrics
	http    adminhttp.HTTP

	// superseded says that the journal has its seat elsewhere: nothing is served.
	superseded atomic.Pointer[change.Superseded]

	quiescing quiescing
	hydrating *hydrations
	accepted  sync.Map // group to volume: backings accepted since this start, for the next one

	// handedOver is closed once this site has handed the journal over, for good.
	handedOver    chan struct{}
	sayHandedOver sync.Once

	// handing ends a hand-over that is under way when the daemon stops.
	handing     context.Context
	stopHanding context.CancelFunc

	verbs  chan struct{} // holds one while a state-changing verb runs; see lockVerbs
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	failed chan error

	listening chan struct{} // closed when the journal takes sessions
}

const closeTimeout = 60 * time.Second

// Held is what a process has already that becomes an agent's: it is the daemon's from then on, even
// where that does not start.
type Held struct {
	Lock   io.Closer      // of the state directory
	Parked *parked.Server // to which clients are attached; nil where none are
	// Fenced: this process has made the journal's seat of this host just now. Clients may wait.
	Fenced bool
}

// testHooks are where crash tests put another disk under the daemon.
type testHooks struct {
	fs            vfs.FS
	createBacking func(path string, sizeBytes int64) (existed bool, err error)
	openBacking   func(path string, sizeBytes int64) (backing.Backing, error)
	election      time.Duration
	checkpoint    time.Duration
	logSegment    int64
	walSegment    int64
	trailingLogs  uint64
	foldFrom      int64
	catalogs      func(*catalogs.Options)
	now           func() time.Time
	held          Held // no hook: StartLocked's
}

// Start brings everything up. It returns when volumes are served.
func Start(ctx context.Context, conf *config.Agent, version string, log *slog.Logger) (*Daemon, error) {
	return start(ctx, conf, version, log, testHooks{fs: vfs.Default})
}

// StartLocked is Start by a process that holds the lock of the state directory already.
func StartLocked(ctx context.Context, conf *config.Agent, version string, log *slog.Logger, held Held) (
	*Daemon, error) {
	return start(ctx, conf, version, log, testHooks{fs: vfs.Default, held: held})
}

func start(ctx context.Context, conf *config.Agent, version string, log *slog.Logger, s testHooks) (*Daemon, error) {
	d := &Daemon{conf: conf, version: version, log: log, hooks: s, lock: s.held.Lock, parked: s.held.Parked,
		start: time.Now(), failed: make(chan error, 16), verbs: make(chan struct{}, 1), listening: make(chan struct{}),
		handedOver: make(chan struct{})}
	d.http = adminhttp.HTTP{Log: log, Spawn: d.spawn}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.handing, d.stopHanding = context.WithCancel(d.ctx)
	d.hydrating = newHydrations(d)
	stop := context.AfterFunc(ctx, d.hydrating.end) // the agent's start may wait for the store
	err := d.open(ctx, d.ctx)
	stop()
	if err != nil {
		_ = d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Daemon) open(ctx, run context.Context) error {
	c := d.conf
	if err := d.hooks.fs.MkdirAll(c.State, 0o700); err != nil {
		return noDirectory(c.State, err)
	}
	if err := private.Dir(c.Runtime); err != nil {
		return err
	}
	for _, dir := range []string{filepath.Dir(c.Socket), filepath.Dir(c.NBD.Unix)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return noDirectory(dir, err)
		}
	}
	if err := d.lockState(); err != nil {
		return err
	}
	if d.hooks.fs == vfs.Default {
		if err := errors.Join(failoverPending(c.State), record.NoAgent(c.State)); err != nil {
			return err
		}
	}
	adminhttp.WarnExposed(d.log, c.Secrets())
	d.metrics = newMetrics(d)
	over, err := seat.Load(d.hooks.fs, c.State)
	if err != nil {
		return err
	}
	d.superseded.Store(over)
	if err = d.openJournal(ctx); err != nil {
		return err
	}
	if err = d.openAgent(); err != nil {
		return err
	}
	if err = d.serveJournal(run); err != nil {
		return err
	}
	if d.journal.Alone() {
		err = d.reconcile(ctx)
	} else {
		d.wg.Go(func() { d.remote.Run(run) })
		d.wg.Go(func() { d.follow(run) })
		d.wg.Go(func() { d.holdMarks(run) })
	}
	if err != nil {
		return err
	}
	if err = d.newNBD(); err != nil {
		return err
	}
	d.wg.Go(func() { d.watchSeat(run) })
	if d.host != nil && d.host.Leads() {
		if !d.hooks.held.Fenced { // else it is certain who is the seat
			d.host.AwaitClaims(ctx, claimLimit)
		}
		d.wg.Go(func() {
			d.resolveHandOver(d.handing)
		})
	}
	if err = d.serveNBD(run); err != nil {
		return err
	}
	d.wg.Go(func() { d.releasePoints(run) })
	d.noteHandedOver()
	return d.serveHTTP()
}

// noDirectory is the error of a directory that cannot be made. Where its path leads to a
// file, the setting is wrong, and no permission is missing.
func noDirectory(path string, err error) error {
	kind := fail.Denied
	if errors.Is(err, unix.ENOTDIR) {
		kind = fail.Invalid
	}
	return fail.Wrap(kind, "create", path, err)
}

// lockState keeps a second process away from the state directory.
func (d *Daemon) lockState() (err error) {
	if d.lock != nil {
		return nil
	}
	d.lock, err = Lock(d.hooks.fs, d.conf.State, "is the agent already running?")
	return err
}

// Lock keeps other processes away from a state directory; hint says which of them may have it.
// Errors: fail.Refused where one has, fail.Denied.
func Lock(fs vfs.FS, dir, hint string) (io.Closer, error) {
	path := filepath.Join(dir, "lock")
	l, err := fs.Lock(path)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
		return nil, fail.New(fail.Refused, "lock", dir, "another process uses this state directory").
			WithHint(hint)
	case err != nil:
		return nil, fail.Wrap(fail.Denied, "lock", path, err)
	}
	return l, nil
}

// LockState keeps agents and other verbs away from the state directory of a configuration, which
// it makes if it is not there; look makes none. Errors: fail.Refused where one is at work.
func LockState(c *config.Agent, look bool) (unlock func(), err error) {
	if _, err := os.Stat(c.State); look && errors.Is(err, os.ErrNotExist) {
		return func() {}, nil
	}
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		return nil, noDirectory(c.State, err)
	}
	l, err := Lock(vfs.Default, c.State, "is the agent already running?")
	if err != nil {
		return nil, err
	}
	return func() { _ = l.Close() }, nil
}

// openJournal opens this host's member of the journal, if it has one, and prepares
// to reach the leader where that may be on another host.
func (d *Daemon) openJournal(ctx context.Context) error {
	c := &d.conf.Journal
	files := d.conf.Identity.Files()
	if d.conf.Identity.Set() {
		if _, err := files.Check(); err != nil {
			return err
		}
	}
	addresses := c.Addresses
	if len(addresses) == 0 {
		if err := d.openHost(ctx); err != nil {
			return err
		}
		addresses = append([]string{c.Advertise}, c.Peers...)
	}
	if len(c.Addresses) == 0 && c.Listen == "" {
		d.journal = verbs.Embedded(d.host)
	} else {
		d.find = transport.NewFinder(addresses, files.Dial)
		d.remote = journalclient.New(journalclient.Options{Agent: d.conf.Name, Finder: d.find, Logger: d.log,
			Pin: func(id string) error { return d.agent.PinJournal(id) }})
		if d.journal = verbs.Elsewhere(d.remote); d.host != nil {
			d.journal = verbs.Joined(d.remote, d.host)
		}
	}
	d.audit = &verbs.Auditor{Host: d.conf.Name, Log: d.log, Journal: d.journal}
	return nil
}

// openHost opens the member of the journal that runs in this process.
func (d *Daemon) openHost(ctx context.Context) (err error) {
	c := &d.conf.Journal
	o := journalnode.Options{Targets: c.Targets, FS: d.hooks.fs, Logger: d.log, Observe: d.metrics.store.Observe,
		FoldFromBytes: d.hooks.foldFrom,
		Journal: journal.Options{Dir: filepath.Join(d.conf.State, "journal"), Logger: d.log, Site: d.conf.Site,
			Version: d.version, FS: d.hooks.fs, OnSync: d.metrics.observeSync("journal"),
			Election: d.hooks.election, TrailingLogs: d.hooks.trailingLogs, LogSegmentBytes: d.hooks.logSegment,
			LogBudgetBytes: int64(c.LogBudget), OptionalBytes: int64(c.OptionalBacklog),
			Heartbeat: time.Duration(c.Heartbeat), Quick: d.hooks.held.Fenced}}
	if c.Listen != "" {
		o.Journal.Cluster = &journal.Cluster{Address: c.Advertise, Peers: c.Peers, Dial: d.conf.Identity.Files().Dial}
	}
	if d.host, err = journalnode.Open(ctx, o); err == nil {
		if over := d.superseded.Load(); over != nil {
			d.host.Supersede(*over)
		}
		d.watch(d.host.Failed(), d.host.Err)
	}
	return err
}

// runtimePath names a file in the runtime directory that belongs to this state
// directory and to no other, whatever name its agent goes by.
func (d *Daemon) runtimePath(kind string) string { return runtimePath(d.conf, kind) }

func runtimePath(c *config.Agent, kind string) string {
	return filepath.Join(c.Runtime, fmt.Sprintf("%s-%s-%08x", kind, c.Name,
		crc32.ChecksumIEEE([]byte(filepath.Clean(c.State)))))
}

// ArenaPath is where the agent of a configuration keeps its arena.
func ArenaPath(c *config.Agent) string { return runtimePath(c, "arena") }

func (d *Daemon) journalSocket() string {
	return d.runtimePath("journal") + ".sock"
}

func (d *Daemon) openAgent() (err error) {
	c := d.conf
	walSegment := int64(c.WAL.Segment)
	if d.hooks.walSegment > 0 {
		walSegment = d.hooks.walSegment
	}
	o := agent.Options{Now: d.hooks.now,
		Name: c.Name, StateDir: filepath.Join(c.State, "agent"), ArenaPath: d.runtimePath("arena"),
		Logger: d.log, MemoryBytes: int64(c.Memory), WALBudgetBytes: int64(c.WAL.Budget), WALSegmentBytes: walSegment,
		OnSync: d.metrics.observeSync("agent"), Linger: time.Duration(c.WAL.Linger), FS: d.hooks.fs,
		CheckpointInterval: d.hooks.checkpoint, Quick: d.hooks.held.Fenced,
		CreateBacking: d.hooks.createBacking, OpenBacking: d.hydrating.openBacking,
	}
	if d.journal.Alone() {
		o.Reference, o.Committed, o.Remote, o.Dial = true, d.host.Point, d.host.Durable, d.dialHere
	} else {
		o.Dial, o.SetLeader, o.Heartbeats = d.find.Dial, d.find.SetLeader, true
	}
	if d.agent, err = agent.Open(o); err != nil {
		return err
	}
	close(d.hydrating.ready)
	if d.host != nil {
		d.host.SetSource(d.agent.Frame)
	}
	d.watch(d.agent.Failed(), d.agent.Err)
	return nil
}

// dialHere connects the agent to the journal in this process.
func (d *Daemon) dialHere(ctx context.Context) (net.Conn, error) {
	select { // the agent is ready before the journal listens
	case <-d.listening:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var nd net.Dialer
	return nd.DialContext(ctx, "unix", d.journalSocket())
}

// lockVerbs waits for its turn among the verbs that change state. A caller who left
// meanwhile gets none.
func (d *Daemon) lockVerbs(ctx context.Context, op, object string) error {
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

// Wait blocks until ctx ends or a part cannot go on.
func (d *Daemon) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-d.failed:
		return err
	}
}

// leaveLimit bounds how long Leave waits for verbs.
const leaveLimit = 5 * time.Second

// Leave is Close, but what asked for it is answered.
func (d *Daemon) Leave() error {
	d.http.Drain(leaveLimit)
	return d.Close()
}

// Close stops serving, makes everything acknowledged durable, and stops. What is
// not yet in the targets is shipped by the next start.
func (d *Daemon) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	var errs []error
	defer time.AfterFunc(fetchTimeout, d.hydrating.end).Stop()
	d.http.Close()
	d.stopHanding()
	if d.lockVerbs(ctx, "stop", "agent") == nil { // the last of them has returned, or hangs for good
		defer d.endTurn()
	}
	if d.nbd != nil {
		if d.journal != nil && d.host != nil && d.unresolved() != nil { // what waits would wait for ever
			d.nbd.DetachAll()
		}
		errs = append(errs, d.nbd.Shutdown(ctx))
	}
	if d.agent != nil {
		errs = append(errs, d.hydrating.stopAgent(ctx))
	}
	d.cancel()
	d.wg.Wait()
	d.hydrating.close()
	if d.host != nil {
		errs = append(errs, d.host.Close())
	}
	if d.lock != nil {
		errs = append(errs, d.lock.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fail.Wrap(fail.KindOf(err), "stop", "agent", fmt.Errorf("%w", err))
	}
	return nil
}
