package node

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/pollux-dr/pollux/agent/backing"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/journal/journalnode"
	"github.com/pollux-dr/pollux/replicator/journal/uploader"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/hydrate"
)

const (
	// storePatience is for how long a request is tried before the status hears of it; after
	// that it is tried anew.
	storePatience = 10 * time.Second
	// storeConnections is how many connections fill images.
	storeConnections = 16
	// fetchTimeout is how long a stop waits for the store, which those wait for who read or
	// write what is not here yet; and applyGrace how long after that it waits for what can be
	// applied without it.
	fetchTimeout = 5 * time.Second
	applyGrace   = time.Second
	// tellHydrationEvery is how often the log says what holds up a volume's hydration.
	tellHydrationEvery = time.Minute
)

// filling is one of them, and how fast it goes.
type filling struct {
	*hydrate.Backing
	samples []sample // of the last rateSpan, the oldest first; under hydrations.mu
}

type sample struct {
	at    time.Time
	bytes int64
}

const (
	rateSpan  = 10 * time.Second
	rateEvery = time.Second
)

// hydrations are this host's backings that are still being filled from the object store.
type hydrations struct {
	d     *Daemon
	ctx   context.Context // of all that waits for the store
	end   context.CancelFunc
	ready chan struct{} // closed when the agent is there

	ended chan struct{} // holds one when a backing is complete

	mu   sync.Mutex
	open map[string]*filling // by path

	opening chan struct{} // holds one while a point is opened
	stores  map[string]objstore.Store
}

func newHydrations(d *Daemon) *hydrations {
	h := &hydrations{d: d, ready: make(chan struct{}), open: map[string]*filling{},
		ended: make(chan struct{}, 1), opening: make(chan struct{}, 1), stores: map[string]objstore.Store{}}
	h.ctx, h.end = context.WithCancel(context.Background())
	return h
}

// HydratingPlace is where the agent of a configuration looks for what says how much of a
// backing is here: whoever makes an image for it by hydrate.Create names this place.
func HydratingPlace(c *config.Agent, path string) hydrate.Place {
	return hydrate.Place{Path: path, Dir: c.State}
}

// openBacking opens a volume's backing, and begins to fill one that is not complete.
func (h *hydrations) openBacking(path string, sizeBytes int64) (backing.Backing, error) {
	open := h.d.hooks.openBacking
	if open == nil {
		open = backing.Open
	}
	b, err := open(path, sizeBytes)
	if err != nil {
		return nil, err
	}
	p := HydratingPlace(h.d.conf, path)
	p.FS = h.d.hooks.fs
	pending, err := p.Pending() // only now: from here on nobody else has it
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	if !pending {
		return b, nil
	}
	log := h.d.log.With("backing", path)
	told := time.Time{}
	var mu sync.Mutex
	hb, err := hydrate.Open(b, p, hydrate.Options{Context: h.ctx, Image: h.image, Notify: func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if now := clock.Now(); now.Sub(told) >= tellHydrationEvery && h.ctx.Err() == nil {
			told = now
			log.Warn("what is missing of a backing does not come from the store; it is tried again", "err", err,
				"hint", fail.HintOf(err))
		}
	}})
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	f := &filling{Backing: hb}
	h.open[path] = f
	h.mu.Unlock()
	h.d.wg.Go(func() { h.fill(path, f) })
	return hb, nil
}

// fill brings all of a backing here, until that is closed.
func (h *hydrations) fill(path string, b *filling) {
	stop := make(chan struct{})
	defer close(stop)
	h.d.wg.Go(func() { h.measure(b, stop) })
	defer func() {
		h.mu.Lock()
		if h.open[path] == b && (b.Done() || h.ctx.Err() == nil) { // a stop leaves it half
			delete(h.open, path)
		}
		h.mu.Unlock()
	}()
	p := b.Point()
	h.d.log.Info("the backing is filled from the object store, and serves meanwhile", "backing", path,
		"volume", p.Volume, "lsn", p.LSN)
	err := b.Hydrate(h.d.ctx, hydrate.Run{BytesPerSecond: int64(h.d.conf.HydrateRate), Sync: func() error {
		select {
		case <-h.ready:
			return h.d.agent.SyncBacking(b.Backing)
		default:
			return fail.New(fail.Retry, "sync", path, "the agent is not there yet")
		}
	}})
	if err == nil {
		h.d.log.Info("the backing is complete; the store is not needed for it any more", "backing", path)
		select {
		case h.ended <- struct{}{}:
		default:
		}
	}
}

// measure notes now and then how far a backing is.
func (h *hydrations) measure(b *filling, stop <-chan struct{}) {
	tick := time.NewTicker(rateEvery)
	defer tick.Stop()
	for {
		h.mu.Lock()
		b.samples = append(b.samples, sample{clock.Now(), b.Stats().FetchedBytes})
		for len(b.samples) > int(rateSpan/rateEvery)+1 {
			b.samples = b.samples[1:]
		}
		h.mu.Unlock()
		select {
		case <-tick.C:
		case <-stop:
			return
		}
	}
}

// rate is how much of the store came in a second of late.
func (b *filling) rate(now time.Time, fetched int64) int64 {
	if len(b.samples) == 0 {
		return 0
	}
	first := b.samples[0]
	if span := now.Sub(first.at).Seconds(); span >= 2*rateEvery.Seconds() {
		return max(0, int64(float64(fetched-first.bytes)/span))
	}
	return 0
}

// image opens a point in the first of the targets that has it. One opens at a time.
func (h *hydrations) image(ctx context.Context, p hydrate.Point) (*twin.Image, error) {
	select {
	case h.opening <- struct{}{}:
		defer func() { <-h.opening }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	first := fail.New(fail.Refused, "hydrate", p.String(),
		"this agent's configuration names no target to read it from").
		WithHint("name the store under journal.targets")
	var worst error = first
	for i, t := range h.d.conf.Journal.Targets {
		image, err := h.imageAt(ctx, t, p)
		if err == nil {
			return image, nil
		}
		passing := func(err error) bool {
			return !fail.Is(err, fail.Refused) && !fail.Is(err, fail.NotFound) && !fail.Is(err, fail.Damaged)
		}
		if i == 0 || passing(err) && !passing(worst) { // of a target that may have it yet
			worst = err
		}
	}
	return nil, worst
}

// imageAt opens a point in a target.
func (h *hydrations) imageAt(ctx context.Context, t config.Target, p hydrate.Point) (*twin.Image, error) {
	s := h.stores[t.Name]
	if s == nil {
		o := journalnode.StoreOptions(t)
		o.FS, o.MaxConnections, o.ReadOnly = h.d.hooks.fs, storeConnections, true
		o.Observe = h.d.metrics.store.Observe(t.Name)
		raw, err := objstore.Open(ctx, t.URL, o)
		if err != nil {
			return nil, err
		}
		s = objstore.WithRetry(raw, objstore.Policy{Retryable: uploader.Retryable,
			Patience: func(bool) time.Duration { return storePatience }})
		h.stores[t.Name] = s
	}
	l, err := twin.Open(ctx, s, nil)
	if err != nil {
		return nil, err
	}
	return p.Image(ctx, l, h.d.conf.State)
}

// of says how far a volume's backing is; nil where it is complete.
func (h *hydrations) of(path string) *api.Hydration {
	h.mu.Lock()
	b := h.open[path]
	if b == nil || b.Done() {
		h.mu.Unlock()
		return nil
	}
	s, p := b.Stats(), b.Point()
	rate := b.rate(clock.Now(), s.FetchedBytes)
	h.mu.Unlock()
	out := &api.Hydration{Volume: p.Volume, LSN: p.LSN, SizeBytes: s.SizeBytes, HydratedBytes: s.HereBytes,
		FetchedBytes: s.FetchedBytes, LeftBytes: s.SizeBytes - s.HereBytes, BytesPerSecond: rate,
		Percent: int(float64(s.HereBytes) / float64(s.SizeBytes) * 100)}
	if s.Error != nil {
		out.Error = fail.Explain(s.Error)
	}
	return out
}

// all says how far each is, by volume.
func (h *hydrations) all() (out []api.Hydration) {
	h.mu.Lock()
	paths := make([]string, 0, len(h.open))
	for path := range h.open {
		paths = append(paths, path)
	}
	h.mu.Unlock()
	for _, path := range paths {
		if one := h.of(path); one != nil {
			out = append(out, *one)
		}
	}
	slices.SortFunc(out, func(a, b api.Hydration) int { return cmp.Compare(a.Volume, b.Volume) })
	return out
}

// stopAgent makes durable what was acknowledged. What changes a part of a page that is not here
// cannot be applied while the store is away: the WAL keeps it for the next start.
func (h *hydrations) stopAgent(ctx context.Context) error {
	limited, cancel := context.WithCancel(ctx)
	defer cancel()
	filling := len(h.all()) > 0
	if filling {
		defer context.AfterFunc(h.ctx, func() { time.AfterFunc(applyGrace, cancel) })()
	}
	err := h.d.agent.Close(limited)
	if filling && h.ctx.Err() != nil && errors.Is(err, context.Canceled) {
		h.d.log.Warn("some writes lack blocks of the object store, and are applied at the next start: the WAL has them",
			"err", err)
		return nil
	}
	return err
}

// close comes when nobody reads any more.
func (h *hydrations) close() {
	h.end()
	for _, s := range h.stores {
		_ = s.Close()
	}
}
