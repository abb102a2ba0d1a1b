package journal

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"sync"
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
	// Inherited is set in a journal that went on here from an object log.
	Inherited *inheritance `json:"inherited,omitempty"`
}

// inheritance is how and when an epoch began.
type inheritance struct {
	First uint64    `json:"first"` // its first journal index
	How   string    `json:"how"`   // state.MoveForced or state.MovePlanned
	Time  time.Time `json:"time"`
}

// Journal is one member of a Raft group. It is safe for concurrent use. It opens, wires
// and closes its parts; what others call is mostly theirs, by embedding.
type Journal struct {
	lead
	membership
	proposer
	targets
	entryReader
	server
	places places

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
	ages   ages         // housekeeping's

	changed notify.Notifier // after every applied batch

	mu         sync.Mutex
	targetInfo func() []change.TargetInfo
	err        error

	failed chan struct{}
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// Open recovers or creates the journal in o.Dir. One that is alone leads when it
// returns; one of several members may not know of a leader yet, or of a journal.
func Open(ctx context.Context, o Options) (*Journal, error) {
	o.setDefaults()
	j := &Journal{opts: o, failed: make(chan struct{})}
	j.ctx, j.cancel = context.WithCancel(context.Background())
	if err := j.open(ctx); err != nil {
		_ = j.Close()
		return nil, err
	}
	j.wg.Go(j.housekeeping)
	if len(o.Targets) > len(o.Required) {
		j.wg.Go(j.targets.watchOptional)
	}
	if j.opts.Cluster != nil {
		j.wg.Go(j.membership.seekJournal)
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
		if fail.Is(err, fail.Damaged) {
			err = o.stateLost(errors.Unwrap(err).Error())
		}
		return err
	}
	j.wal, err = wal.Open(wal.Options{FS: o.FS, Dir: filepath.Join(o.Dir, "raft"), SegmentBytes: o.LogSegmentBytes,
		BudgetBytes: o.LogBudgetBytes, ReserveBytes: 1 << 40, PreallocateInBackground: true, MaxSpares: logSpares,
		OnSync: o.OnSync})
	if err != nil {
		return err
	}
	j.member.opts, j.member.db, j.member.failed = o, j.db, j.fatal
	if err = j.loadIdentity(); err != nil {
		return err
	}
	j.assemble()
	if err = j.fsm.load(); err != nil {
		return err
	}
	if err = j.ages.load(); err != nil {
		return err
	}
	j.member.pin(j.fsm.figures().id.Journal)
	j.snaps = &snapStore{o.FS, snapDir}
	return j.startRaft(ctx)
}

// assemble gives each part what it needs of the others. Raft is not there yet: startRaft
// gives it to those who speak to it.
func (j *Journal) assemble() {
	o := &j.opts
	j.logs = &logStore{log: j.wal, failed: j.fatal, crowded: make(chan struct{}, 1)}
	j.fsm = &fsm{db: j.db, log: o.Logger, host: fsmHost{syncLog: j.syncLog, holdLog: j.logs.holdFront,
		frame: j.entryReader.frame, named: j.member.pin, changed: j.changed.Broadcast, fatal: j.fatal}}
	j.logs.retain = j.fsm.retain
	j.ages = ages{fsm: j.fsm, db: j.db, log: o.Logger}
	j.entryReader = entryReader{fsm: j.fsm, db: j.db, logged: loggedFrames{log: j.wal}}
	j.membership = membership{opts: o, ctx: j.ctx, member: &j.member, lead: &j.lead, logs: j.logs, fsm: j.fsm,
		prepare: j.prepareCopies}
	j.proposer = proposer{failure: j.Err, members: &j.membership, ctx: j.ctx}
	j.places = places{opts: o, members: &j.membership, proposer: &j.proposer, fsm: j.fsm}
	j.targets = targets{opts: o, ctx: j.ctx, fsm: j.fsm, logs: j.logs, entries: &j.entryReader, lead: &j.lead,
		members: &j.membership, proposer: &j.proposer, changed: &j.changed}
	j.server = server{opts: o, fsm: j.fsm, logs: j.logs, entries: &j.entryReader, lead: &j.lead,
		members: &j.membership, proposer: &j.proposer, changed: &j.changed, info: j.Info}
}

// loadIdentity sees to it that a journal that is alone knows who it is, and that a
// member has an id. Those of several members learn the journal's identity from
// Raft.
func (j *Journal) loadIdentity() error {
	b, err := get(j.db, keyIdentity)
	if err == nil {
		err = j.member.load(b != nil, j.wal.Last() > 0)
	}
	if err != nil || b != nil || j.opts.Cluster != nil {
		return err
	}
	if j.wal.Last() > 0 {
		return j.opts.stateLost("it names no journal, but Raft's log has entries")
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

// View calls fn with the control state, which it must neither keep nor change.
func (j *Journal) View(fn func(*state.State)) { j.fsm.view(fn) }

// Changed returns a channel that is closed when something is applied next.
func (j *Journal) Changed() <-chan struct{} { return j.changed.Next() }

// ID names the journal, its epoch and its site; nil until a new member knows.
func (j *Journal) ID() (id uuid.UUID, epoch uint64, site string) {
	is := j.fsm.figures().id
	return is.Journal, is.Epoch, is.Site
}

// Created is when the journal was born.
func (j *Journal) Created() time.Time { return j.fsm.figures().id.Created }

// Term is Raft's current term.
func (j *Journal) Term() uint64 { return j.raft.CurrentTerm() }

// Point returns how far the journal has accepted a stream.
func (j *Journal) Point(id change.StreamID) change.Point { return j.fsm.point(id) }

// Durable returns the LSN up to which every remote target holds a stream.
func (j *Journal) Durable(id change.StreamID) uint64 { return j.fsm.remoteLSN(id) }

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
	s, _ := j.status()
	return s
}

// status is Status, and who the journal is at that moment.
func (j *Journal) status() (Status, identity) {
	w := j.wal.Stats()
	s := Status{Leader: j.Leads(), Term: j.Term(),
		LogBytes: w.LiveBytes, LogBudget: w.BudgetBytes, WAL: w}
	s.Voters, s.Members = j.membership.count()
	s.LeaderAddress = j.membership.leader()
	var now figures
	j.fsm.read(func(v view) { now, s.Targets = v.figures(), v.targets() })
	s.Epoch = now.id.Epoch
	s.LastIndex, s.Pending, s.PendingBytes = now.last, now.last+1-now.floor, now.backlogBytes
	return s, now.id
}

// SetTargetInfo says how to find out where the targets' uploaders stand.
func (j *Journal) SetTargetInfo(f func() []change.TargetInfo) {
	j.mu.Lock()
	j.targetInfo = f
	j.mu.Unlock()
}

// Info is where the journal stands, as its leader sees it.
func (j *Journal) Info() change.JournalInfo {
	st, id := j.status()
	out := change.JournalInfo{Journal: id.Journal, Epoch: id.Epoch, Site: id.Site, Term: st.Term,
		Leader: st.LeaderAddress, Voters: st.Voters, Members: st.Members, LogBytes: st.LogBytes,
		LogBudget: st.LogBudget}
	j.mu.Lock()
	targets := j.targetInfo
	j.mu.Unlock()
	if targets != nil {
		out.Targets = targets()
	}
	out.Superseded = j.Superseded()
	return out
}
