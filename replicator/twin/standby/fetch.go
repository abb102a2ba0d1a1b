package standby

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

const (
	// maxWidth is how many objects are asked for at once while all of them are there.
	maxWidth = 4
	// wideBytes is from which size on one at a time is enough.
	wideBytes = 16 << 20
	// checkAfter is for how long no object may have come until it is made sure that garbage
	// collection has not freed the next position, and that it was not lost. A position that is
	// read within that time of the one before cannot have been freed.
	checkAfter = time.Minute
)

// fetch reads and stages the next objects, and returns how many. A position that is not there
// is no error.
func (s *Standby) fetch(ctx context.Context) (n int, err error) {
	if s.stage.total() >= s.o.StageBytes && s.fetched > s.now().Position {
		return 0, nil
	}
	if now := s.o.Now(); s.seen.IsZero() || now.Sub(s.seen) > checkAfter || now.Before(s.seen) {
		went, err := s.check(ctx)
		if err != nil || went {
			return 0, err
		}
	}
	for _, got := range s.ask(ctx, s.width) {
		if fail.Is(got.err, fail.NotFound) {
			s.width = 1
			s.miss(n == 0)
			return n, nil
		}
		if got.err != nil {
			return n, got.err
		}
		if err := s.stage.put(got.o); err != nil {
			return n, err
		}
		n++
		s.fetched++
		s.noteMore()
		s.seen, s.missed = s.o.Now(), time.Time{}
		if s.width = min(2*s.width, maxWidth); len(got.o.raw) > wideBytes {
			s.width = 1
		}
	}
	return n, nil
}

// miss notes that all there is was read.
func (s *Standby) miss(first bool) {
	now := s.o.Now()
	if first && s.missed.IsZero() {
		s.missed = now
	}
	s.noteEnd(now)
}

type fetched struct {
	o   *object
	err error
}

// ask reads some objects at once, from the first that is not staged on.
func (s *Standby) ask(ctx context.Context, width int) []fetched {
	out := make([]fetched, width)
	var wg sync.WaitGroup
	bufs := make([][]byte, width)
	for i := range out {
		bufs[i] = s.stage.buffer()
		wg.Go(func() { out[i].o, out[i].err = s.read(ctx, s.fetched+uint64(i), bufs[i]) })
	}
	wg.Wait()
	for i := range out {
		if out[i].err != nil {
			s.stage.release(bufs[i])
		}
	}
	return out
}

// read reads the object at a position and checks all of it. It may keep buf.
func (s *Standby) read(ctx context.Context, position uint64, buf []byte) (o *object, err error) {
	name := objlog.ObjectName(position)
	err = objstore.Reread(func() error {
		raw, err := objstore.ReadWholeInto(ctx, s.o.Store, name, segment.MaxObjectBytes, buf)
		if err == nil {
			o, err = parse(position, raw)
			err = fail.At("read", s.o.Store.URL()+"/"+name, err)
		}
		return err
	})
	return o, err
}

// object returns a staged object. One that cannot be read from the disk is read from the store
// again: it never changes.
func (s *Standby) object(ctx context.Context, position uint64) (*object, error) {
	o, err := s.stage.get(position)
	if !fail.Is(err, fail.NotFound) && !fail.Is(err, fail.Damaged) {
		return o, err
	}
	if o, err = s.read(ctx, position, nil); err != nil {
		return nil, err
	}
	return o, s.stage.put(o)
}

// check makes sure that the next position was not freed. Where it was, the standby goes on
// behind what the newest catalog covers. went is that it did.
func (s *Standby) check(ctx context.Context) (went bool, err error) {
	numbers, err := catalog.List(ctx, s.o.Store)
	if err != nil {
		return false, err
	}
	if n := len(numbers); n > 0 && numbers[n-1]+1 != s.passed {
		c, err := catalog.Newest(ctx, s.o.Store, s.now().Journal)
		if err != nil {
			return false, err
		}
		if c != nil && c.Passed(s.fetched) {
			s.o.Logger.Info("garbage collection has freed the positions that come next", "position", s.fetched)
			return true, s.rebase(ctx)
		}
		if c != nil {
			s.passed = c.Number + 1
		}
	}
	if !s.missed.IsZero() && s.o.Now().Sub(s.missed) > checkAfter {
		if err := s.lost(ctx); err != nil {
			return false, err
		}
	}
	s.seen = s.o.Now()
	return false, nil
}

var errEnough = errors.New("enough")

// lost reports, as an error, where a later object proves that the next one was there: it is
// missing, and not late.
func (s *Standby) lost(ctx context.Context) error {
	var later []uint64
	err := s.o.Store.List(ctx, objlog.Prefix, objlog.ObjectName(s.fetched), func(i objstore.Info) error {
		if position, ok := objlog.PositionOf(i.Name); ok {
			later = append(later, position)
		}
		if len(later) > segment.MaxInFlight {
			return errEnough
		}
		return nil
	})
	if err != nil && err != errEnough {
		return err
	}
	for _, position := range later {
		var x *segment.Index
		if !objlog.ProvesMissing(s.fetched, position, nil) {
			if x, err = objlog.ReadIndex(ctx, s.o.Store, position); err != nil {
				continue // it proves nothing
			}
		}
		if !objlog.ProvesMissing(s.fetched, position, x) {
			continue
		}
		_, err := s.o.Store.Size(ctx, objlog.ObjectName(s.fetched)) // it may have come before the later one was listed
		if fail.Is(err, fail.NotFound) {
			err = objlog.ErrMissing(s.o.Store.URL(), s.fetched, position)
		}
		return err
	}
	return nil
}
