package twin

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
)

// examiner walks a log from its first object to its last.
type examiner struct {
	store  objstore.Store
	rules  objlog.Rules
	points map[change.StreamID]change.Point
	lost   bool               // something was damaged: state and chains have a gap
	floor  uint64             // positions below may be gone
	from   *catalog.ReadPoint // the floor, nil where all is there
	state  *state.State
	blind  uint64 // the position from which on commands apply to it
	totals Totals
	parts  map[change.StreamID]*StreamPart

	catalog uint64 // the number of the one that says so
}

// ofObject reports whether err says something about the object, rather than
// about the way to it.
func ofObject(err error) bool {
	switch fail.KindOf(err) {
	case fail.Damaged, fail.Unsupported, fail.NotFound:
		return true
	}
	return false
}

// note records the first thing that is wrong with an object.
func (o *Object) note(err error) {
	if err != nil && o.Err == nil {
		o.Err = err
		if o.Standing == Valid {
			o.Standing = Damaged
		}
	}
}

// positions lists the log's objects, those that a list lacks as well; below the floor
// it does not matter.
func (x *examiner) positions(ctx context.Context) ([]located, error) {
	all, err := positions(ctx, x.store, 0, everything)
	if err == nil && all[0].position > 0 {
		var n int64
		if n, err = x.store.Size(ctx, objlog.ObjectName(0)); err == nil {
			all = slices.Insert(all, 0, located{0, n, ""})
		} else if fail.Is(err, fail.NotFound) {
			err = nil
		}
	}
	if err != nil {
		return nil, err
	}
	return whole(ctx, x.store, all, x.floor, everything)
}

// footers reads all objects' footers, and notes the positions that are missing.
func (x *examiner) footers(ctx context.Context, all []located) ([]*Object, error) {
	objects := make([]*Object, len(all))
	err := parallel(ctx, len(all), func(ctx context.Context, i int) error {
		o := &Object{Position: all[i].position, Name: objlog.ObjectName(all[i].position), Bytes: all[i].bytes,
			Standing: Valid}
		objects[i] = o
		var err error
		if o.Index, _, err = objlog.ReadTail(ctx, x.store, o.Position, o.Bytes); ofObject(err) {
			o.absent = fail.Is(err, fail.NotFound) && o.Position > 0 && o.Position < x.floor
			o.note(err)
			err = nil
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return x.gaps(slices.DeleteFunc(objects, func(o *Object) bool { return o.absent })), nil
}

// gaps puts an Object in for each run of positions that must have been there.
func (x *examiner) gaps(objects []*Object) []*Object {
	reached := uint64(0) // positions below were there once
	for _, o := range objects {
		if o.Position > segment.MaxInFlight {
			reached = max(reached, o.Position-segment.MaxInFlight)
		}
		if o.Index != nil {
			reached = max(reached, o.Index.DurablePosition)
		}
	}
	reached = max(reached, 1)
	var out []*Object
	next, open := uint64(0), false
	for _, o := range objects {
		if next > 0 && next < x.floor { // what is not there below the floor is not missing
			next = min(o.Position, x.floor)
		}
		if through := min(o.Position, reached); next < through {
			m := &Object{Position: next, Name: objlog.ObjectName(next), Standing: Missing}
			m.note(objlog.ErrMissing(x.store.URL(), next, o.Position))
			if through-next > 1 {
				m.Err = fail.At("open", fmt.Sprintf("positions %d to %d", next, through-1), m.Err)
			}
			out = append(out, m)
			next = through
		}
		open = open || next < o.Position
		if open && o.Err == nil {
			o.Standing = Beyond
		}
		next = o.Position + 1
		out = append(out, o)
	}
	return out
}

// standings applies the rules of fences.
func (x *examiner) standings(objects []*Object) {
	x.rules.Next = 1
	if x.from != nil {
		x.rules.Next, x.rules.Token = x.from.Index+1, x.from.Token
	}
	var valid []*Object
	for i, o := range objects {
		if o.Position > 0 && o.Position < x.floor {
			if o.Index != nil {
				o.Standing = Old
			}
			continue
		}
		switch {
		case o.Index == nil || o.Standing == Beyond:
			x.rules.Lost = x.rules.Lost || o.Standing != Beyond
			continue
		case i == 0 && o.Position == 0:
			x.identity(o)
			continue
		case x.rules.Journal == [16]byte{}:
			x.rules.Journal = o.Index.Journal // the identity cannot be read
		}
		ok, err := x.rules.Judge(o.Index)
		if err != nil {
			o.note(fail.New(fail.Damaged, "read", x.at(o), err.Error()))
			x.rules.Lost = true
			continue
		}
		if !ok {
			o.Standing = Void
			continue
		}
		if o.Index.Type == segment.Fence {
			for _, before := range valid {
				if before.Index.LastIndex >= o.Index.FirstIndex &&
					(before.DeadFrom == 0 || before.DeadFrom > o.Index.FirstIndex) {
					before.DeadFrom = max(o.Index.FirstIndex, before.Index.FirstIndex)
				}
			}
			valid = slices.DeleteFunc(valid, func(b *Object) bool { return b.Index.FirstIndex >= o.Index.FirstIndex })
		} else {
			valid = append(valid, o)
		}
	}
}

func (x *examiner) identity(o *Object) {
	if o.Index.Type != segment.Identity {
		o.note(fail.New(fail.Damaged, "read", x.at(o),
			fmt.Sprintf("position 0 is a %v, not the log's identity", o.Index.Type)))
	}
	x.rules.Journal = o.Index.Journal
}

func (x *examiner) at(o *Object) string { return x.store.URL() + "/" + o.Name }

// read fetches an object and checks all of it. Several run at once.
func (x *examiner) read(ctx context.Context, o *Object) error {
	if o.Index == nil {
		return nil
	}
	b, err := objstore.ReadWhole(ctx, x.store, o.Name, segment.MaxObjectBytes)
	if err != nil {
		if ofObject(err) {
			o.note(err)
			o.absent = fail.Is(err, fail.NotFound)
			return nil
		}
		return err
	}
	parts := map[change.StreamID]*StreamPart{}
	_, err = segment.Walk(b, func(i int, c segment.Checked) {
		if c.Err != nil {
			return
		}
		index := o.Index.Entries[i].Index
		var one StreamPart
		switch {
		case c.Frame == nil && c.Fold == nil:
			o.Commands = append(o.Commands, Command{Index: index, Kind: c.Command.String(), Body: slices.Clone(c.JSON),
				kind: c.Command})
			return
		case !o.live(index):
			return
		case c.Frame != nil:
			o.frames = append(o.frames, frameLink{c.Frame.Header, c.Frame.Hash})
			one = partOf(c.Frame)
		default:
			c.Fold.Headers(func(h change.Header, hash change.Hash) { o.frames = append(o.frames, frameLink{h, hash}) })
			one = partOfFold(c.Fold)
		}
		p := parts[one.Stream]
		if p == nil {
			p = &StreamPart{}
			parts[one.Stream] = p
		}
		p.add(&one)
	})
	o.note(fail.At("read", x.at(o), err))
	for _, id := range slices.SortedFunc(maps.Keys(parts), func(a, b change.StreamID) int {
		return cmp.Compare(a.String(), b.String())
	}) {
		o.Streams = append(o.Streams, *parts[id])
	}
	return nil
}

func partOf(f *change.Frame) StreamPart {
	p := StreamPart{Stream: f.Stream, Frames: 1, Records: int64(len(f.Records)), Kinds: map[string]int64{},
		FirstLSN: f.FirstLSN, LastLSN: f.LastLSN,
		FirstTime: time.Unix(0, f.FirstTime).UTC(), LastTime: time.Unix(0, f.LastTime).UTC(),
		StoredBytes: int64(f.FrameBytes()), PlainBytes: int64(f.PlainBytes)}
	for i := range f.Records {
		p.Kinds[f.Records[i].Kind.String()]++
	}
	return p
}

// partOfFold counts the records that are left, and the frames that were.
func partOfFold(f *segment.Fold) StreamPart {
	p := StreamPart{Stream: f.Stream, Frames: int(f.Frames), Folds: 1, Records: int64(len(f.Records)),
		Kinds:    map[string]int64{},
		FirstLSN: f.FirstLSN, LastLSN: f.LastLSN, FirstTime: time.Unix(0, f.FirstTime).UTC(),
		LastTime:    time.Unix(0, f.LastTime).UTC(),
		StoredBytes: f.Bytes(), PlainBytes: f.PlainBytes, FoldBytes: f.Bytes(), FoldedBytes: f.FrameBytes}
	for i := range f.Records {
		p.Kinds[f.Records[i].Kind.String()]++
	}
	return p
}

// live reports whether an entry of a valid object is no dead branch.
func (o *Object) live(index uint64) bool { return o.DeadFrom == 0 || index < o.DeadFrom }

// chain checks what an object says against what came before it.
func (x *examiner) chain(o *Object) {
	if o.Standing == Valid && o.Position > 0 && o.Position < x.floor {
		o.Standing = Old // since the floor has moved
	}
	if o.Standing == Void || o.Standing == Beyond || o.Standing == Old {
		return
	}
	err := o.Err
	if err == nil {
		err = fail.At("read", x.at(o), x.follow(o))
		o.note(err)
	}
	if err != nil {
		x.lost = true
		clear(x.points) // chains begin anew behind the damage
	}
}

// follow returns what costs the rest of the log its chains. A stream that does not go on
// is noted, costs no other anything, and begins anew there.
func (x *examiner) follow(o *Object) error {
	switch o.Index.Type {
	case segment.Identity:
		var id state.Identity
		if err := document(o, state.KindIdentity, &id); err != nil {
			return err
		}
		return checkIdentity(o.Index, &id)
	case segment.Fence:
		var f state.Fence
		if err := document(o, state.KindFence, &f); err != nil {
			return err
		}
		return x.fence(o, &f)
	}
	for _, c := range o.Commands {
		if !o.live(c.Index) || o.Position < x.blind {
			continue
		}
		// Behind damage they may not apply, and those that do tell of gaps.
		if err := objlog.Replay(x.state, c.kind, c.Body); err != nil && !x.lost {
			return fail.At("apply", fmt.Sprintf("journal index %d", c.Index), err)
		}
	}
	for _, f := range o.frames {
		at, known := x.points[f.header.Stream]
		if g := x.state.Streams[f.header.Stream].GapBefore(f.header.FirstLSN); g != nil && g.From == at {
			at = g.To
		}
		if known || !x.lost {
			if err := f.header.Follows(at); err != nil &&
				!x.state.Streams[f.header.Stream].ForgotGapBefore(f.header.FirstLSN) {
				o.note(fail.At("read", x.at(o), err))
			}
		}
		x.points[f.header.Stream] = change.Point{LSN: f.header.LastLSN, Hash: f.hash}
	}
	return nil
}

func document(o *Object, kind state.Kind, v any) error {
	if len(o.Commands) != 1 || o.Commands[0].kind != kind {
		return fail.New(fail.Damaged, "read", o.Index.Type.String(), "it does not hold one document of its kind")
	}
	return fail.Wrap(fail.Damaged, "decode", kind.String(), json.Unmarshal(o.Commands[0].Body, v))
}

// fence holds what a fence says against what the log holds there.
func (x *examiner) fence(o *Object, f *state.Fence) error {
	if f.NextIndex != o.Index.FirstIndex {
		return fail.New(fail.Damaged, "check", "fence",
			fmt.Sprintf("it names journal index %d, its head %d", f.NextIndex, o.Index.FirstIndex))
	}
	for id, p := range f.Streams {
		if at := x.points[id]; at != p && !x.lost {
			return fail.New(fail.Damaged, "check", "fence",
				fmt.Sprintf("it goes on with stream %s at %v, the log holds %v", id, p, at))
		}
	}
	return nil
}
