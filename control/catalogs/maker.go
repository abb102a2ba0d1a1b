package catalogs

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin/gc"
)

// maker makes the catalogs of one target's log.
type maker struct {
	o      *Options
	target config.Target
	log    *slog.Logger
	store  objstore.Store // nil until it could be opened

	looked  bool      // what follows is of the newest catalog, when it was last looked for
	next    uint64    // the number after its own; 0: there is none
	covered uint64    // the position that it covers
	marks   int       // that it has
	created time.Time // by its maker's clock
	own     uint64    // the number after that of the last one made here

	failures int
	failed   *fail.Kind // of the error that was told
	told     time.Time
}

// due reports whether a log that ends at a position needs a catalog. Each catalog has all
// marks of those before it: the more there are, the farther apart new ones are made, so
// that the catalogs of a log that nobody collects stay a small part of it.
func (m *maker) due(end uint64) bool {
	return end >= m.covered+uint64(max(m.o.Every, m.marks))
}

// most is how many objects may lie behind the newest catalog. The daemon reads the footers of
// all of them into its memory.
const most = 200_000

// step looks for the newest catalog, and makes the next one where that is due.
func (m *maker) step(ctx context.Context) (wait time.Duration, err error) {
	if err := m.prepare(ctx); err != nil {
		return 0, err
	}
	switch end, ok := m.end(); {
	case !ok || !m.due(end):
		return m.o.Poll, nil
	case end > m.covered+most:
		return 0, fail.New(fail.Refused, "make a catalog of", m.store.URL(),
			fmt.Sprintf("%d objects lie behind the newest catalog, more than this process takes into memory",
				end-m.covered)).
			WithHint("run pollux gc once, on a host with room for it")
	}
	if wait, err := m.yield(ctx); err != nil || wait > 0 {
		return wait, err
	}
	if err := m.make(ctx); err != nil || m.looked {
		return m.o.Poll, err
	}
	return m.o.First, nil // a list that lacks what is there may go on doing so
}

// prepare opens the store, where that is still to be done, and looks.
func (m *maker) prepare(ctx context.Context) error {
	m.looked = false
	if m.store == nil {
		s, err := m.o.Host.OpenStore(ctx, m.target, connections)
		if err != nil {
			return err
		}
		m.store = objstore.WithRetry(s, objstore.Policy{Patience: func(bool) time.Duration { return patience }})
	}
	if err := m.look(ctx); err != nil {
		return err
	}
	m.looked = true
	return nil
}

// look finds the newest catalog.
func (m *maker) look(ctx context.Context) error {
	numbers, err := catalog.List(ctx, m.store)
	if err != nil {
		return err
	}
	if len(numbers) == 0 {
		m.next, m.covered, m.marks, m.created = 0, 0, 0, time.Time{}
		return nil
	}
	c, err := catalog.Load(ctx, m.store, numbers[len(numbers)-1])
	if err != nil {
		return err
	}
	m.next, m.covered, m.marks, m.created = c.Number+1, c.End().Position, len(c.ReadPoints), c.Created
	return nil
}

// yield is how long to wait for another maker of catalogs. A collection begins with one, and
// has done its work for nothing where somebody else makes the next one.
func (m *maker) yield(ctx context.Context) (time.Duration, error) {
	if m.next == 0 || m.next == m.own {
		return 0, nil
	}
	last, err := gc.LastPacked(ctx, m.store, m.next)
	if err != nil {
		return 0, err
	}
	// A clock that is far ahead holds nothing up, hence the distance in either direction.
	away := min(clock.Now().Sub(m.created).Abs(), clock.Now().Sub(last).Abs())
	return max(m.o.Yield-away, 0), nil
}

// make makes a catalog. Where another maker was faster, that one's is as good.
func (m *maker) make(ctx context.Context) error {
	scratch := ScratchDir(m.o.StateDir)
	if err := os.MkdirAll(scratch, 0o700); err != nil {
		return fail.Wrap(fail.Denied, "create", scratch, err)
	}
	defer func() { _ = os.RemoveAll(scratch) }() // the next start tries again
	done, err := gc.Catalog(ctx, m.store, gc.Options{Dir: scratch, Now: clock.Now, Logger: m.log})
	if err != nil {
		return err
	}
	if !done.New {
		m.looked = false
		return nil
	}
	m.log.Debug("made a catalog", "number", done.Number, "position", done.Position,
		"layers", done.Layers, "bytes", done.Bytes)
	m.next, m.covered, m.marks, m.created = done.Number+1, done.Position, m.marks+1, clock.Now().UTC()
	m.own = m.next
	return nil
}

func (m *maker) close() {
	if m.store != nil {
		_ = m.store.Close() // connections
	}
}
