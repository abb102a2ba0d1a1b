package standby

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// patience is how often CatchUp tries what does not pass by itself: the way may have damaged it.
const patience = 3

// CatchUp ends the following: it takes everything below a position of the log, whatever the
// delay, applies to each stream's newest consistent point, makes images good that are not where
// their streams are, and returns what the images hold, by volume, when they are synced. A volume
// that has no whole image, or whose image would have to be copied anew, is left out: it is
// quicker served from the store. With the error of one that cannot be made good, the others are
// returned.
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
	defer s.endFetching()
	s.ahead = true
	s.o.Delay, s.o.BytesPerSecond, s.whole = 0, 0, true
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
		if err := s.bringNow(ctx, name); err != nil && !errors.Is(err, errCopy) && !errors.Is(err, errUnrelated) {
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
		case err == nil || errors.Is(err, errCopy) || isNotYet(err) && s.unborn(name):
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
	if s.fetched < end && !s.cur.torn() {
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
		if v.Following && !s.cur.torn() {
			at := s.cur.stream(v.Stream).Applied
			out[name] = Held{Path: v.Path, Stream: v.Stream, LSN: at.LSN, Hash: at.Hash, Epoch: s.cur.Token.Epoch}
		}
	}
	return out
}

// Image is what there is of a volume's image.
type Image struct {
	Path  string
	Ours  bool   // what is at Path, if anything, is the standby's
	Whole bool   // it is the volume at one point, or can be made that by what differs
	LSN   uint64 // of the point that it holds; 0: of several
}

// Images says what there is of the wanted volumes.
func (s *Standby) Images() map[string]Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]Image{}
	if s.cur == nil {
		return out
	}
	for name, v := range s.cur.Volumes {
		i := Image{Path: v.Path, Ours: v.Begun || v.Image || v.Following, Whole: v.Image || v.Following}
		if v.Following && !s.cur.torn() {
			i.LSN = s.cur.stream(v.Stream).Applied.LSN
		}
		out[name] = i
	}
	return out
}

// PutBack puts the image of a volume back to an earlier point than CatchUp has brought it to, by
// the extents that were written behind that. Errors: fail.NotFound where the log does not keep
// those any more.
func (s *Standby) PutBack(ctx context.Context, l *twin.Log, p twin.Point) error {
	s.running.Lock()
	defer s.running.Unlock()
	name := p.Volume.Name
	s.mu.Lock()
	v := s.cur.Volumes[name]
	if v == nil {
		s.mu.Unlock()
		return fail.New(fail.NotFound, "put back", "volume "+name, "the standby has no image of it")
	}
	at := s.cur.stream(v.Stream).Applied
	j := &job{name: name, v: *v, applied: at}
	err := s.update(j, func(v *volumeCursor) {
		if v.Following {
			v.Following, v.Low, v.High, v.Hash, v.End = false, at.LSN, at.LSN, at.Hash, s.cur.Position
		}
	})
	s.mu.Unlock()
	if err != nil {
		return err
	}
	plan, err := s.plan(ctx, l, p, j)
	if errors.Is(err, errUnrelated) {
		return fail.New(fail.NotFound, "put back", "volume "+name, err.Error())
	}
	if err != nil {
		return err
	}
	defer plan.Close()
	return s.difference(ctx, l, plan, j, s.updateLocked)
}
