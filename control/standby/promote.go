package standby

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/node"
	"github.com/pollux-dr/pollux/control/promote"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/journal/journalnode"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// errBegun is of a failover that may not have fenced the log: nothing goes on by itself then, since
// it may be long ago, and the former seat serve again.
var errBegun = fail.New(fail.Refused, "fail over", "", "a failover was begun, and has not fenced the log").
	WithHint("repeat pollux failover --force -c with this configuration, or give it up: remove failover.json of the " +
		"state directory and restart the standby")

// Failover takes the journal over with the images of this standby. A caller who leaves meanwhile
// stops nothing.
func (s service) Failover(ctx context.Context, r api.Failover) (json.RawMessage, error) {
	d := s.d
	if !d.takeTurn(ctx) {
		return nil, fail.Wrap(fail.Retry, "fail over", "journal", ctx.Err())
	}
	defer func() { <-d.turn }()
	began := time.Now()
	rep, err := d.failOver(r, nil, func(line string) { api.Progress(ctx, line) })
	if err != nil {
		return nil, err
	}
	if !rep.DryRun {
		rep.RTOSeconds = time.Since(began).Seconds()
	}
	b, err := json.Marshal(rep)
	return b, fail.Wrap(fail.Internal, "encode", "report", err)
}

// failOver runs a failover, by force or to take a hand-over up, or the rest of one, and becomes the
// agent. Called with the turn.
func (d *Daemon) failOver(r api.Failover, over *promote.HandOver, tell func(line string)) (*promote.Report, error) {
	if err := d.verbs.Err(); err != nil {
		return nil, fail.Wrap(fail.Retry, "fail over", "journal", err)
	}
	if d.isAgent() { // while the caller waited
		return promote.DoneAt(d.conf)
	}
	say := func(line string) {
		d.log.Info("failover: " + line)
		tell(line)
	}
	_, cache := d.atHand()
	var read *twin.Log
	if over != nil {
		read = d.takeRead()
	}
	began := clock.SinceBoot()
	rep, err := promote.Force(d.verbs, promote.Options{Conf: d.conf, Path: "this standby's configuration",
		Target: r.Target, At: r.At, Agents: r.Agents, Backings: r.Backings, KeepAck: r.KeepAck,
		WaitForData: r.WaitForData, Overwrite: r.Overwrite,
		DryRun: r.DryRun, HandOver: over, Standby: d.engine, Version: d.version, Operator: cmp.Or(r.By, d.conf.Name),
		Open: d.openerFor(over, time.Duration(r.PatienceSeconds*1e9)), Cache: cache, Log: read, Tell: say,
		Confirm: func(found *promote.Report) error { return d.confirmed(&r, found, over != nil) },
		Stage:   func(what string) (twin.Progress, func()) { return progress(what, say) }, Logger: d.log, Step: d.step})
	if r.DryRun {
		return rep, err
	}
	if err == nil {
		say("the agent starts")
		err = d.become(d.verbs, !rep.Resumed && clock.SinceBoot()-began < fresh)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.promotion = err; err != nil {
		stage, serr := promote.StageOf(d.conf.State)
		d.promoting = serr != nil || stage != promote.None
		d.log.Error("the failover does not go on", "err", err, "hint", fail.HintOf(err))
		return nil, err
	}
	d.promoting = false
	return rep, nil
}

// freshLimit is for how long a fence says by itself who is the seat. A process that was stopped for longer,
// or took so long, looks at the log again before it serves: another site may have been there since.
const freshLimit = 5 * time.Second

var fresh = freshLimit // but for a test

// confirmed refuses what is not what the caller has seen.
func (d *Daemon) confirmed(r *api.Failover, found *promote.Report, handed bool) error {
	if handed || r.Journal == found.Name && r.Epoch == found.Epoch {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.promoting, d.promotion = true, nil
		return nil
	}
	return fail.New(fail.Refused, "fail over", "journal "+found.Name, fmt.Sprintf("epoch %d of it was not confirmed; "+
		"epoch %d of %q was", found.Epoch, r.Epoch, r.Journal)).WithHint("look again, and repeat the verb")
}

// progress tells of a long step now and then.
func progress(what string, tell func(line string)) (twin.Progress, func()) {
	var mu sync.Mutex
	last := time.Now()
	return func(done, total int64) {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(last) < 2*time.Second {
			return
		}
		last = time.Now()
		tell(fmt.Sprintf("%s: %d %%", what, 100*done/max(total, 1)))
	}, func() {}
}

// opener opens targets for a failover.
func (d *Daemon) opener(limit time.Duration) func(context.Context, config.Target) (objstore.Store, func(), error) {
	return func(ctx context.Context, t config.Target) (objstore.Store, func(), error) {
		o := journalnode.StoreOptions(t)
		o.Existing = true // what is not there has no log
		s, err := objstore.Open(ctx, t.URL, o)
		if err != nil {
			return nil, nil, err
		}
		s = objstore.WithRetry(s,
			objstore.Policy{Patience: func(bool) time.Duration { return cmp.Or(limit, patience) }})
		return s, func() { _ = s.Close() }, nil
	}
}

// goOn ends a failover that was cut short behind its fence: by itself, since nobody else can serve
// the journal.
func (d *Daemon) goOn() {
	go func() {
		for d.takeTurn(d.verbs) {
			_, err := d.failOver(api.Failover{}, nil, func(string) {})
			<-d.turn
			if err == nil || !fail.Is(err, fail.Retry) {
				return
			}
			select {
			case <-time.After(patience / 2):
			case <-d.verbs.Done():
			}
		}
	}()
}

// takeTurn waits until no failover runs.
func (d *Daemon) takeTurn(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case d.turn <- struct{}{}:
		return true
	}
}

// become gives up the sockets, and starts the agent in this process. An error of that ends the
// daemon: its next start is the agent's. fenced says that the log was fenced just now.
func (d *Daemon) become(ctx context.Context, fenced bool) (err error) {
	defer func() {
		if err != nil {
			select {
			case d.failed <- err:
			default:
			}
		}
	}()
	if err := d.stop(d.http.Leave, false); err != nil {
		return err
	}
	if d.guard != nil {
		d.guard()
	}
	lock := d.lock
	d.lock = nil // the agent's, even where it does not start
	p, err := node.StartLocked(ctx, d.conf, d.version, d.log,
		node.Held{Lock: lock, Parked: d.parked, Fenced: fenced})
	if err != nil {
		return errors.Join(err, errors.New("the journal is at this site, and its agent did not start"))
	}
	d.log.Info("a failover has moved the journal here: this process is the agent now", "nbd", d.conf.NBD.Unix,
		"control", d.conf.Socket)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next = p
	close(d.became)
	go func() {
		select {
		case <-p.HandedOver():
			close(d.over)
		case <-d.verbs.Done():
		}
	}()
	return nil
}

func (d *Daemon) isAgent() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.next != nil
}
