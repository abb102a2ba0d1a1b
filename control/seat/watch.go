package seat

import (
	"context"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/journal/journalnode"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// Journal is what is watched: verbs.Journal is one.
type Journal interface {
	Changed() <-chan struct{}
	Superseded() *change.Superseded
}

// Options configure Watch.
type Options struct {
	Journal Journal
	Host    *journalnode.Host // this process's member, nil where there is none
	Targets []config.Target   // Host's
	FS      vfs.FS
	State   string // the state directory
	Logger  *slog.Logger
	// Superseded is told that the seat is elsewhere, and again when more is known.
	Superseded func(s *change.Superseded)
}

// Watch returns when ctx ends.
func Watch(ctx context.Context, o Options) {
	var known *change.Superseded
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		changed := o.Journal.Changed()
		if s := o.Journal.Superseded(); s != nil && !reflect.DeepEqual(s, known) {
			o.Superseded(s)
			if err := Save(o.FS, o.State, s); err != nil {
				o.Logger.Error("that the journal has its seat elsewhere could not be written down: do not start this "+
					"daemon again before its disk takes it", "path", RecordPath(o.State), "err", err)
			}
			first := known == nil
			if known = s; first && o.Host != nil && s.Branch == 0 {
				wg.Go(func() { o.explain(ctx, *s) })
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// Waits between attempts to read the log that has gone on: its new seat may not have written yet.
const (
	firstWait   = 500 * time.Millisecond
	longestWait = 30 * time.Second
)

// explain finds out where the common history ends, and tells the host.
func (o *Options) explain(ctx context.Context, s change.Superseded) {
	for wait := firstWait; ; wait = min(2*wait, longestWait) {
		err := o.read(ctx, &s)
		if err == nil {
			o.Host.Supersede(s)
			return
		}
		o.Logger.Warn("where this journal went on is not known yet", "target", s.Target, "err", err,
			"hint", fail.HintOf(err))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// read fills in s from the log that says so.
func (o *Options) read(ctx context.Context, s *change.Superseded) error {
	for _, t := range o.Targets {
		if t.Name != s.Target {
			continue
		}
		store, err := o.Host.OpenStore(ctx, t, 0)
		if err != nil {
			return err
		}
		defer store.Close()
		l, err := twin.Open(ctx, store, nil)
		if err != nil {
			return err
		}
		if l.State.Seat.Epoch < s.Epoch {
			return fail.New(fail.Retry, "read", store.URL(), "its new seat has not written to it yet")
		}
		s.Epoch, s.Site, s.How = l.State.Seat.Epoch, l.State.Seat.Site, how(l.State, s.Own)
		s.Branch = l.State.DeadFrom(s.Own)
		s.Streams, err = o.Host.PointsBefore(s.Branch)
		return err
	}
	return fail.New(fail.NotFound, "read", "target "+s.Target, "the configuration does not name it any more")
}

// how the seat left an epoch.
func how(s *state.State, epoch uint64) string {
	for i := range s.Moves {
		if s.Moves[i].Epoch > epoch {
			return s.Moves[i].How
		}
	}
	return ""
}
