package promote

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/failback/record"
	"github.com/pollux-dr/pollux/control/node"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/standby"
)

// Opener opens a target's store, and returns with it what closes it.
type Opener func(ctx context.Context, t config.Target) (objstore.Store, func(), error)

// Options say what fails over, and who is asked and told.
type Options struct {
	Conf *config.Agent
	Path string // of the configuration, for hints
	// Target is the name or URL of the one whose log is taken; "" is the farthest of those
	// outside the lost site.
	Target string
	// HandOver is the one that is taken up, of Target's log; nil takes the journal over by force.
	HandOver *HandOver
	At       string // the point that volumes go on from, as --at; "" is the newest
	// Agents are those whose streams go on here; none are all.
	Agents []string
	// Backings are where volumes go, by name; the others go below the state directory.
	Backings  map[string]string
	KeepAck   bool // leave groups at an ack that cannot be kept here
	Overwrite bool // restore even where a backing is there already
	DryRun    bool // change nothing
	// WaitForData restores volumes wholly before the agent can start.
	WaitForData bool
	// Standby is the engine of the standby that runs in this process; the lock of the state
	// directory is its caller's then. Without it that of one which has ended here is used.
	Standby *standby.Standby
	Cache   *twin.Cache // of what was read of logs; nil is none
	// Log is that of HandOver as its caller has read it before, with the store that Open returns: what came
	// since is read. nil: it is read here.
	Log      *twin.Log
	Version  string
	Operator string // who asks, for the audit
	// Open opens a target's store for writing.
	Open Opener
	// Confirm is asked before anything is changed; its error ends the run.
	Confirm func(found *Report) error
	Tell    func(text string)
	// Stage is image.Options.Stage.
	Stage  func(what string) (twin.Progress, func())
	Logger *slog.Logger

	// Step, and step, if set, are a test's: they are told of each step that is done.
	Step func(name string) error
	step func(name string) error
}

// run is one failover.
type run struct {
	Options
	conf   *config.Agent
	fs     vfs.FS
	intent *intent
	found  *found // the log
	rep    *Report
	warm   bool // Standby is there, and its images may be used
}

// Force takes the journal over without its former seat. The agent of the configuration can be
// started when it returns. A repeat goes on with what an earlier call has begun, and one whose work
// is done changes nothing.
func Force(ctx context.Context, o Options) (*Report, error) {
	r := &run{Options: o, conf: o.Conf, fs: vfs.Default, rep: &Report{Site: o.Conf.Site, DryRun: o.DryRun}}
	if r.step == nil {
		r.step = o.Step
	}
	began := time.Now()
	var err error
	if r.conf, err = record.Places(o.Conf); err != nil {
		return nil, err
	}
	if o.Standby == nil {
		unlock, err := node.LockState(r.conf, o.DryRun)
		if err != nil {
			return nil, err
		}
		defer unlock()
	}
	if err := r.begin(ctx); err != nil {
		return nil, err
	}
	defer r.found.close()
	if r.DryRun || r.rep.Done {
		return r.rep, nil
	}
	for _, s := range []struct {
		name string
		do   func(context.Context) error
	}{{"fence", r.fence}, {"journal", r.inherit}, {"images", r.images}, {"commands", r.command}, {"agent", r.rebuild}} {
		if err := s.do(ctx); err != nil {
			return nil, err
		}
		if err := r.done(s.name); err != nil {
			return nil, err
		}
	}
	r.intent.Done = clock.Now().UTC()
	if err := r.saveIntent(); err != nil {
		return nil, err
	}
	r.settle()
	r.rep.Seconds = time.Since(began).Seconds()
	return r.rep, nil
}

// done tells a test of a step that is done.
func (r *run) done(step string) error {
	if r.step == nil {
		return nil
	}
	return r.step(step)
}

// begin finds out what there is, and writes down what is going to be done.
func (r *run) begin(ctx context.Context) (err error) {
	if err = record.Pending(r.conf.State); err != nil {
		return err
	}
	if r.intent, err = loadIntent(r.fs, r.conf.State); err != nil {
		return err
	}
	if r.overtaken() {
		if err := r.forget(); err != nil {
			return err
		}
	}
	if err := r.mayRun(); err != nil {
		return err
	}
	if r.found, err = r.find(ctx); err != nil {
		return err
	}
	if err = r.openStandby(); err != nil {
		return err
	}
	if r.intent == nil {
		r.rep.describe(r)
		if err = r.inTime(); err != nil {
			return err
		}
		if err = r.found.takeable(r); err != nil {
			return err
		}
		if err = r.survey(ctx); err != nil {
			return err
		}
		if r.DryRun {
			return nil
		}
		if err = r.Confirm(r.rep); err != nil {
			return err
		}
		return r.decide()
	}
	r.rep.Resumed = true
	r.rep.Done = !r.intent.Done.IsZero()
	r.rep.describe(r)
	if r.rep.Done {
		return r.stillHere()
	}
	return r.survey(ctx)
}

// inTime refuses to take up a hand-over of an epoch that another site has ended since: whoever did that
// has the journal, though nothing may follow its fence yet.
func (r *run) inTime() error {
	if h := r.HandOver; h != nil && r.rep.FromEpoch > h.From {
		return fail.New(fail.Fenced, "take over", "journal "+r.rep.Name, fmt.Sprintf("it was handed over under epoch "+
			"%d, and another site has fenced its log under epoch %d since", h.From, r.rep.FromEpoch)).
			WithHint("look there; if that site is lost again, pollux failover --force takes the journal over here")
	}
	return nil
}

// stillHere refuses to say that the journal is here where it went on elsewhere since.
func (r *run) stillHere() error {
	if epoch := r.found.log.Epoch; epoch > r.intent.Token.Epoch {
		return errMoved(r.intent, epoch)
	}
	return nil
}

func errMoved(in *intent, epoch uint64) error {
	return fail.New(fail.Fenced, "fail over", "journal "+api.JournalName(in.Journal), fmt.Sprintf("it was here under "+
		"epoch %d, and went on under epoch %d since", in.Token.Epoch, epoch)).
		WithHint("use it there; pollux failback makes a standby of this host, and keeps what never left it")
}

// decide makes the intent durable: from here on a repeat does the same.
func (r *run) decide() error {
	l := r.found.log
	r.intent = &intent{ID: uuid.New(), Began: clock.Now().UTC(), Journal: l.Identity.Journal,
		Target: r.found.target.Name, FromSite: l.State.Seat.Site, Site: r.conf.Site, At: r.At,
		Agents: r.rep.Agents, Backings: r.Backings, HandOver: r.HandOver, WaitForData: r.WaitForData,
		Token: segment.Token{Epoch: r.rep.Epoch, Writer: uuid.New()}}
	if err := os.MkdirAll(r.conf.State, 0o700); err != nil {
		return fail.Wrap(fail.Denied, "create", r.conf.State, err)
	}
	return r.saveIntent()
}

// mayRun refuses a state directory that has an agent or a journal of its own.
func (r *run) mayRun() error {
	if r.intent != nil {
		return nil
	}
	for _, name := range []string{"agent", "journal"} {
		dir := filepath.Join(r.conf.State, name)
		if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
			return fail.New(fail.Exists, "fail over into", dir, "this host has a state of its own there").
				WithHint("a failover takes a host without one: name another `state` in " + r.Path +
					", or move " + dir + " away if it is of no use any more")
		}
	}
	return nil
}

// rebuild writes the agent's state: its streams go on where the log ended.
func (r *run) rebuild(context.Context) error {
	_ = os.Remove(node.ArenaPath(r.conf)) // of writes that no log holds
	dir := filepath.Join(r.conf.State, "agent")
	if _, err := os.Stat(filepath.Join(dir, "agent.json")); err == nil {
		return nil // it was the last thing that an earlier run did
	}
	streams, volumes, taken, err := r.agentState()
	if err != nil {
		return err
	}
	return agent.Rebuild(r.fs, dir, r.conf.Name, streams, volumes, taken)
}
