package uploader

import (
	"cmp"
	"context"
	"fmt"
	"maps"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/journal"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/claim"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
)

// claim makes the log ours: identity, then every valid segment that is there is
// adopted, then our fence at the first free position. What comes next is claim.Claim's to say.
func (u *Uploader) claim(ctx context.Context) error {
	if err := u.identify(ctx); err != nil {
		return err
	}
	t := u.o.Journal.Target(u.o.Target)
	if t.Position > 1 { // another check that this is the log, and all of it
		if _, err := objlog.ReadIndex(ctx, u.o.Store, t.Position-1); err != nil {
			return u.lostLog(err, t.Position-1)
		}
	}
	u.unknown = t.Position <= 1
	u.points = u.o.Journal.TargetPoints(u.o.Target)
	if u.points == nil {
		u.points = map[change.StreamID]change.Point{}
	}
	c := claim.Return(u.token, claim.Place{Position: max(1, t.Position), Next: t.Index + 1, Token: t.Token})
	if u.arrives() {
		if err := u.arrive(ctx); err != nil {
			return err
		}
		c = claim.Arrive(u.token)
	}
	for c.Step() != claim.Done {
		if err := u.claimStep(ctx, &c); err != nil {
			return fail.At("claim", u.o.Store.URL()+"/"+objlog.ObjectName(c.Place().Position), err)
		}
	}
	u.pos, u.next = c.Place().Position, c.Place().Next
	u.mu.Lock()
	u.status.Position, u.status.Index, u.status.Claimed = u.pos, u.next-1, true
	u.mu.Unlock()
	u.note(nil)
	up := journal.Uploaded{Target: u.o.Target, Position: u.pos, Index: u.next - 1, Token: u.token}
	if u.arrives() { // nothing of it has been counted yet
		up.Streams = u.points
	}
	return u.commit(ctx, up)
}

// claimStep carries out one step of a claim.
func (u *Uploader) claimStep(ctx context.Context, c *claim.Claim) error {
	switch c.Step() {
	case claim.Read:
		x, err := objlog.ReadIndex(ctx, u.o.Store, c.Place().Position)
		if fail.Is(err, fail.NotFound) {
			return c.Absent()
		}
		if err != nil {
			return err
		}
		return u.adopt(ctx, x, c)
	case claim.Create:
		err := u.fence(ctx, c.Place())
		if fail.Is(err, fail.Exists) {
			c.Refused() // somebody was faster: look at it
			return nil
		}
		if err == nil {
			c.Created()
		}
		return err
	default:
		k, err := u.newestCatalog(ctx, c.Began())
		if err == nil {
			err = c.Catalog(k)
		}
		u.tail.checked = err == nil
		if err == nil && c.Step() == claim.Read { // from the catalog's end on
			u.points = maps.Clone(u.reached)
		}
		return err
	}
}

// lostLog is err, or where that is NotFound the error of a store that has lost an object that
// this journal knows to be there.
func (u *Uploader) lostLog(err error, position uint64) error {
	if !fail.Is(err, fail.NotFound) {
		return err
	}
	return objlog.ErrLost("claim", u.o.Store, position, u.o.Journal.Target(u.o.Target).Position)
}

// identify creates position 0, or checks that it is this journal's.
func (u *Uploader) identify(ctx context.Context) error {
	id, _, site := u.o.Journal.ID()
	// The store's site, where it is known.
	u.o.Journal.View(func(s *state.State) { site = cmp.Or(s.SiteOf(u.o.Target), site) })
	doc := state.Identity{Journal: id, Format: state.FormatVersion, Site: site, Created: u.o.Journal.Created()}
	obj := segment.Document(segment.Head{Type: segment.Identity, Journal: id,
		Token: segment.Token{Epoch: u.token.Epoch}, FirstIndex: 1, Time: doc.Created.UnixNano()},
		state.KindIdentity, doc)
	x, err := objlog.ReadIndex(ctx, u.o.Store, 0)
	if n := u.o.Journal.Target(u.o.Target).Position; n > 0 && err != nil {
		return u.lostLog(err, 0)
	}
	if fail.Is(err, fail.NotFound) {
		if err = u.timed(0, func() error { return u.store.Create(ctx, objlog.ObjectName(0), obj) }); err == nil ||
			fail.Is(err, fail.Exists) {
			x, err = objlog.ReadIndex(ctx, u.o.Store, 0)
		}
	}
	if err != nil {
		return err
	}
	if x.Journal != id {
		return objlog.ErrForeign("claim", u.o.Store, x.Journal, id)
	}
	return u.checkFormat(ctx, x)
}

// checkFormat refuses to write into a log of a format that this build does not
// know.
func (u *Uploader) checkFormat(ctx context.Context, x *segment.Index) error {
	object := u.o.Store.URL() + "/" + objlog.ObjectName(0)
	if x.Type != segment.Identity || len(x.Entries) != 1 {
		return fail.New(fail.Damaged, "claim", object, "position 0 is not the log's identity")
	}
	e := &x.Entries[0]
	var there state.Identity
	err := objstore.Reread(func() error {
		b, err := u.o.Store.Read(ctx, objlog.ObjectName(0), e.Offset, int64(e.Bytes), nil)
		if err != nil {
			return err
		}
		return fail.At("claim", object, state.Decode(b, state.KindIdentity, &there))
	})
	if err != nil {
		return err
	}
	if there.Format != state.FormatVersion {
		return fail.New(fail.Unsupported, "claim", object,
			fmt.Sprintf("format %d; this build writes %d", there.Format, state.FormatVersion)).
			WithHint("use a pollux version that knows this format")
	}
	return nil
}

// adopt takes an object that is already in the log into account.
func (u *Uploader) adopt(ctx context.Context, x *segment.Index, c *claim.Claim) error {
	counts, err := c.Found(claim.Of(x), u.deadFrom(x.Token.Epoch))
	if err != nil || !counts {
		return err
	}
	x = c.Counted(x)
	if err := u.sameMoves(ctx, x); err != nil {
		return err
	}
	streams, err := u.matching(x, u.o.Store.URL()+"/"+objlog.ObjectName(x.Position))
	if err != nil {
		return err
	}
	maps.Copy(u.points, streams)
	if u.arrives() { // it counts once our fence stands
		return nil
	}
	return u.commit(ctx, journal.Uploaded{Target: u.o.Target, Position: x.Position + 1, Index: x.LastIndex,
		Token: x.Token, Streams: streams})
}

// matching tells where a segment brings the streams. Its entries must be the journal's
// own: the journal put them there before it was stopped. Of a target that was let go,
// the journal no longer has all of them to compare.
func (u *Uploader) matching(x *segment.Index, object string) (map[change.StreamID]change.Point, error) {
	if last := u.o.Journal.LastIndex(); x.LastIndex > last {
		return nil, fail.New(fail.Fenced, "claim", object,
			fmt.Sprintf("the object log is ahead of this journal, which ends at index %d", last)).
			WithHint("the journal's state is older than its bucket (a backup put back?): " +
				"restore from the bucket instead")
	}
	t := u.o.Journal.Target(u.o.Target)
	if t.LetGo != nil && x.FirstIndex < u.o.Journal.Floor() {
		return pointsOf(x.Entries), nil
	}
	var entries []journal.Entry
	want := int(x.LastIndex - x.FirstIndex + 1)
	err := u.o.Journal.Entries(x.FirstIndex, func(e journal.Entry) bool {
		entries = append(entries, e)
		return len(entries) < want
	})
	if err != nil && u.missing() {
		return pointsOf(x.Entries), nil // let go just now
	}
	if err != nil {
		return nil, err
	}
	if i, ok := sameEntries(entries, x.Entries); !ok {
		return nil, fail.New(fail.Fenced, "claim", object,
			fmt.Sprintf("journal index %d is another entry there than here", i)).
			WithHint("two journals share one identity; stop both and restore from the bucket")
	}
	return streamsOf(entries), nil
}

// sameEntries holds an object's entries against the journal's for the same range.
// A fold is the same where it stands for as many frames of its stream, and ends with
// the same one: the chain of hashes vouches for those before. Where they differ it
// returns a journal index.
func sameEntries(ours []journal.Entry, theirs []segment.Entry) (uint64, bool) {
	frames := map[change.StreamID]uint32{} // of ours that theirs have not stood for yet
	next := 0
	for i := range theirs {
		b := &theirs[i]
		var a *journal.Entry
		for ; next < len(ours) && ours[next].Index <= b.Index; next++ {
			if a = &ours[next]; a.OfStream() {
				frames[a.Stream]++
			} else if a.Index != b.Index {
				return a.Index, false
			}
		}
		switch {
		case a == nil || a.Index != b.Index:
			return b.Index, false
		case b.Kind == segment.CommandEntry:
			if a.Kind != b.Kind || a.Bytes != b.Bytes {
				return b.Index, false
			}
			continue
		case a.Stream != b.Stream || a.Hash != b.Hash || a.LastLSN != b.LastLSN || frames[b.Stream] != b.Covers:
			return b.Index, false
		}
		frames[b.Stream] = 0
	}
	for _, n := range frames {
		if n > 0 {
			return ours[len(ours)-1].Index, false
		}
	}
	return 0, next == len(ours)
}

// fence creates our fence.
func (u *Uploader) fence(ctx context.Context, at claim.Place) error {
	id, _, _ := u.o.Journal.ID()
	doc := state.Fence{NextIndex: at.Next, Streams: u.points, Reason: "writer started"}
	h := segment.Head{Type: segment.Fence, Journal: id, Token: u.token, ChecksTail: true,
		Position: at.Position, DurablePosition: at.Position, FirstIndex: at.Next, Time: clock.Now().UnixNano()}
	obj := segment.Document(h, state.KindFence, doc)
	return u.timed(at.Position, func() error { return u.store.Create(ctx, objlog.ObjectName(at.Position), obj) })
}
