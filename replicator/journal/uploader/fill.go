package uploader

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// Where the journal no longer holds what the target lacks, the next objects are made
// of a sibling's: another target's log has the same entries under the same journal
// indexes. Positions, token and time are this writer's own.

// fillAhead is how many of a sibling's objects are looked at at once.
const fillAhead = 16

// filler reads a sibling's log onward.
type filler struct {
	name  string
	store objstore.Store
	floor uint64           // of its newest catalog: below it a fence may be gone
	pos   uint64           // the next one to look at
	cur   segment.Token    // of the objects before it
	ahead []*segment.Index // of pos and those behind it; nil stands for one that is gone
	// deadFrom is state.State's: what lies on a dead branch is no history. Nil: there are none.
	deadFrom func(epoch uint64) uint64
}

// dead reports whether an object is of a dead branch, or a part of it: then history goes on before
// it, behind a fence further on.
func (f *filler) dead(x *segment.Index) bool {
	if f.deadFrom == nil {
		return false
	}
	from := f.deadFrom(x.Token.Epoch)
	return from > 0 && x.LastIndex >= from
}

// missing reports whether the journal does not keep the next entry for this target.
func (u *Uploader) missing() bool {
	t := u.o.Journal.Target(u.o.Target)
	return t.Missing(u.next - 1)
}

// mayFill reports whether an object may be made of a sibling's now. The first one
// waits until nothing is on its way: so the target takes objects.
func (u *Uploader) mayFill() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.flying == 0 && u.near() {
		return true
	}
	return u.near() && u.status.Filling && u.careful == 0 && u.flying < u.o.InFlight && u.flyingBytes < maxFlyingBytes
}

// setFilling is for the status.
func (u *Uploader) setFilling(on bool) {
	u.mu.Lock()
	u.status.Filling = on
	u.mu.Unlock()
	if !on {
		u.filler = nil
	}
}

// fillWait is how long a filling that does not get on waits: a sibling's disk may be
// missing just now.
const fillWait = 10 * time.Second

// fill makes the next object of a sibling's, or none. What is wrong is in the status; it
// tries again.
func (u *Uploader) fill(ctx context.Context) (*object, error) {
	u.forget(len(u.batch))
	ob, err := u.fillOne(ctx)
	if err == nil || ctx.Err() != nil {
		return ob, err
	}
	u.setFilling(false)
	u.note(err)
	select {
	case <-time.After(fillWait):
	case <-ctx.Done():
	}
	return nil, ctx.Err()
}

// fillOne asks one sibling after another. Having read up to where one was, it has the
// journal keep what comes: then there is little left to fill, and an end to it.
func (u *Uploader) fillOne(ctx context.Context) (*object, error) {
	t := u.o.Journal.Target(u.o.Target)
	if t.LetGo != nil && t.From == 0 && (u.nearEnd || u.next >= u.o.Journal.Floor()) {
		u.nearEnd = false
		return nil, u.o.Journal.KeepFor(u.o.Target)
	}
	u.nearEnd = false
	why := errors.New("there is no other target")
	for _, name := range u.o.Journal.Sources(u.o.Target) {
		if u.o.Siblings[name] == nil {
			continue
		}
		if u.filler == nil || u.filler.name != name {
			u.filler = &filler{name: name, store: u.o.Siblings[name], deadFrom: u.deadFrom}
		}
		end := u.o.Journal.Target(name)
		if u.next > end.Index { // it has no more just now
			u.nearEnd = true
			return nil, nil
		}
		taken, last, err := u.take(ctx, u.filler, end.Position)
		if err == nil {
			err = u.goOn(taken)
		}
		if err == nil {
			u.setFilling(true)
			u.nearEnd = last >= end.Index
			return u.refill(taken, last)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		u.filler, why = nil, fail.At("fill from", name, err)
	}
	return nil, fail.New(fail.Refused, "fill", "target "+u.o.Target,
		"the journal no longer holds what it lacks, and: "+why.Error()).
		WithHint("if no target has it any more, this log cannot be continued: " +
			"give the target another name and a new, empty prefix")
}

// piece is an object of a sibling, and those of its entries that are wanted.
type piece struct {
	pos     uint64
	entries []segment.Entry
	obj     []byte
}

// take reads the entries from u.next on out of a sibling's log below position end: of
// one object, or of as many as make up an object here. fail.NotFound says that they
// are not there, or not any more.
func (u *Uploader) take(ctx context.Context, f *filler, end uint64) (out []piece, last uint64, err error) {
	if f.pos == 0 {
		if err := u.find(ctx, f, end); err != nil {
			return nil, 0, err
		}
	}
	next, size, count := u.next, 0, 0
	for f.pos < end && len(out) == 0 {
		if err := u.lookAhead(ctx, f, end); err != nil {
			return nil, 0, err
		}
		for len(f.ahead) > 0 {
			x := f.ahead[0]
			if x == nil && f.pos < f.floor { // it may have been the fence that makes others void
				return nil, 0, f.gone(next)
			}
			entries, err := f.wanted(x, next)
			if err != nil {
				return nil, 0, err
			}
			if len(entries) > 0 {
				n := segment.Size(entries)
				if len(out) > 0 && (size+n > u.o.SegmentBytes || count+len(entries) > segment.MaxEntries) {
					break
				}
				out = append(out, piece{pos: f.pos, entries: entries})
				size, count, next = size+n, count+len(entries), x.LastIndex+1
			}
			f.pass()
		}
	}
	if len(out) == 0 {
		return nil, 0, f.gone(next)
	}
	return out, next - 1, f.fetch(ctx, out)
}

// lookAhead reads the footers of the next positions below end.
func (u *Uploader) lookAhead(ctx context.Context, f *filler, end uint64) error {
	id, _, _ := u.o.Journal.ID()
	had := len(f.ahead)
	if had > fillAhead/2 {
		return nil
	}
	f.ahead = append(f.ahead, make([]*segment.Index, min(fillAhead, end-f.pos)-uint64(had))...)
	g, ctx := errgroup.WithContext(ctx)
	for i := had; i < len(f.ahead); i++ {
		g.Go(func() error {
			x, err := objlog.ReadIndex(ctx, f.store, f.pos+uint64(i))
			if fail.Is(err, fail.NotFound) {
				return nil
			}
			if err == nil && x.Journal != id {
				err = fail.New(fail.Fenced, "read", f.store.URL(), "it belongs to journal "+x.Journal.String())
			}
			f.ahead[i] = x
			return err
		})
	}
	return g.Wait()
}

// wanted returns an object's entries from index next on. A void object has none, nor one of a dead
// branch, and one that is gone may have been void.
func (f *filler) wanted(x *segment.Index, next uint64) ([]segment.Entry, error) {
	if x == nil || x.Type != segment.Segment || x.Token.Compare(f.cur) < 0 || x.LastIndex < next || f.dead(x) {
		return nil, nil
	}
	if x.FirstIndex > next {
		return nil, f.gone(next)
	}
	var out []segment.Entry
	covered := uint64(0)
	for _, e := range x.Entries {
		if e.Index >= next {
			out, covered = append(out, e), covered+uint64(e.Covers)
		}
	}
	if covered != x.LastIndex+1-next {
		return nil, fail.New(fail.NotFound, "read", f.store.URL()+"/"+objlog.ObjectName(x.Position),
			fmt.Sprintf("frames from before journal index %d are folded together with later ones there", next))
	}
	return out, nil
}

// pass goes on to the next position.
func (f *filler) pass() {
	if x := f.ahead[0]; x != nil && x.Token.Compare(f.cur) > 0 {
		f.cur = x.Token
	}
	f.pos, f.ahead = f.pos+1, f.ahead[1:]
}

func (f *filler) gone(index uint64) error {
	return fail.New(fail.NotFound, "read", f.store.URL(),
		fmt.Sprintf("journal index %d is not in that log any more", index))
}

// fetch reads the objects of which entries are wanted, and checks all of them.
func (f *filler) fetch(ctx context.Context, pieces []piece) error {
	g, ctx := errgroup.WithContext(ctx)
	for i := range pieces {
		p := &pieces[i]
		g.Go(func() (err error) {
			name := objlog.ObjectName(p.pos)
			if p.obj, err = f.store.Read(ctx, name, 0, -1, nil); err != nil {
				return err
			}
			_, err = segment.Walk(p.obj, func(int, segment.Checked) {})
			return fail.At("read", f.store.URL()+"/"+name, err)
		})
	}
	return g.Wait()
}

// find looks for a position of the sibling's log that is at or a little before the one
// with the next entry. All from there to the end are needed, so that one which is gone
// lies before.
func (u *Uploader) find(ctx context.Context, f *filler, end uint64) error {
	low, high := uint64(1), end // the last one that begins at or before it is in [low, high)
	for high-low > 1 {
		mid := low + (high-low)/2
		x, err := objlog.ReadIndex(ctx, f.store, mid)
		switch {
		case fail.Is(err, fail.NotFound):
			low = mid
		case err != nil:
			return err
		case x.FirstIndex <= u.next:
			low = mid
		default:
			high = mid
		}
	}
	// Void objects do not lie in order, but within MaxInFlight of the fence that
	// makes them void; from twice as far before on, it has been passed.
	f.pos, f.cur, f.floor = 1, segment.Token{}, 0
	if low > 4*segment.MaxInFlight {
		f.pos = low - 4*segment.MaxInFlight
	}
	// Fences that are old enough are deleted, and only a catalog knows the token in force then.
	id, _, _ := u.o.Journal.ID()
	c, err := catalog.Newest(ctx, f.store, id)
	if c == nil || err != nil {
		return err
	}
	if f.floor = c.ReadPoints[0].Position; low >= f.floor {
		f.pos = max(f.pos, f.floor)
	}
	for i := range c.ReadPoints {
		if m := &c.ReadPoints[i]; m.Position <= f.pos {
			f.cur = m.Token
		}
	}
	return nil
}

// refill builds an object of a sibling's entries.
func (u *Uploader) refill(pieces []piece, last uint64) (*object, error) {
	var entries []segment.Entry
	var from [][]byte
	streams := map[change.StreamID]change.Point{}
	for i := range pieces {
		for _, e := range pieces[i].entries {
			from = append(from, pieces[i].obj[e.Offset:][:e.Bytes])
			entries = append(entries, e)
		}
		maps.Copy(streams, pointsOf(pieces[i].entries))
	}
	body, err := u.encode(entries, u.next, last, func(i int, dst []byte) error {
		copy(dst, from[i])
		return nil
	})
	if err != nil {
		return nil, err
	}
	return u.place(body, last, streams), nil
}

// pointsOf is where entries of a segment bring each stream.
func pointsOf(entries []segment.Entry) map[change.StreamID]change.Point {
	m := map[change.StreamID]change.Point{}
	for i := range entries {
		if e := &entries[i]; e.OfStream() && e.LastLSN > m[e.Stream].LSN {
			m[e.Stream] = change.Point{LSN: e.LastLSN, Hash: e.Hash}
		}
	}
	return m
}
