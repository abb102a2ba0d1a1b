package failback

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/control/failback/record"
	"github.com/pollux-dr/pollux/control/node"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/branch"
)

// Options say what goes back, and who is asked and told.
type Options struct {
	Conf *config.Agent
	Path string // of the configuration, for hints
	// Target is the name or URL of the one whose log is read; "" is the farthest.
	Target string
	// Compare: whatever WAL and bitmaps say, the volumes are compared with the log.
	Compare bool
	DryRun  bool // change nothing
	// HandedOver goes back only where this host handed its journal over, and has nothing that the log
	// does not have: otherwise fail.Fenced. No branch is left then.
	HandedOver bool
	// Open opens a target's store for reading.
	Open func(ctx context.Context, t config.Target) (objstore.Store, func(), error)
	// Confirm is asked before anything is changed; its error ends the run.
	Confirm func(found *Report) error
	Tell    func(text string)
	// Stage is told of each long part; of what it returns one hears how far it is.
	Stage  func(what string) (twin.Progress, func())
	Logger *slog.Logger

	// step, if set, is a test's: it is told of each step that is done.
	step func(name string) error
}

// run is one failback.
type run struct {
	Options
	conf  *config.Agent
	rec   *record.Record
	found *found
	rep   *Report
	// accepted is what the journal here had accepted of each stream, where it was in this process.
	accepted map[change.StreamID]change.Point
}

// Run makes this host's state directory that of a standby, and saves what only it has as a branch.
// The agent must not run. A repeat goes on with what an earlier call has begun, and one whose work is
// done changes nothing.
func Run(ctx context.Context, o Options) (*Report, error) {
	r := &run{Options: o, conf: o.Conf, rep: &Report{DryRun: o.DryRun}}
	began := time.Now()
	if _, err := os.Stat(filepath.Join(o.Conf.State, "lock")); o.DryRun && os.IsNotExist(err) {
		return nil, noAgent(o.Conf.State) // a lock would be made
	}
	unlock, err := node.LockState(r.conf, o.DryRun)
	if err != nil {
		return nil, err
	}
	defer unlock()
	defer func() { r.found.close() }()
	if err := r.begin(ctx); err != nil {
		return nil, err
	}
	switch {
	case r.DryRun:
		return r.rep, nil
	case r.rep.Done:
		return r.rep, Tidy(r.conf.State)
	}
	for _, s := range []struct {
		name string
		do   func(context.Context) error
	}{{"settle", r.settle}, {"save", r.save}, {"put back", r.putBack}, {"adopt", r.adopt}, {"aside", r.aside}} {
		if err := s.do(ctx); err != nil {
			return nil, err
		}
		if err := r.stepped(s.name); err != nil {
			return nil, err
		}
	}
	if err := r.rep.finish(r); err != nil {
		return nil, err
	}
	if err := Tidy(r.conf.State); err != nil {
		return nil, err
	}
	r.rep.Seconds = time.Since(began).Seconds()
	return r.rep, nil
}

func (r *run) stepped(name string) error {
	if r.step == nil {
		return nil
	}
	return r.step(name)
}

func (r *run) saveRecord() error { return r.rec.Save(r.conf.State) }

// begin finds out what there is, and writes down what is going to be done.
func (r *run) begin(ctx context.Context) (err error) {
	if r.rec, err = record.Load(r.conf.State); err != nil {
		return err
	}
	_, err = os.Stat(filepath.Join(r.agentDir(), "agent.json"))
	agentHere := err == nil
	switch {
	case r.rec != nil && r.rec.Done.IsZero():
		r.rep.Resumed = true
		if err := r.refind(ctx); err != nil {
			return err
		}
		r.rep.describe(r)
		return nil
	case r.rec != nil && !agentHere:
		r.rep.Done = true
		r.rep.describe(r)
		return r.rep.finish(r)
	case !agentHere:
		return noAgent(r.conf.State)
	}
	r.rec = nil // of an earlier failback: the seat was here again since
	if err := r.survey(ctx); err != nil {
		return err
	}
	if r.HandedOver {
		if err := r.nothingOwn(); err != nil {
			return err
		}
		r.rec.HandedOver = true
	}
	r.rep.describe(r)
	if r.DryRun {
		return nil
	}
	if err := r.Confirm(r.rep); err != nil {
		return err
	}
	if err := r.saveRecord(); err != nil {
		return err
	}
	return r.stepped("decide")
}

func noAgent(state string) error {
	return fail.New(fail.NotFound, "fail back", state, "there is no agent's state of a former seat").
		WithHint("run it on the host of the former seat, with its agent's configuration; a host without any state " +
			"follows at once: pollux standby")
}

func (r *run) agentDir() string { return filepath.Join(r.conf.State, "agent") }

// settle brings the backings up to all that was acknowledged here.
func (r *run) settle(ctx context.Context) error {
	if r.rec.Settled {
		return nil
	}
	idle, err := agent.ReadIdle(vfs.Default, r.agentDir())
	if err != nil {
		return err
	}
	walErr := idle.WALErr
	if err := idle.Close(); err != nil {
		return err
	}
	if walErr == nil {
		c := r.conf
		err := agent.Settle(ctx, agent.Options{Name: r.rec.Agent, StateDir: r.agentDir(), ArenaPath: node.ArenaPath(c),
			Logger: r.Logger, MemoryBytes: int64(c.Memory), WALBudgetBytes: int64(c.WAL.Budget),
			WALSegmentBytes: int64(c.WAL.Segment)})
		if err != nil {
			return err
		}
	} else {
		r.Tell("the WAL cannot be read, so what had not been applied from it is not in the backings: " + walErr.Error())
	}
	r.rec.Settled = true
	return r.saveRecord()
}

// aside puts the state of the former agent and journal to the branch, where nothing finds it.
func (r *run) aside(context.Context) error {
	dir := branch.PathOf(r.conf.State, r.rec.ID)
	for _, name := range []string{"journal", "failover.json", "superseded.json", "agent"} {
		if err := moveAside(r.conf.State, dir, name); err != nil {
			return err
		}
		if err := r.stepped("aside " + name); err != nil {
			return err
		}
	}
	if err := os.Remove(node.ArenaPath(r.conf)); err != nil && !os.IsNotExist(err) {
		return fail.Wrap(fail.Denied, "remove", node.ArenaPath(r.conf), err)
	}
	r.rec.Done = clock.Now().UTC()
	return r.saveRecord()
}
