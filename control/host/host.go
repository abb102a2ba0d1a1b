package host

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/pollux-dr/pollux/control/failback"
	"github.com/pollux-dr/pollux/control/failback/record"
	"github.com/pollux-dr/pollux/control/node"
	"github.com/pollux-dr/pollux/control/standby"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/journal/journalnode"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// Options are what a host needs beside its configuration.
type Options struct {
	// Path is the configuration's, for hints.
	Path    string
	Version string
	Logger  *slog.Logger
	// Standby: the host was asked to follow, where its state directory does not say what it is.
	Standby bool
	// Guard is called before the process serves volumes: what that needs of the system.
	Guard func()
}

// process is an agent's daemon, or a standby's.
type process interface {
	Wait(ctx context.Context) error
	Close() error
	Leave() error
	HandedOver() <-chan struct{}
}

// Host is a process that is an agent or a standby.
type Host struct {
	conf *config.Agent
	o    Options

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	failed chan error // holds why it cannot go on

	mu      sync.Mutex
	now     process       // nil while it changes
	changed chan struct{} // closed when now is another
}

// Start starts what the state directory says that the host is, and else what it was asked for.
func Start(ctx context.Context, conf *config.Agent, o Options) (*Host, error) {
	h := &Host{conf: conf, o: o, failed: make(chan error, 1), changed: make(chan struct{})}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	p, err := h.begin(ctx)
	if err != nil {
		h.cancel()
		return nil, err
	}
	h.now = p
	h.wg.Go(h.run)
	return h, nil
}

func (h *Host) begin(ctx context.Context) (process, error) {
	rec, err := record.Load(h.conf.State)
	switch {
	case err != nil:
		return nil, err
	case rec != nil && rec.HandedOver && rec.Done.IsZero(): // it was cut short
		if err := h.follow(ctx); err != nil {
			return nil, err
		}
		return h.standby(ctx)
	case h.o.Standby || rec != nil && rec.HandedOver && follows(h.conf.State):
		if err := failback.Tidy(h.conf.State); err != nil {
			return nil, err
		}
		return h.standby(ctx)
	}
	return h.agent(ctx)
}

// follows reports whether a state directory is that of a standby, or of what a standby became: a
// standby's daemon goes on with either.
func follows(state string) bool {
	_, agent := os.Stat(filepath.Join(state, "agent", "agent.json"))
	_, failover := os.Stat(node.FailoverPath(state))
	return agent != nil || failover == nil
}

func (h *Host) agent(ctx context.Context) (process, error) {
	if h.o.Guard != nil {
		h.o.Guard()
	}
	d, err := node.Start(ctx, h.conf, h.o.Version, h.o.Logger)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (h *Host) standby(ctx context.Context) (process, error) {
	d, err := standby.Start(ctx, h.conf, standby.Options{Version: h.o.Version, Logger: h.o.Logger, Guard: h.o.Guard})
	if err != nil {
		return nil, err
	}
	return d, nil
}

// Waits between attempts to follow: the log that is followed may not have been brought in line yet.
const (
	firstWait   = 2 * time.Second
	longestWait = 5 * time.Minute
)

// run changes what the host is, whenever it has handed its journal over.
func (h *Host) run() {
	wait := firstWait
	for {
		p, _ := h.get()
		select {
		case <-h.ctx.Done():
			return
		case <-p.HandedOver():
		}
		h.set(nil)
		next, follows, err := h.change(p)
		if err != nil {
			h.failed <- err
			return
		}
		h.set(next)
		switch {
		case follows == nil:
			wait = firstWait
			continue
		case !passing(follows):
			return // it stays superseded
		}
		select {
		case <-time.After(wait):
		case <-h.ctx.Done():
			return
		}
		wait = min(2*wait, longestWait)
	}
}

// passing reports whether what keeps a host from following may be over later: a store that is away, or
// a log that has not been brought in line yet.
func passing(err error) bool { return fail.Is(err, fail.Retry) || fail.Is(err, fail.Refused) }

// change makes a standby of what has handed the journal over. Where it cannot follow, it is the
// superseded agent again.
func (h *Host) change(p process) (next process, follows, err error) {
	if err := p.Leave(); err != nil {
		h.o.Logger.Warn("the agent of the former seat did not stop as it should", "err", err)
	}
	if follows = h.follow(h.ctx); follows == nil {
		h.o.Logger.Info("the journal was handed over: this host follows it from there, as a standby")
		next, err = h.standby(h.ctx)
		return next, nil, err
	}
	if passing(follows) {
		h.o.Logger.Warn("this host handed the journal over, and cannot follow it yet", "err", follows)
	} else {
		h.o.Logger.Error("this host handed the journal over, and does not follow it by itself", "err", follows,
			"hint", fail.HintOf(follows))
	}
	if rec, rerr := record.Load(h.conf.State); rerr == nil && rec != nil && rec.HandedOver && rec.Done.IsZero() {
		return nil, follows, follows // cut short: the next start goes on
	}
	next, err = h.agent(h.ctx)
	return next, follows, err
}

// follow makes the state of a standby, where this host has nothing that the log does not have.
func (h *Host) follow(ctx context.Context) error {
	_, err := failback.Run(ctx, failback.Options{Conf: h.conf, Path: h.o.Path, HandedOver: true, Open: open,
		Confirm: func(*failback.Report) error { return nil },
		Tell:    func(text string) { h.o.Logger.Info("following: " + text) },
		Stage:   func(string) (twin.Progress, func()) { return func(int64, int64) {}, func() {} },
		Logger:  h.o.Logger})
	return err
}

// patience is for how long a store is tried.
const patience = 10 * time.Second

func open(ctx context.Context, t config.Target) (objstore.Store, func(), error) {
	o := journalnode.StoreOptions(t)
	o.ReadOnly = true
	s, err := objstore.Open(ctx, t.URL, o)
	if err != nil {
		return nil, nil, err
	}
	s = objstore.WithRetry(s, objstore.Policy{Patience: func(bool) time.Duration { return patience }})
	return s, func() { _ = s.Close() }, nil
}

func (h *Host) get() (process, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now, h.changed
}

func (h *Host) set(p process) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = p
	close(h.changed)
	h.changed = make(chan struct{})
}

// Now is what the host is at the moment: *node.Daemon, *standby.Daemon, or nil while it changes.
func (h *Host) Now() any {
	p, _ := h.get()
	return p
}

// Wait blocks until ctx ends, or the host cannot go on.
func (h *Host) Wait(ctx context.Context) error {
	for {
		p, changed := h.get()
		stop, cancel := context.WithCancel(ctx)
		ended := make(chan error, 1)
		if p != nil {
			go func() { ended <- p.Wait(stop) }()
		}
		select {
		case <-ctx.Done():
			cancel()
			return nil
		case err := <-h.failed:
			cancel()
			return err
		case err := <-ended:
			if cancel(); err != nil || ctx.Err() != nil {
				return err
			}
		case <-changed:
			cancel()
		}
	}
}

// Close stops what the host is.
func (h *Host) Close() error {
	h.cancel()
	h.wg.Wait()
	if p, _ := h.get(); p != nil {
		return p.Close()
	}
	return nil
}
