package journalnode

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/journal"
	"github.com/pollux-dr/pollux/replicator/journal/uploader"
	"github.com/pollux-dr/pollux/replicator/objlog/claim"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
)

// Options configure a Host.
type Options struct {
	Journal journal.Options // its Targets and Required come from Targets
	Targets []config.Target
	FS      vfs.FS // for file:// targets
	Logger  *slog.Logger
	// Observe returns what is told of a target's requests.
	Observe func(target string) func(objstore.Request)
	// FoldFromBytes is uploader.Options'.
	FoldFromBytes int64
}

// Host is a running member. Its methods are safe for concurrent use.
type Host struct {
	*journal.Journal
	o       Options
	targets []*target
}

// target is one object store, with its uploader while this member leads.
type target struct {
	conf  config.Target
	store objstore.Store
	dates *objstore.Dates // of its answers

	mu    sync.Mutex
	up    *uploader.Uploader
	early error // of the store before there was an uploader
	sum   change.TargetInfo
	// catalog is what was last told of the log's newest catalog.
	catalog *change.CatalogInfo
}

// openTimeout bounds the wait for an embedded journal's lead.
const openTimeout = 60 * time.Second

// Open opens the journal and its targets. A target that is not there is an error
// only at the very first start of a journal that is alone: later it delays, no
// more.
func Open(ctx context.Context, o Options) (*Host, error) {
	h := &Host{o: o}
	for _, t := range o.Targets {
		o.Journal.Targets = append(o.Journal.Targets, t.Name)
		if !t.Optional {
			o.Journal.Required = append(o.Journal.Required, t.Name)
		}
		if o.Journal.Places == nil {
			o.Journal.Places = map[string]journal.TargetPlace{}
		}
		o.Journal.Places[t.Name] = journal.TargetPlace{Site: t.Site, URL: t.URL}
	}
	limited, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	var err error
	if h.Journal, err = journal.Open(limited, o.Journal); err != nil {
		return nil, err
	}
	for _, tc := range o.Targets {
		if err := h.openTarget(ctx, tc); err != nil {
			_ = h.Close()
			return nil, err
		}
	}
	h.SetTargetInfo(h.Targets)
	return h, nil
}

func (h *Host) openTarget(ctx context.Context, tc config.Target) error {
	t := &target{conf: tc, dates: &objstore.Dates{}}
	open := func(ctx context.Context) (objstore.Store, error) { return h.openStore(ctx, tc, 0, t.dates) }
	s, err := open(ctx)
	if err != nil && !fail.Is(err, fail.Invalid) && (h.o.Journal.Cluster != nil || h.Target(tc.Name).Position > 0) {
		h.o.Logger.Warn("the target is not there; it is tried again", "target", tc.Name, "err", err,
			"hint", fail.HintOf(err))
		s, err = objstore.Late(tc.URL, open), nil
	}
	if err != nil {
		return fail.At("open target", tc.Name, err)
	}
	t.store = objstore.WithRetry(s, objstore.Policy{Retryable: uploader.Retryable, Notify: t.notify})
	h.targets = append(h.targets, t)
	return nil
}

// OpenStore opens a target's store beside the uploader's, with at most that many
// connections; 0 is the default. It does not retry.
func (h *Host) OpenStore(ctx context.Context, tc config.Target, connections int) (objstore.Store, error) {
	return h.openStore(ctx, tc, connections, nil)
}

func (h *Host) openStore(ctx context.Context, tc config.Target, connections int,
	dates *objstore.Dates) (objstore.Store, error) {
	o := StoreOptions(tc)
	o.FS, o.MaxConnections, o.Dates, o.Observe = h.o.FS, connections, dates, h.o.Observe(tc.Name)
	return objstore.Open(ctx, tc.URL, o)
}

// StoreOptions are what a target of a configuration is opened with; what is created there is locked
// as it says.
func StoreOptions(tc config.Target) objstore.Options {
	return objstore.Options{Endpoint: tc.Endpoint, Region: tc.Region, CredentialsFile: tc.CredentialsFile,
		CAFile: tc.CAFile,
		Lock:   objstore.LockRule{Mode: strings.ToUpper(tc.ObjectLock.Mode), For: time.Duration(tc.ObjectLock.For)}}
}

// Run uploads while this member leads, until ctx ends.
func (h *Host) Run(ctx context.Context) {
	h.Lead(ctx, func(ctx context.Context, term uint64) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		var wg sync.WaitGroup
		for _, t := range h.targets {
			if h.Superseded() == nil {
				wg.Go(func() { h.upload(ctx, t, term, cancel) })
			}
		}
		wg.Wait()
	})
}

// upload runs a target's uploader under one lead.
func (h *Host) upload(ctx context.Context, t *target, term uint64, endAll func()) {
	siblings := map[string]objstore.Store{}
	for _, s := range h.targets {
		if s != t {
			siblings[s.conf.Name] = s.store
		}
	}
	up := uploader.New(uploader.Options{Target: t.conf.Name, Journal: h.Journal, Term: term, Store: t.store,
		Dates: t.dates, Siblings: siblings, Logger: h.o.Logger, FoldFromBytes: h.o.FoldFromBytes,
		RequestsPerSecond: *t.conf.Requests.Rate, Burst: t.conf.Requests.Burst})
	t.begin(up)
	err := up.Run(ctx)
	if epoch, yes := claim.Superseded(err); yes {
		h.supersede(t, epoch)
		endAll() // the other logs may not know yet
	}
	if err != nil && ctx.Err() == nil {
		h.o.Logger.Error("replication to this target has stopped", "target", t.conf.Name, "err", err,
			"hint", fail.HintOf(err))
	}
}

// supersede is told that a target's log went on under a higher epoch.
func (h *Host) supersede(t *target, epoch uint64) {
	if h.Superseded() != nil {
		return
	}
	_, own, _ := h.ID()
	h.o.Logger.Error("the journal has its seat elsewhere: this member extends nothing any more",
		"target", t.conf.Name, "epoch", epoch, "own_epoch", own)
	h.Supersede(change.Superseded{Own: own, Epoch: epoch, Target: t.conf.Name, Time: clock.Now().UTC()})
}

// SupersededBy is supersede of a target by its name, for who has seen that by itself.
func (h *Host) SupersededBy(target string, epoch uint64) {
	for _, t := range h.targets {
		if t.conf.Name == target {
			h.supersede(t, epoch)
		}
	}
}

// Hurry has a target's uploader wait for nothing, until stop is called: somebody waits for what the
// journal has.
func (h *Host) Hurry(target string) (stop func()) {
	set := func(on bool) {
		for _, t := range h.targets {
			t.mu.Lock()
			if t.conf.Name == target && t.up != nil {
				t.up.Hurry(on)
			}
			t.mu.Unlock()
		}
	}
	set(true)
	return func() { set(false) }
}

// AwaitClaims waits until the uploader of each target has its log, or something to say against it,
// and for limit at most: who serves only then does not serve what a successor has gone on from.
func (h *Host) AwaitClaims(ctx context.Context, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for _, t := range h.targets {
		for !t.claimed() && h.Superseded() == nil && ctx.Err() == nil {
			select {
			case <-time.After(claimPoll):
			case <-ctx.Done():
			}
		}
	}
}

const claimPoll = 5 * time.Millisecond

func (t *target) claimed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.up == nil {
		return t.early != nil
	}
	st := t.up.Status()
	return st.Claimed || st.Err != nil
}

// begin takes over from the uploader of an earlier lead.
func (t *target) begin(up *uploader.Uploader) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.up != nil {
		st := t.up.Status()
		t.sum.Objects, t.sum.Bytes = t.sum.Objects+st.Objects, t.sum.Bytes+st.Bytes
		t.sum.FoldedFrom, t.sum.FoldedTo = t.sum.FoldedFrom+st.FoldedFrom, t.sum.FoldedTo+st.FoldedTo
	}
	t.up, t.early = up, nil
}

// notify is told what is wrong while the store retries.
func (t *target) notify(err error) {
	t.mu.Lock()
	up := t.up
	if up == nil {
		t.early = err
	}
	t.mu.Unlock()
	if up != nil {
		up.Notify(err)
	}
}

// NoteCatalog is told of the newest catalog of a target's log, for Targets.
func (h *Host) NoteCatalog(target string, c change.CatalogInfo) {
	for _, t := range h.targets {
		if t.conf.Name == target {
			t.mu.Lock()
			t.catalog = &c
			t.mu.Unlock()
		}
	}
}

// Targets is where the targets stand, in the order of the configuration.
func (h *Host) Targets() []change.TargetInfo {
	leads := h.Leads()
	out := make([]change.TargetInfo, 0, len(h.targets))
	for _, t := range h.targets {
		at := h.Target(t.conf.Name)
		info := t.info(leads, at, h.LastIndex())
		lag, bytes := h.Behind(info.Index)
		if let := at.LetGo; let != nil { // the journal no longer has what it lacks
			bytes = max(bytes, let.Bytes)
			if !let.Oldest.IsZero() {
				lag = max(0, clock.Now().Sub(let.Oldest))
			}
		}
		h.View(func(s *state.State) { info.Site = cmp.Or(s.SiteOf(info.Name), info.Site) })
		info.LagSeconds, info.BacklogBytes = lag.Seconds(), bytes
		info.Fenced = info.Fenced || h.Superseded() != nil
		out = append(out, info)
	}
	return out
}

func (t *target) info(leads bool, at journal.Target, last uint64) change.TargetInfo {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := t.sum
	out.Name, out.URL, out.Site, out.Optional = t.conf.Name, t.store.URL(), t.conf.Site, t.conf.Optional
	out.Position, out.Index = at.Position, at.Index
	if at.LetGo != nil {
		out.State, out.Reason = change.TargetLetGo, at.LetGo.Reason
	}
	err := t.early
	if t.up != nil {
		st := t.up.Status()
		out.Objects, out.Bytes = out.Objects+st.Objects, out.Bytes+st.Bytes
		out.FoldedFrom, out.FoldedTo = out.FoldedFrom+st.FoldedFrom, out.FoldedTo+st.FoldedTo
		if leads {
			out.Position, out.Index, err = st.Position, st.Index, st.Err
			out.LastSuccess, out.OldestRequest = st.LastSuccess, st.OldestRequest
			out.Fenced, out.Stopped = st.Fenced, st.Stopped
			out.Catalog = t.catalog
			if at.LetGo != nil && st.Filling && err == nil {
				out.State, out.Filled = change.TargetFilling, filled(&st, last)
			}
		}
	}
	if err != nil && leads {
		out.Error = fail.Explain(err)
	}
	return out
}

// filled says how far a filling is.
func filled(st *uploader.Status, last uint64) string {
	if st.SeedBytes < st.SeedTotal {
		return fmt.Sprintf("%s of %s that it begins with", text.Bytes(st.SeedBytes), text.Bytes(st.SeedTotal))
	}
	return fmt.Sprintf("up to journal index %d of %d", st.Index, last)
}

// Close ends the journal and the stores. Run has returned before.
func (h *Host) Close() error {
	errs := []error{h.Journal.Close()}
	for _, t := range h.targets {
		errs = append(errs, t.store.Close())
	}
	return errors.Join(errs...)
}
