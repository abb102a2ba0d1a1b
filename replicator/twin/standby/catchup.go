package standby

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// patience is how often CatchUp tries what does not pass by itself: the way may have damaged it.
const patience = 3

// CatchUp ends the following: it takes everything below a position of the log, whatever the
// delay, applies to each stream's newest consistent point, brings what is not there yet, and
// returns what the images hold, by volume, when they are synced. A volume of which there is no
// point yet is left out; with the error of one that cannot be brought, the others are returned.
// It is for a promotion that has put a fence at that position, so that all below is there: what
// the store does not show is waited for until ctx ends. It may be called again after an error;
// Run is refused from the first call on.
func (s *Standby) CatchUp(ctx context.Context, end uint64) (map[string]Held, error) {
	s.control.Lock()
	s.stopped = true
	if s.stop != nil {
		s.stop()
	}
	s.control.Unlock()
	s.running.Lock()
	defer s.running.Unlock()
	defer s.closeFiles()
	s.o.Delay = 0
	for tries := 0; s.cur == nil || s.cur.Position < end; {
		busy, err := s.stepTo(ctx, end)
		if ctx.Err() != nil {
			if err == nil {
				err = fail.New(fail.Retry, "catch up", s.o.Store.URL(),
					fmt.Sprintf("position %d of %d: %v", s.position(), end, ctx.Err()))
			}
			return nil, err
		}
		s.noteError(err)
		if tries++; err == nil || fail.Is(err, fail.Retry) || fail.Is(err, fail.NotFound) {
			tries = 0
		}
		if tries > patience {
			return nil, err
		}
		if !busy {
			s.wait(ctx, s.o.MinPoll)
		}
	}
	var failed []error
	for _, name := range s.notFollowing() {
		if err := s.bringNow(ctx, name); err != nil {
			failed = append(failed, fail.At("bring to its point", "volume "+name, err))
		}
	}
	return s.holding(), errors.Join(failed...)
}

// bringNow brings a volume to its point, however long the store does not show it. One of which
// there is no point is left as it is.
func (s *Standby) bringNow(ctx context.Context, name string) error {
	for {
		err := s.bring(ctx, name)
		s.noteBrought(name, err)
		switch {
		case err == nil || isNotYet(err) && s.unborn(name):
			return nil
		case !isNotYet(err) || ctx.Err() != nil:
			return err
		}
		s.wait(ctx, s.o.MinPoll)
	}
}

func (s *Standby) stepTo(ctx context.Context, end uint64) (busy bool, err error) {
	if s.cur == nil {
		return true, s.begin(ctx)
	}
	n := 0
	if s.fetched < end && s.cur.Through <= s.cur.Position {
		if n, err = s.fetch(ctx); err != nil {
			return false, err
		}
	}
	applied, err := s.applyDue(ctx, end, time.Time{})
	return n > 0 || applied, err
}

func (s *Standby) position() uint64 {
	if s.cur == nil {
		return 0
	}
	return s.cur.Position
}

// waiting are the volumes that do not follow. Called with mu held.
func (s *Standby) waiting() (names []string) {
	for _, name := range slices.Sorted(maps.Keys(s.cur.Volumes)) {
		if !s.cur.Volumes[name].Following {
			names = append(names, name)
		}
	}
	return names
}

func (s *Standby) notFollowing() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting()
}

// unborn reports whether the log has no point of a volume yet.
func (s *Standby) unborn(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, sv := s.cur.Volumes[name], s.state.Volumes[name]
	return v == nil || sv == nil || !sv.Ready || s.cur.stream(v.Stream).Applied.LSN < sv.FirstLSN
}

func (s *Standby) holding() map[string]Held {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]Held{}
	for name, v := range s.cur.Volumes {
		if v.Following {
			at := s.cur.stream(v.Stream).Applied
			out[name] = Held{Path: v.Path, Stream: v.Stream, LSN: at.LSN, Hash: at.Hash, Epoch: s.cur.Token.Epoch}
		}
	}
	return out
}
