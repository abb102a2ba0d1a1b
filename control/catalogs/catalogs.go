package catalogs

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// Host is a journal's member with its targets, as package journalnode has it.
type Host interface {
	Lead(ctx context.Context, work func(ctx context.Context, term uint64))
	Targets() []change.TargetInfo
	NoteCatalog(target string, c change.CatalogInfo)
	OpenStore(ctx context.Context, t config.Target, connections int) (objstore.Store, error)
}

// Options configure Run. The waits are for tests; zero values take the defaults.
type Options struct {
	Host    Host
	Targets []config.Target
	// Every is by how many objects a log has to grow; 0 is never.
	Every int
	// StateDir is the daemon's state directory; Run makes and clears one of its own there.
	StateDir string
	Logger   *slog.Logger

	Poll    time.Duration // how often a target's status is looked at
	First   time.Duration // wait after a failure, doubled after each further one
	Longest time.Duration
	// Lasting is the wait after an error that stays until somebody mends the log.
	Lasting time.Duration
	// Yield is for how long a log is left to whoever else made its newest catalog.
	Yield time.Duration
}

const (
	defaultPoll    = 10 * time.Second
	defaultFirst   = 30 * time.Second
	defaultLongest = time.Hour
	defaultLasting = 6 * time.Hour
	defaultYield   = time.Hour
	// connections is how many connections to the store read footers at a time. More would
	// take the link from the uploader.
	connections = 8
	// patience is how long one request is tried for.
	patience = 5 * time.Minute
)

func (o *Options) complete() {
	for _, d := range []struct {
		p *time.Duration
		v time.Duration
	}{{&o.Poll, defaultPoll}, {&o.First, defaultFirst}, {&o.Longest, defaultLongest},
		{&o.Lasting, defaultLasting}, {&o.Yield, defaultYield}} {
		if *d.p == 0 {
			*d.p = d.v
		}
	}
}

// ScratchDir is the directory below a state directory for what memory should not hold. A
// run clears it when it begins, and of each catalog when that is made.
func ScratchDir(stateDir string) string { return filepath.Join(stateDir, "catalog-scratch") }

// Run makes catalogs while the member leads, until ctx ends.
func Run(ctx context.Context, o Options) {
	o.complete()
	if err := os.RemoveAll(ScratchDir(o.StateDir)); err != nil { // of a process that was killed
		o.Logger.Warn("what an earlier run left is not removed", "dir", ScratchDir(o.StateDir), "err", err)
	}
	if o.Every <= 0 {
		return
	}
	turn := make(chan struct{}, 1) // one catalog at a time
	o.Host.Lead(ctx, func(ctx context.Context, _ uint64) {
		var wg sync.WaitGroup
		for _, t := range o.Targets {
			wg.Go(func() { follow(ctx, &o, t, turn) })
		}
		wg.Wait()
	})
}

// follow makes catalogs of one target's log under one lead.
func follow(ctx context.Context, o *Options, t config.Target, turn chan struct{}) {
	m := &maker{o: o, target: t, log: o.Logger.With("target", t.Name)}
	defer m.close()
	for {
		wait := o.Poll
		if end, ok := m.end(); ok && (!m.looked || m.due(end)) {
			select {
			case turn <- struct{}{}:
				wait = m.attempt(ctx)
				<-turn
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// end is the position at which the target's log ends, as far as its uploader knows. It is not
// ok where there is no log yet, where another writer has it, or where the uploader stopped.
func (m *maker) end() (position uint64, ok bool) {
	for _, t := range m.o.Host.Targets() {
		if t.Name == m.target.Name {
			return t.Position, t.Position > 0 && !t.Fenced && !t.Stopped
		}
	}
	return 0, false
}

// attempt looks at the log, makes a catalog where one is due, and says when to come again.
func (m *maker) attempt(ctx context.Context) time.Duration {
	wait, err := m.step(ctx)
	if ctx.Err() != nil {
		return 0
	}
	m.report(err)
	if err == nil {
		m.failures = 0
		return wait
	}
	if lasting(err) {
		return m.o.Lasting
	}
	m.failures++
	return min(m.o.First<<min(m.failures-1, 16), m.o.Longest)
}

// lasting reports whether trying again soon is no use.
func lasting(err error) bool {
	switch fail.KindOf(err) {
	case fail.Damaged, fail.Unsupported, fail.Refused:
		return true
	}
	return false
}

// report logs what is new, and tells the host where the catalogs stand.
func (m *maker) report(err error) {
	info := change.CatalogInfo{Position: m.covered, Time: m.created}
	switch {
	case err != nil:
		info.Error = fail.Explain(err)
		const again = time.Hour
		if kind := fail.KindOf(err); m.failed == nil || kind != *m.failed ||
			time.Since(m.told) >= again && !lasting(err) {
			m.log.Warn("no catalog of the target's log is made; opening it takes longer", "err", err,
				"hint", fail.HintOf(err))
			m.failed, m.told = &kind, time.Now()
		}
	case m.failed != nil:
		m.log.Info("catalogs of the target's log can be made again")
		m.failed = nil
	}
	m.o.Host.NoteCatalog(m.target.Name, info)
}
