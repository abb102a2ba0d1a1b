package uploader

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/objlog/pack"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// A new log can no longer have the journal's beginning where garbage collection has freed it. So it
// begins as a copy of what a sibling's newest catalog covers, byte for byte and under the same
// names, because maps name blocks by them: the log below the catalog's end as far as it is there,
// maps, packs, and the catalog last. With it all points are there that the sibling retains. Our
// fence comes behind it, and what follows is filled like any other log.
//
// The log's last object is copied first: it proves that others are missing, so that nobody takes
// a half of it for a log. What is there is the progress; a run that was cut short goes on.

const (
	// seedTail ends with a checksum of what has the checksums of all of an object.
	seedTail    = 64
	seedReaders = 16
)

// seeder copies from one sibling.
type seeder struct {
	u    *Uploader
	from objstore.Store
	live *catalog.Catalog
	ours map[string]int64 // bytes by name, of the log, maps and packs
	all  map[string]int64 // what is to be copied, and its size
	logs []uint64         // positions among it
}

// seed begins a new log. One that has a beginning of its own is left as it is; so is one of which
// each sibling has the beginning.
func (u *Uploader) seed(ctx context.Context) error {
	newest, _, err := u.catalogs(ctx, u.o.Store)
	if err != nil || newest != nil && newest.End().Position > 1 {
		return err
	}
	ours, err := listSizes(ctx, u.o.Store, "log/", "map/", "pack/")
	if err != nil {
		return err
	}
	delete(ours, objlog.ObjectName(0))
	number := uint64(0)
	if newest != nil {
		number = newest.Number + 1
	}
	var errs []error
	for _, name := range u.o.Journal.Sources(u.o.Target) {
		if u.o.Siblings[name] == nil {
			continue
		}
		done, err := u.seedFrom(ctx, u.o.Siblings[name], ours, number)
		if done || ctx.Err() != nil {
			return err
		}
		if err != nil {
			errs = append(errs, fail.At("copy from", name, err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	return u.wholeSoFar(ours)
}

// seedFrom copies from one sibling; done says that the log has its beginning now.
func (u *Uploader) seedFrom(ctx context.Context, from objstore.Store, ours map[string]int64, number uint64) (
	done bool, err error) {
	_, live, err := u.catalogs(ctx, from)
	if live == nil || err != nil {
		return false, err
	}
	if err := u.sameHistory(live); err != nil {
		return false, err
	}
	s := &seeder{u: u, from: from, live: live, ours: ours}
	if err := s.plan(ctx); err != nil {
		return false, err
	}
	if fits, err := s.fits(ctx); err != nil || !fits {
		return false, err
	}
	if err := s.copyAll(ctx); err != nil {
		return false, err
	}
	c := *live
	c.Number, c.Dead, c.Locked = max(c.Number, number), nil, nil // those are of the other store
	if err := u.store.Reserve(ctx); err != nil {
		return false, err
	}
	err = catalog.Create(ctx, u.store, &c)
	if fail.Is(err, fail.Exists) {
		return false, fail.At("look at", "what is there already", fail.New(fail.Retry, "create", catalog.Name(c.Number),
			"another has made it"))
	}
	return err == nil, err
}

// wholeSoFar refuses a log with holes: another writer began to copy it from a log that is not
// among the siblings, or not in line.
func (u *Uploader) wholeSoFar(ours map[string]int64) error {
	free, last := uint64(1), uint64(0)
	for name := range ours {
		if pos, ok := objlog.PositionOf(name); ok {
			last = max(last, pos)
		}
	}
	for ours[objlog.ObjectName(free)] > 0 {
		free++
	}
	if last <= free+segment.MaxInFlight {
		return nil
	}
	return fail.New(fail.Refused, "claim", u.o.Store.URL()+"/"+objlog.ObjectName(free),
		fmt.Sprintf("the object is missing, and position %d is there: a half of a log, copied from one that is not "+
			"there any more", last)).WithHint("give this target a new, empty prefix")
}

// listSizes is the size of each object below some prefixes.
func listSizes(ctx context.Context, s objstore.Store, prefixes ...string) (map[string]int64, error) {
	out := map[string]int64{}
	for _, p := range prefixes {
		if err := s.List(ctx, p, "", func(i objstore.Info) error { out[i.Name] = i.Bytes; return nil }); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// plan lists what the catalog needs: of the log all that is there and no garbage.
func (s *seeder) plan(ctx context.Context) error {
	theirs, err := listSizes(ctx, s.from, "log/", "pack/")
	if err != nil {
		return err
	}
	s.all, s.logs = map[string]int64{}, nil
	need := func(name string) error {
		size, ok := theirs[name]
		if !ok {
			if size, err = s.from.Size(ctx, name); err != nil { // a list may be stale
				return err
			}
		}
		s.all[name] = size
		return nil
	}
	end, floor := s.live.End().Position, s.live.ReadPoints[0].Position
	for pos := floor; pos < end; pos++ { // none of them can be gone
		if err := need(objlog.ObjectName(pos)); err != nil {
			return s.moved(err)
		}
		s.logs = append(s.logs, pos)
	}
	for name := range theirs {
		pos, ok := objlog.PositionOf(name)
		if _, dead := s.live.Dead[name]; ok && pos > 0 && pos < floor && !dead {
			s.all[name] = theirs[name]
			s.logs = append(s.logs, pos)
		}
	}
	slices.Sort(s.logs)
	for i := range s.live.Packs {
		p := &s.live.Packs[i]
		name := pack.Name(p.Number)
		if _, dead := s.live.Dead[name]; dead {
			continue
		}
		if _, err := s.from.Size(ctx, name); err == nil { // one that nothing is needed of may be gone
			s.all[name] = p.Bytes
		} else if !fail.Is(err, fail.NotFound) {
			return err
		}
	}
	for _, st := range s.live.Streams {
		for _, v := range st.Volumes {
			for i := range v.Layers {
				for _, o := range v.Layers[i].Objects {
					s.all[o.Name] = o.Bytes
				}
			}
		}
	}
	return nil
}

// moved is of an object that the catalog needs, and that is gone: there is a newer catalog, or the
// log is damaged.
func (s *seeder) moved(err error) error {
	if !fail.Is(err, fail.NotFound) {
		return err
	}
	return fail.Wrap(fail.Retry, "copy", "what the newest catalog needs", err)
}

// fits reports whether the log is empty, or what an earlier run has copied from the same sibling.
func (s *seeder) fits(ctx context.Context) (bool, error) {
	if _, err := s.u.o.Store.Size(ctx, objlog.ObjectName(1)); err == nil && s.ours[objlog.ObjectName(1)] == 0 {
		return false, fail.New(fail.Retry, "list", s.u.o.Store.URL(), "the list does not show what is there")
	} else if err != nil && !fail.Is(err, fail.NotFound) {
		return false, err
	}
	floor, same := s.live.ReadPoints[0].Position, true
	var both []string
	for name := range s.ours {
		pos, ok := objlog.PositionOf(name)
		_, planned := s.all[name]
		switch {
		case planned:
			both = append(both, name)
		case ok && pos >= floor:
			return false, nil
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(seedReaders)
	results := make([]bool, len(both))
	for i, name := range both {
		g.Go(func() (err error) { results[i], err = s.same(ctx, name); return err })
	}
	err := g.Wait()
	for _, r := range results {
		same = same && r
	}
	return same && err == nil, err
}

// same reports whether an object is the sibling's: of the log's objects the head says what the
// checksums at the end do not.
func (s *seeder) same(ctx context.Context, name string) (bool, error) {
	ours, size, head, err := endOf(ctx, s.u.o.Store, name)
	if err != nil {
		return false, err
	}
	theirs, _, theirHead, err := endOf(ctx, s.from, name)
	if err != nil {
		return false, s.moved(err)
	}
	return size == s.all[name] && bytes.Equal(ours, theirs) && head == theirHead, nil
}

// endOf is the end of an object, its size, and of one of the log its head.
func endOf(ctx context.Context, s objstore.Store, name string) (tail []byte, size int64, head segment.Head, err error) {
	tail, err = s.Read(ctx, name, -seedTail, -1, nil)
	if err == nil {
		size, err = s.Size(ctx, name)
	}
	if pos, ok := objlog.PositionOf(name); ok && err == nil {
		var x *segment.Index
		if x, err = objlog.ReadIndex(ctx, s, pos); err == nil {
			head = x.Head
		}
	}
	return tail, size, head, err
}

// copyAll copies what is not there yet, the log's last object first.
func (s *seeder) copyAll(ctx context.Context) error {
	u := s.u
	total, have := int64(0), int64(0)
	for name, n := range s.all {
		total += n
		if _, ok := s.ours[name]; ok {
			have += n
		}
	}
	u.noteSeed(have, total)
	u.setFilling(true)
	if n := len(s.logs); n > 0 {
		if err := s.copyOne(ctx, objlog.ObjectName(s.logs[n-1])); err != nil {
			return err
		}
	}
	names := make([]string, 0, len(s.all))
	for name := range s.all {
		names = append(names, name)
	}
	slices.Sort(names)
	room := semaphore.NewWeighted(maxFlyingBytes)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(u.o.InFlight)
	for _, name := range names {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			size := min(s.all[name], maxFlyingBytes)
			if err := room.Acquire(gctx, size); err != nil {
				return err
			}
			defer room.Release(size)
			return s.copyOne(gctx, name)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// copyOne copies an object, and checks all of it on the way.
func (s *seeder) copyOne(ctx context.Context, name string) error {
	if _, ok := s.ours[name]; ok {
		return nil // fits has compared it
	}
	var body []byte
	err := objstore.Reread(func() (err error) {
		if body, err = objstore.ReadWhole(ctx, s.from, name, max(s.all[name], 1)); err != nil {
			return err
		}
		return fail.At("read", s.from.URL()+"/"+name, s.check(name, body))
	})
	if err != nil {
		return s.moved(err)
	}
	err = s.u.store.Create(ctx, name, body)
	if fail.Is(err, fail.Exists) {
		same, serr := s.same(ctx, name)
		switch {
		case serr != nil:
			return serr
		case !same:
			return fail.New(fail.Refused, "copy", s.u.o.Store.URL()+"/"+name, "another object is there already").
				WithHint("give this target a new, empty prefix")
		}
		err = nil
	}
	if err == nil {
		s.u.seeded(int64(len(body)))
	}
	return err
}

// check decodes an object with all of its checksums.
func (s *seeder) check(name string, body []byte) error {
	if int64(len(body)) != s.all[name] {
		return fail.New(fail.Damaged, "read", name, fmt.Sprintf("%d bytes, %d expected", len(body), s.all[name]))
	}
	if pos, ok := objlog.PositionOf(name); ok {
		x, err := segment.Walk(body, func(int, segment.Checked) {})
		if err == nil && (x.Position != pos || x.Journal != s.live.Journal) {
			err = fail.New(fail.Damaged, "read", name, fmt.Sprintf("it is position %d of journal %s", x.Position,
				x.Journal))
		}
		return err
	}
	if number, ok := strings.CutPrefix(name, "pack/"); ok {
		n, err := strconv.ParseUint(number, 10, 64)
		if err == nil {
			_, err = pack.Check(body, n)
		}
		return err
	}
	_, err := extent.WalkMap(body, func(int64, []extent.Extent) error { return nil })
	return err
}

func (u *Uploader) noteSeed(have, total int64) {
	u.mu.Lock()
	u.status.SeedBytes, u.status.SeedTotal = have, total
	u.mu.Unlock()
}

func (u *Uploader) seeded(n int64) {
	u.mu.Lock()
	u.status.SeedBytes += n
	u.status.Objects++
	u.status.Bytes += n
	u.mu.Unlock()
	u.note(nil)
}
