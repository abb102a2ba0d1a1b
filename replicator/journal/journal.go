package journal

import (
	"context"
	"encoding/json"
	"maps"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/google/uuid"
	"github.com/hashicorp/raft"

	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/notify"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/wal"
)

// identity is what a journal is born with.
type identity struct {
	Journal uuid.UUID `json:"journal"`
	Epoch   uint64    `json:"epoch"`
	Site    string    `json:"site"`
	Created time.Time `json:"created"`
}

// Journal is one member of a Raft group. It is safe for concurrent use.
type Journal struct {
	opts   Options
	member member
	wal    *wal.Log
	db     *pebble.DB
	fsm    *fsm
	logs   *logStore
	snaps  *snapStore
	raft   *raft.Raft
	trans  raftTransport
	layer  *streamLayer // nil where the journal is alone
	source FrameSource
	logged loggedFrames
	ages   ages // housekeeping's

	changed           notify.Notifier // after every applied batch
	leadershipChanged notify.Notifier // after every change of leadership
	membership        sync.Mutex      // held while the members change
	voters            atomic.Int32

	mu         sync.Mutex
	leading    context.Context // ends with the lead
	leadTerm   uint64
	seekErr    error // why none does
	targetInfo func() []change.TargetInfo
	err        error

	failed     chan struct{}
	overBudget chan struct{} // Raft's log is over its budget
	ctx        context.Context
	cancel     context.CancelFunc
	wg         sync.WaitGroup
}

// Open recovers or creates the journal in o.Dir. One that is alone leads when it
// returns; one of several members may not know of a leader yet, or of a journal.
func Open(ctx context.Context, o Options) (*Journal, error) {
	o.setDefaults()
	j := &Journal{opts: o, failed: make(chan struct{}), overBudget: make(chan struct{}, 1)}
	j.ctx, j.cancel = context.WithCancel(context.Background())
	if err := j.open(ctx); err != nil {
		_ = j.Close()
		return nil, err
	}
	j.wg.Go(j.housekeeping)
	if len(o.Targets) > len(o.Required) {
		j.wg.Go(j.watchOptional)
	}
	if j.opts.Cluster != nil {
		j.wg.Go(j.seekJournal)
	}
	return j, nil
}

func (j *Journal) open(ctx context.Context) (err error) {
	o := &j.opts
	snapDir := filepath.Join(o.Dir, "snapshots")
	for _, d := range []string{o.Dir, snapDir} {
		if err := o.FS.MkdirAll(d, 0o700); err != nil {
			return fail.Wrap(fail.Denied, "create", d, err)
		}
	}
	if err := atomicfile.SyncDir(o.FS, o.Dir); err != nil {
		return fail.Wrap(fail.Internal, "sync", o.Dir, err)
	}
	if j.db, err = openKV(o.FS, filepath.Join(o.Dir, "state"), o.Logger); err != nil {
		return err
	}
	j.wal, err = wal.Open(wal.Options{FS: o.FS, Dir: filepath.Join(o.Dir, "raft"), SegmentBytes: o.LogSegmentBytes,
		BudgetBytes: o.LogBudgetBytes, ReserveBytes: 1 << 40, PreallocateInBackground: true, MaxSpares: logSpares, OnSync: o.OnSync})
	if err != nil {
		return err
	}
	j.logged.log = j.wal
	if err = j.loadIdentity(); err != nil {
		return err
	}
	j.logs = &logStore{log: j.wal, retain: j.retain, failed: j.fatal}
	j.fsm = &fsm{db: j.db, syncLog: j.syncLog, changed: j.changed.Broadcast, fatal: j.fatal, frame: j.frame, holdLog: j.holdLog, named: j.pinJournal, log: j.opts.Logger}
	if err = j.fsm.load(); err != nil {
		return err
	}
	if err = j.loadAges(); err != nil {
		return err
	}
	j.pinJournal(j.fsm.id.Journal)
	j.snaps = &snapStore{o.FS, snapDir}
	return j.startRaft(ctx)
}

// frame reads an entry's bytes for a snapshot.
func (j *Journal) frame(e *Entry) ([]byte, error) {
	b := make([]byte, e.Bytes)
	return b, j.Fetch(e, b)
}

// holdLog keeps Raft's log from being freed until the function that it returns is
// called.
func (j *Journal) holdLog() func() {
	j.logs.hold.RLock()
	return j.logs.hold.RUnlock
}

// retain is the Raft index from which on bytes of the log are needed; what the
// answer is based on is made durable, so that no crash takes it back.
func (j *Journal) retain() (uint64, error) {
	keep, err := j.fsm.firstLogged()
	if err == nil {
		err = fail.Wrap(fail.Internal, "sync", "journal state", j.db.LogData(nil, pebble.Sync))
	}
	return keep, err
}

// loadIdentity sees to it that a journal that is alone knows who it is, and that a
// member has an id. Those of several members learn the journal's identity from
// Raft.
func (j *Journal) loadIdentity() error {
	b, err := get(j.db, keyIdentity)
	if err == nil {
		err = j.loadMember(b != nil)
	}
	if err != nil || b != nil || j.opts.Cluster != nil {
		return err
	}
	if j.wal.Last() > 0 {
		return j.stateLost("it names no journal, but Raft's log has entries")
	}
	return fail.Wrap(fail.Full, "create", "journal", j.db.Set(keyIdentity, mustJSON(j.newIdentity()), pebble.Sync))
}

func (j *Journal) newIdentity() identity {
	return identity{Journal: uuid.New(), Epoch: 1, Site: j.opts.Site, Created: clock.Now().UTC()}
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func (j *Journal) fatal(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err == nil {
		j.err = err
		close(j.failed)
	}
}

// Failed is closed when the journal cannot go on in this process; Err says why.
func (j *Journal) Failed() <-chan struct{} { return j.failed }

// Err is the reason behind Failed.
func (j *Journal) Err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err
}

// Close stops the journal. Nothing that it accepted is lost.
func (j *Journal) Close() error {
	j.cancel()
	j.wg.Wait()
	var first error
	keep := func(err error) {
		if first == nil {
			first = err
		}
	}
	if j.layer != nil {
		j.layer.Seal() // nothing more comes in
	}
	if j.raft != nil {
		keep(j.raft.Shutdown().Error())
	}
	if j.trans != nil {
		keep(j.trans.Close())
	}
	if j.wal != nil {
		keep(j.wal.Close())
	}
	if j.db != nil {
		keep(j.db.Close())
	}
	return first
}

// apply proposes an entry and waits for its result.
func (j *Journal) apply(tag byte, body []byte) (result, error) {
	r, err := j.wait(j.raft.Apply(append([]byte{tag}, body...), applyTimeout))
	if err == nil {
		err = r.err
	}
	return r, err
}

func (j *Journal) wait(f raft.ApplyFuture) (result, error) {
	if err := f.Error(); err != nil {
		if cause := j.Err(); cause != nil {
			err = cause
		}
		return result{}, fail.Wrap(fail.Retry, "append to", "journal", err)
	}
	r, ok := f.Response().(result)
	if !ok {
		return result{}, fail.New(fail.Internal, "apply", "journal entry", "no result")
	}
	return r, nil
}

// Propose applies a control command and returns its journal index.
func (j *Journal) Propose(kind state.Kind, v any) (uint64, error) {
	return j.proposeChecked(state.Encode(kind, v), nil)
}

// proposeChecked proposes a command that is in order as such, and that may, if it is
// asked, does not refuse. Nothing else gets into Raft's log.
func (j *Journal) proposeChecked(command []byte, may func(state.Kind, []byte) error) (uint64, error) {
	kind, body, err := state.Open(command)
	if err == nil {
		err = state.Check(kind, body)
	}
	if err == nil && may != nil {
		err = may(kind, body)
	}
	if err != nil {
		return 0, err
	}
	r, err := j.apply(tagCommand, command)
	return r.index, err
}

// Uploaded commits that a target has come so far.
func (j *Journal) Uploaded(u Uploaded) error {
	j.fsm.mu.RLock()
	tag := byte(tagLazy)
	if j.fsm.floor == 1 || !j.logs.single.Load() {
		tag = tagUploaded
	}
	j.fsm.mu.RUnlock()
	_, err := j.apply(tag, mustJSON(u))
	return err
}

// View calls fn with the control state, which it must neither keep nor change.
func (j *Journal) View(fn func(*state.State)) {
	j.fsm.mu.RLock()
	defer j.fsm.mu.RUnlock()
	fn(j.fsm.state)
}

// Changed returns a channel that is closed when something is applied next.
func (j *Journal) Changed() <-chan struct{} { return j.changed.Next() }

// Target returns how far a target has come.
func (j *Journal) Target(name string) Target {
	j.fsm.mu.RLock()
	defer j.fsm.mu.RUnlock()
	if t := j.fsm.targets[name]; t != nil {
		return *t
	}
	return Target{}
}

// ID names the journal, its epoch and its site; nil until a new member knows.
func (j *Journal) ID() (id uuid.UUID, epoch uint64, site string) {
	j.fsm.mu.RLock()
	defer j.fsm.mu.RUnlock()
	return j.fsm.id.Journal, j.fsm.id.Epoch, j.fsm.id.Site
}

// Created is when the journal was born.
func (j *Journal) Created() time.Time {
	j.fsm.mu.RLock()
	defer j.fsm.mu.RUnlock()
	return j.fsm.id.Created
}

// Term is Raft's current term.
func (j *Journal) Term() uint64 { return j.raft.CurrentTerm() }

// Point returns how far the journal has accepted a stream.
func (j *Journal) Point(id change.StreamID) change.Point {
	j.fsm.mu.RLock()
	defer j.fsm.mu.RUnlock()
	return j.fsm.points[id]
}

// Durable returns the LSN up to which every required target holds a stream.
func (j *Journal) Durable(id change.StreamID) uint64 {
	j.fsm.mu.RLock()
	defer j.fsm.mu.RUnlock()
	return j.requiredDurable(id)
}

// TargetPoints returns where every stream stands in a target's object log.
func (j *Journal) TargetPoints(name string) map[change.StreamID]change.Point {
	j.fsm.mu.RLock()
	defer j.fsm.mu.RUnlock()
	return maps.Clone(j.fsm.durable[name])
}

// SetSource says where frames that are held by reference are read.
func (j *Journal) SetSource(s FrameSource) { j.source = s }

// Status is where the journal stands.
type Status struct {
	Leader          bool
	Term            uint64
	Epoch           uint64
	LogBytes        int64
	LogBudget       int64
	LastIndex       uint64 // newest journal index
	Pending         uint64 // entries that some target still needs
	PendingBytes    int64  // of their frames
	Voters, Members int
	LeaderAddress   string // "" where none is known
	Targets         map[string]Target
	WAL             wal.Stats
}

// Status returns the journal's figures.
func (j *Journal) Status() Status {
	w := j.wal.Stats()
	s := Status{Leader: j.Leads(), Term: j.Term(),
		LogBytes: w.LiveBytes, LogBudget: w.BudgetBytes, WAL: w, Targets: map[string]Target{}}
	s.Voters, s.Members = j.count()
	leader := j.leaderAddress()
	s.LeaderAddress = leader
	j.fsm.mu.RLock()
	defer j.fsm.mu.RUnlock()
	s.Epoch = j.fsm.id.Epoch
	s.LastIndex, s.Pending, s.PendingBytes = j.fsm.next-1, j.fsm.next-j.fsm.floor, j.fsm.backlog.bytes()
	for n, t := range j.fsm.targets {
		s.Targets[n] = *t
	}
	return s
}

// requiredDurable is the LSN that every required target holds. Called with
// fsm.mu held.
func (j *Journal) requiredDurable(id change.StreamID) uint64 {
	return j.fsm.durableLSN(id)
}

// releasedLSN is up to where an agent's WAL is not needed by the journal: what every
// target that counts holds, or all that it accepted once it copies. Called with fsm.mu held.
func (j *Journal) releasedLSN(id change.StreamID) uint64 {
	if j.fsm.copied > 0 && j.fsm.floor > j.fsm.lastRef {
		return j.fsm.points[id].LSN
	}
	return j.fsm.neededLSN(id)
}
