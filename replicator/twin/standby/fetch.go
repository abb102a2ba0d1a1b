package standby

import (
	"context"
	"errors"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

const (
	// maxWidth is how many objects are asked for at once while all of them are there, and wideBytes how much
	// they may be together, by the size of the last one.
	maxWidth  = 8
	wideBytes = 32 << 20
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
	for range s.order(ctx) {
		got := s.coming[0]
		if n > 0 && s.ahead && !got.here() {
			break // what is here is applied beside
		}
		select {
		case <-got.done:
		case <-ctx.Done():
			return n, fail.Wrap(fail.Retry, "read", s.o.Store.URL()+"/"+objlog.ObjectName(got.position), ctx.Err())
		}
		s.coming = s.coming[1:]
		if got.err != nil {
			s.stage.release(got.buf)
			s.dropComing()
		}
		if fail.Is(got.err, fail.NotFound) {
			s.width = 1
			s.miss(n == 0, got.asked)
			return n, nil
		}
		if got.err != nil {
			return n, got.err
		}
		if err := s.stage.put(got.o); err != nil {
			s.dropComing()
			return n, err
		}
		n++
		s.fetched++
		s.noteMore(len(got.o.raw))
		s.seen, s.missed = s.o.Now(), time.Time{}
		s.width = max(1, min(2*s.width, maxWidth, wideBytes/max(1, len(got.o.raw))))
	}
	if s.ahead {
		s.order(ctx)
	}
	return n, nil
}

// miss notes that all there was when it was asked for the next was read.
func (s *Standby) miss(first bool, asked time.Time) {
	if first && s.missed.IsZero() {
		s.missed = asked
	}
	s.noteEnd(asked)
}

// coming is an object that was asked for.
type coming struct {
	position uint64
	asked    time.Time
	buf      []byte
	stop     context.CancelFunc
	done     chan struct{} // closed when the rest is known
	o        *object
	err      error
}

func (c *coming) here() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// order asks for the next objects, so that width of them are coming.
func (s *Standby) order(ctx context.Context) []*coming {
	if len(s.coming) > 0 && s.coming[0].position != s.fetched { // it went elsewhere since
		s.dropComing()
	}
	for len(s.coming) < s.width {
		c := &coming{position: s.fetched + uint64(len(s.coming)), asked: s.o.Now(), buf: s.stage.buffer(),
			done: make(chan struct{})}
		var one context.Context
		one, c.stop = context.WithCancel(ctx)
		s.fetching.Go(func() {
			defer c.stop()
			defer close(c.done)
			c.o, c.err = s.read(one, c.position, c.buf)
		})
		s.coming = append(s.coming, c)
	}
	return s.coming
}

// dropComing gives up what was asked for.
func (s *Standby) dropComing() {
	for _, c := range s.coming {
		if c.here() {
			s.stage.release(c.buf)
		}
		c.stop()
	}
	s.coming = nil
}

// endFetching gives up what was asked for, and waits until nothing is.
func (s *Standby) endFetching() {
	s.dropComing()
	s.fetching.Wait()
	s.ahead = false
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
