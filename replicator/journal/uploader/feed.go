package uploader

import (
	"context"
	"fmt"
	"maps"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/journal"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/claim"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
)

// object is one segment on its way.
type object struct {
	pos     uint64
	last    uint64 // journal index
	streams map[change.StreamID]change.Point
	body    []byte
	err     error
	done    chan struct{}
}

// feed uploads what the journal accepts.
func (u *Uploader) feed(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(u.order)
		return u.launch(ctx, g)
	})
	g.Go(func() error { return u.confirm(ctx) })
	return g.Wait()
}

// launch builds objects and starts their upload. When none is on its way it
// sends what there is at once; otherwise it collects.
func (u *Uploader) launch(ctx context.Context, g *errgroup.Group) error {
	for {
		changed := u.o.Journal.Changed()
		var ready bool
		if err := u.until(ctx, func() (err error) { ready, err = u.ready(); return err }); err != nil {
			return err
		}
		if !ready {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-changed:
			case <-u.landed:
			}
			continue
		}
		if err := u.store.Reserve(ctx); err != nil {
			return err
		}
		var ob *object
		err := u.until(ctx, func() (err error) { ob, err = u.another(ctx); return err })
		if err != nil {
			return err
		}
		if ob == nil {
			continue
		}
		u.mu.Lock()
		u.flying++
		u.flyingBytes += len(ob.body)
		u.mu.Unlock()
		g.Go(func() error { u.create(ctx, ob); return nil })
		select {
		case u.order <- ob:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ready reports whether another object is to be made now.
func (u *Uploader) ready() (bool, error) {
	if u.missing() {
		return u.mayFill(), nil
	}
	u.setFilling(false)
	if err := u.collect(); err != nil {
		if u.missing() { // it was let go meanwhile
			err = nil
		}
		return false, err
	}
	return len(u.batch) > 0 && u.mayLaunch(), nil
}

// another makes the next object, or none. What was collected may be gone by now, if the
// target was let go.
func (u *Uploader) another(ctx context.Context) (*object, error) {
	if u.missing() {
		return u.fill(ctx)
	}
	err := u.collect() // what came while we waited
	var ob *object
	if err == nil {
		ob, err = u.build(ctx)
	}
	if err != nil && u.missing() {
		return nil, nil
	}
	return ob, err
}

// mayLaunch applies natural batching. Just after our fence, objects go one at a
// time: a fenced writer may still create some up to segment.MaxInFlight beyond
// it, and stepping over them needs no more than that.
func (u *Uploader) mayLaunch() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case !u.near():
		return false
	case u.flying == 0:
		return true
	}
	return u.careful == 0 && u.flying < u.o.InFlight && u.flyingBytes < maxFlyingBytes &&
		(u.hurried || u.batchFull || u.batchBytes >= u.pipeline)
}

// near reports whether the next position lies so near to the first one that may still be on its way that
// it proves nothing of that. Called with mu held.
func (u *Uploader) near() bool { return u.pos <= u.status.Position+segment.MaxInFlight }

// collect adds what the journal has accepted meanwhile to the next object.
func (u *Uploader) collect() error {
	_, limit, _ := u.folding()
	u.batchFull = false
	return u.o.Journal.Entries(u.next+uint64(len(u.batch)), func(e journal.Entry) bool {
		if len(u.batch) > 0 && (u.batchBytes+int(e.Bytes) > limit || len(u.batch) == segment.MaxEntries) {
			u.batchFull = true
			return false
		}
		u.batch = append(u.batch, e)
		u.batchBytes += int(e.Bytes)
		return true
	})
}

// build encodes the collected entries as the object of the next position.
func (u *Uploader) build(ctx context.Context) (*object, error) {
	entries, parts, err := u.assemble(ctx)
	if err != nil {
		return nil, err
	}
	last := entries[len(entries)-1].Index
	index := make([]segment.Entry, len(parts))
	for i := range parts {
		index[i] = parts[i].Entry
	}
	body, err := u.encode(index, entries[0].Index, last, func(i int, dst []byte) error {
		if p := &parts[i]; p.fold == nil {
			return u.o.Journal.Fetch(p.from, dst)
		}
		copy(dst, parts[i].fold)
		return nil
	})
	if err != nil {
		return nil, err
	}
	ob := u.place(body, last, streamsOf(entries))
	u.forget(len(entries))
	return ob, nil
}

// encode is the next position's object of these entries, from journal index first to last.
func (u *Uploader) encode(entries []segment.Entry, first, last uint64,
	fetch func(i int, dst []byte) error) ([]byte, error) {
	id, _, _ := u.o.Journal.ID()
	h := segment.Head{Type: segment.Segment, Journal: id, Token: u.token, ChecksTail: true,
		Position: u.pos, DurablePosition: u.Status().Position,
		FirstIndex: first, LastIndex: last, Time: clock.Now().UnixNano()}
	buf, _ := u.pool.Get().(*[]byte)
	if buf == nil {
		buf = new([]byte)
	}
	return segment.Build(h, entries, *buf, fetch)
}

// place gives an object the next position.
func (u *Uploader) place(body []byte, last uint64, streams map[change.StreamID]change.Point) *object {
	ob := &object{pos: u.pos, last: last, streams: streams, body: body, done: make(chan struct{})}
	u.pos++
	u.next = last + 1
	maps.Copy(u.points, streams)
	return ob
}

// forget takes n entries off what was collected.
func (u *Uploader) forget(n int) {
	rest := copy(u.batch, u.batch[n:])
	clear(u.batch[rest:])
	u.batch, u.batchBytes, u.batchFull = u.batch[:rest], 0, false
	for i := range u.batch {
		u.batchBytes += int(u.batch[i].Bytes)
	}
}

// create uploads an object; confirm learns the outcome in order.
func (u *Uploader) create(ctx context.Context, ob *object) {
	u.mu.Lock()
	beside := u.flying // they share the link
	u.mu.Unlock()
	began := time.Now()
	ob.err = u.until(ctx, func() error { return u.land(ctx, ob) })
	u.mu.Lock()
	if ob.err == nil {
		u.pace.landed(len(ob.body)*beside, time.Since(began))
	}
	u.flying--
	u.flyingBytes -= len(ob.body)
	if u.careful > 0 {
		u.careful--
	}
	u.mu.Unlock()
	close(ob.done)
	u.wake()
}

// wake has launch look again.
func (u *Uploader) wake() {
	select {
	case u.landed <- struct{}{}:
	default:
	}
}

// alone reports whether objects still go one at a time.
func (u *Uploader) alone() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.careful > 0
}

// land creates an object. It is never given up while the lead lasts: those behind it may be
// there already, and only its very bytes fit before them.
func (u *Uploader) land(ctx context.Context, ob *object) error {
	for {
		err := u.timed(ob.pos, func() error { return u.store.Create(ctx, objlog.ObjectName(ob.pos), ob.body) })
		if !fail.Is(err, fail.Exists) {
			return err
		}
		if err := u.stepOver(ctx, ob, err); err != nil {
			return err
		}
	}
}

// stepOver moves an object past one that a fenced writer left at its position; nothing else
// is on its way then. Only an object that is really there, and a newer writer's, is a fence.
func (u *Uploader) stepOver(ctx context.Context, ob *object, exists error) error {
	x, err := objlog.ReadIndex(ctx, u.o.Store, ob.pos)
	if err != nil {
		return fail.At("look at", "what is there already", err)
	}
	id, _, _ := u.o.Journal.ID()
	c := x.Token.Compare(u.token)
	switch {
	case x.Journal == id && x.Token == u.token:
		return exists // ours, which another answer will say
	case x.Journal != id || c >= 0 || !u.alone():
		lost := fmt.Errorf("another writer has taken the log over: journal %s; ours is %s", x.Journal, id)
		if x.Journal == id {
			lost = &claim.Lost{Ours: u.token, Theirs: x.Token}
		}
		return &fail.Error{Kind: fail.Fenced, Op: "extend", Object: u.o.Store.URL() + "/" + objlog.ObjectName(ob.pos),
			Err: lost}
	}
	ob.pos++
	u.mu.Lock()
	u.pos = ob.pos + 1 // launch looks how far it is
	u.mu.Unlock()
	return segment.Move(ob.body, ob.pos)
}

// confirm commits, in order, what has been created: only the contiguous prefix
// counts. What landed meanwhile goes along.
func (u *Uploader) confirm(ctx context.Context) error {
	for ob := range u.order {
		up := journal.Uploaded{Target: u.o.Target, Token: u.token, Streams: map[change.StreamID]change.Point{}}
		for ob != nil {
			select {
			case <-ob.done:
			case <-ctx.Done():
				return ctx.Err()
			}
			if ob.err != nil {
				return ob.err
			}
			up.Position, up.Index = ob.pos+1, ob.last
			maps.Copy(up.Streams, ob.streams)
			u.landedObject(ob)
			ob = u.alsoDone()
		}
		if err := u.commit(ctx, up); err != nil {
			return err
		}
		u.mu.Lock()
		u.status.Position, u.status.Index = up.Position, up.Index
		u.mu.Unlock()
		u.wake() // what was too far ahead may be near now
		u.note(nil)
	}
	return nil
}

// alsoDone returns the next object if it has landed already.
func (u *Uploader) alsoDone() *object {
	u.mu.Lock()
	flying := u.flying
	u.mu.Unlock()
	if flying > 0 {
		return nil // it may be the next one: do not keep the others waiting for it
	}
	select {
	case ob := <-u.order:
		return ob
	default:
		return nil
	}
}

func (u *Uploader) landedObject(ob *object) {
	u.mu.Lock()
	u.status.Objects++
	u.status.Bytes += int64(len(ob.body))
	u.mu.Unlock()
	body := ob.body[:0]
	ob.body = nil
	u.pool.Put(&body)
}
