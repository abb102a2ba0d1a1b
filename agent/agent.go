package agent

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/pollux-dr/pollux/agent/arena"
	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/notify"
	"github.com/pollux-dr/pollux/wal"
)

// Agent is one host's part of Pollux. It is safe for concurrent use.
type Agent struct {
	opts Options
	wal  *wal.Log
	mem  *arena.Arena
	kept bool // the arena survived: clients may come back

	// manifestMu is held while what the manifest says is changed and made durable, one
	// change at a time; it is taken before mu. With it and mu, streams and volumes and
	// their conf are changed; with either of them they may be read.
	manifestMu sync.Mutex
	journal    string // the one that this agent belongs to, if it is on other hosts; guarded by manifestMu

	mu      sync.Mutex // held briefly: nothing waits for a disk under it
	streams map[change.StreamID]*stream
	volumes map[string]*Volume
	shipErr error
	live    *session // nil while there is none
	err     error
	restart chan struct{} // closed to start a new session

	failed         chan struct{}
	wakeCheckpoint chan struct{}
	wakeShip       chan struct{}
	wakeUrgent     chan struct{}
	trimmed        notify.Notifier
	slow           atomic.Bool
	waiting        atomic.Int64 // flushes that wait for the journal's word
	mapping        sync.Mutex   // held by Changed
	parked         atomic.Pointer[Parking]
	count          counters

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

type counters struct {
	frames, plain, stored, recovered atomic.Int64
}

// Open recovers the agent from its state directory and starts it. Volumes can
// be served when it returns.
func Open(o Options) (*Agent, error) {
	o.setDefaults()
	a := prepare(o)
	if err := a.open(); err != nil {
		a.cancel()
		a.closeFiles()
		return nil, err
	}
	for _, s := range a.streams {
		a.startStream(s)
	}
	for _, loop := range []func(context.Context){a.shipLoop, a.checkpointLoop, a.watchFill} {
		a.spawn(loop)
	}
	return a, nil
}

// prepare makes an agent of options with defaults that has opened nothing yet.
func prepare(o Options) *Agent {
	a := &Agent{opts: o, streams: make(map[change.StreamID]*stream), volumes: make(map[string]*Volume),
		failed: make(chan struct{}), restart: make(chan struct{}),
		wakeCheckpoint: make(chan struct{}, 1), wakeShip: make(chan struct{}, 1), wakeUrgent: make(chan struct{}, 1)}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	return a
}

func (a *Agent) open() error {
	o := &a.opts
	if err := o.FS.MkdirAll(o.StateDir, 0o700); err != nil {
		return fail.Wrap(fail.Denied, "create", o.StateDir, err)
	}
	m := manifest{Version: metaVersion, Agent: o.Name}
	if _, err := loadMeta(o.FS, a.manifestPath(), &m); err != nil {
		return err
	}
	if m.Agent != o.Name {
		return fail.New(fail.Refused, "open", o.StateDir,
			fmt.Sprintf("it belongs to agent %q, not %q", m.Agent, o.Name)).
			WithHint("set name in the configuration back, or choose another state directory")
	}
	a.journal = m.Journal
	var err error
	a.wal, err = wal.Open(wal.Options{FS: o.FS, OnSync: o.OnSync, Dir: a.walDir(), SegmentBytes: o.WALSegmentBytes,
		BudgetBytes: o.WALBudgetBytes, ReserveBytes: o.WALReserveBytes,
		MaxSpares: walSpares, PreallocateInBackground: true})
	if err != nil {
		return err
	}
	var found []arena.Recovered
	a.mem, found, a.kept, err = arena.Open(arena.Options{Path: o.ArenaPath, Bytes: o.MemoryBytes,
		Owner: o.Name + " " + o.StateDir, Pressure: a.sealAll})
	if err != nil {
		return err
	}
	for _, sc := range m.Streams {
		a.streams[sc.ID] = newStream(a, sc)
	}
	for _, vc := range m.Volumes {
		if err := a.attachVolume(vc); err != nil {
			return err
		}
	}
	if err := a.recoverStreams(found); err != nil {
		return err
	}
	return a.settleBackings(m.Volumes)
}

func (a *Agent) spawn(loop func(context.Context)) {
	a.wg.Add(1)
	go func() {
		defer a.wg.Done()
		loop(a.ctx)
	}()
}

func (a *Agent) startStream(s *stream) {
	a.spawn(s.commitLoop)
	a.spawn(s.syncLoop)
	a.spawn(s.applyLoop)
	wake(s.wal.wakeCommit) // what the arena held
}

// fatal records the first error after which the agent must not go on.
func (a *Agent) fatal(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err == nil {
		a.err = err
		close(a.failed)
	}
}

// Failed is closed when the agent can no longer acknowledge anything: the
// process should end and be started again. Err then says why.
func (a *Agent) Failed() <-chan struct{} { return a.failed }

// Err is the reason behind Failed.
func (a *Agent) Err() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

// Close makes every acknowledged write durable and applies it, then stops. When
// ctx ends before that, it stops all the same: nothing is lost, the next start
// has more to do.
func (a *Agent) Close(ctx context.Context) error {
	streams := a.snapshotStreams()
	var first error
	note := func(err error) bool {
		if first == nil {
			first = err
		}
		return err == nil
	}
	flushed := map[*stream]bool{}
	for _, s := range streams { // all before any is waited for that cannot be applied now
		flushed[s] = note(s.flush(ctx))
	}
	for _, s := range streams {
		if flushed[s] && s.suspended == nil &&
			note(s.await(ctx, func() bool { return s.apply.applied.LSN >= s.wal.durableLSN })) {
			note(s.checkpoint())
		}
	}
	closed := fail.New(fail.Refused, "use", "agent "+a.opts.Name, "it is shut down")
	for _, s := range a.snapshotStreams() {
		s.close(closed)
	}
	a.mu.Lock() // see enter
	a.cancel()
	a.mu.Unlock()
	a.wg.Wait()
	a.closeFiles()
	return first
}

func (a *Agent) closeFiles() {
	a.mu.Lock()
	for _, v := range a.volumes {
		_ = v.back.Close()
	}
	a.mu.Unlock()
	if a.wal != nil {
		_ = a.wal.Close()
	}
	if a.mem != nil {
		_ = a.mem.Close()
	}
}

func (a *Agent) sealAll() {
	for _, s := range a.snapshotStreams() {
		s.sealForRoom()
	}
}

func (a *Agent) snapshotStreams() []*stream {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]*stream, 0, len(a.streams))
	for _, s := range a.streams {
		out = append(out, s)
	}
	return out
}

func (a *Agent) volumesOf(s *stream) []*Volume {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []*Volume
	for _, v := range a.volumes {
		if v.s == s {
			out = append(out, v)
		}
	}
	return out
}

func (a *Agent) volumeNumber(n uint32) *Volume {
	for _, v := range a.volumes {
		if v.conf.Number == n {
			return v
		}
	}
	return nil
}

func (a *Agent) streamNumber(n uint32) *stream {
	for _, s := range a.streams {
		if s.conf.Number == n {
			return s
		}
	}
	return nil
}

// Device returns the volume of that name for a front end.
func (a *Agent) Device(name string) (block.Device, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	v := a.volumes[name]
	if v == nil || !v.conf.Ready {
		return nil, fail.New(fail.NotFound, "open volume", name, "no such volume on this agent")
	}
	if err := v.s.suspended; err != nil {
		return nil, fail.At("open volume", name, err)
	}
	return v, nil
}

// Volumes lists the agent's volumes by name.
func (a *Agent) Volumes() []VolumeConf {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]VolumeConf, 0, len(a.volumes))
	for _, v := range a.volumes {
		out = append(out, v.conf)
	}
	slices.SortFunc(out, func(x, y VolumeConf) int { return strings.Compare(x.Name, y.Name) })
	return out
}

// Frame returns the encoded frame at a WAL index, appended to buf: this is how
// an embedded journal reads what it holds by reference.
func (a *Agent) Frame(index uint64, buf []byte) ([]byte, error) { return a.wal.Read(index, buf) }

func (a *Agent) manifestPath() string { return filepath.Join(a.opts.StateDir, "agent.json") }
func (a *Agent) walDir() string       { return filepath.Join(a.opts.StateDir, "wal") }
func (a *Agent) checkpointPath(id change.StreamID) string {
	return filepath.Join(a.opts.StateDir, "stream-"+id.String()+".json")
}

// restartShip returns the channel that restartSessions closes.
func (a *Agent) restartShip() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.restart
}

// restartSessions makes the shipper connect anew, with the streams as they are
// now.
func (a *Agent) restartSessions() {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.restart)
	a.restart = make(chan struct{})
}
