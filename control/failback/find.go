package failback

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/branch"
)

// found is the log that went on.
type found struct {
	target config.Target
	store  objstore.Store
	log    *twin.Log

	closers []func()
	behind  string // a target that does not have what came after this host's epoch
}

func (f *found) close() {
	if f != nil {
		for _, c := range f.closers {
			c()
		}
	}
}

// find reads the logs of the targets, and takes the farthest that went on behind an epoch.
func (r *run) find(ctx context.Context, want string, journal uuid.UUID, epoch uint64) error {
	r.found = &found{}
	var errs []error
	some := false
	for _, t := range r.conf.Journal.Targets {
		if want != "" && want != t.Name && want != t.URL {
			continue
		}
		some = true
		if err := r.look(ctx, t, journal, epoch); err != nil {
			errs = append(errs, fail.At("look at target", t.Name, err))
		}
	}
	switch {
	case r.found.log != nil:
		return nil
	case want != "" && r.found.behind != "":
		return r.elsewhere(ctx, journal, epoch, errors.Join(errs...))
	case !some:
		return fail.New(fail.NotFound, "find", "target "+want, "there is none in "+r.Path).
			WithHint("name one of journal.targets, by its name or URL: the log is read there, and followed")
	}
	return errors.Join(errs...)
}

// elsewhere asks the other targets where the journal went on, when the one that is wanted does not say.
// A target that a new seat has not reached yet is waited for; err is returned where none says so.
func (r *run) elsewhere(ctx context.Context, journal uuid.UUID, epoch uint64, err error) error {
	behind := r.found.behind
	for _, t := range r.conf.Journal.Targets {
		if t.Name == behind || r.look(ctx, t, journal, epoch) != nil {
			continue
		}
		return fail.New(fail.Retry, "fail back from", "target "+behind, fmt.Sprintf("the journal went on under epoch "+
			"%d, as target %s says, and its new seat has not brought this one in line yet", r.found.log.Epoch, t.Name)).
			WithHint("the same command again in a while; or follow the other one: --store " + t.Name)
	}
	return err
}

// look opens a target's log, and takes it where it is the farthest so far.
func (r *run) look(ctx context.Context, t config.Target, journal uuid.UUID, epoch uint64) error {
	s, closeStore, err := r.Open(ctx, t)
	if err != nil {
		return err
	}
	r.found.closers = append(r.found.closers, closeStore)
	l, err := twin.Open(ctx, s, nil)
	switch {
	case err != nil:
		return err
	case l.Identity.Journal != journal:
		return fail.New(fail.Refused, "follow", s.URL(), fmt.Sprintf("it is of journal %s, and this host of %s",
			l.Identity.Journal, journal))
	case l.Damage != nil:
		return l.Damage
	case l.Epoch <= epoch:
		r.found.behind = t.Name
		return fail.New(fail.Refused, "fail back from", s.URL(), fmt.Sprintf("the journal did not go on there under a "+
			"later epoch than %d, which is this host's", epoch)).
			WithHint("if the seat is here, start the agent; if it went on elsewhere, name the target that has its " +
				"log: --store")
	}
	if old := r.found.log; old == nil || l.Epoch > old.Epoch || l.Epoch == old.Epoch &&
		l.ReadPoint(time.Time{}).Index > old.ReadPoint(time.Time{}).Index {
		r.found.target, r.found.store, r.found.log = t, s, l
	}
	return nil
}

// succession is the fence behind which the journal went on, the first of a later epoch than ours.
func (f *found) succession(ctx context.Context, epoch uint64) (branch.Successor, *state.Fence, error) {
	fences := f.log.Fences()
	if c := f.log.Catalog; c != nil {
		fences = append(c.Fences[:len(c.Fences):len(c.Fences)], fences...)
	}
	out := branch.Successor{Target: f.target.Name}
	for i := range fences {
		position := fences[i].Position
		x, err := objlog.ReadIndex(ctx, f.store, position)
		if err != nil {
			return out, nil, err
		}
		if x.Type != segment.Fence || x.Token.Epoch <= epoch || out.Position > 0 && position > out.Position {
			continue
		}
		out.Position, out.Epoch, out.Index = position, x.Token.Epoch, x.FirstIndex
		out.Time = time.Unix(0, x.Time).UTC()
	}
	if out.Position == 0 {
		return out, nil, fail.New(fail.Damaged, "find in", f.store.URL(),
			fmt.Sprintf("the fence of the epoch behind %d: the log has none", epoch))
	}
	d := f.log.State.DeadFrom(epoch)
	if d != 0 && d < out.Index {
		return out, nil, fail.New(fail.Damaged, "read", f.store.URL()+"/"+objlog.ObjectName(out.Position),
			fmt.Sprintf("the fence goes on at journal index %d, and the journal says %d", out.Index, d))
	}
	doc, err := objlog.ReadFence(ctx, f.store, out.Position)
	if err != nil {
		return out, nil, err
	}
	out.Site = doc.Site
	if d != 0 {
		out.Site = siteAfter(f.log.State, epoch) // a fence of a target that was not the one taken has none
	}
	if d > out.Index { // this target was behind, and what was missing was filled in
		out.Index = d
		if doc.Streams == nil {
			doc.Streams = map[change.StreamID]change.Point{}
		}
		err = f.advance(ctx, out.Position, d, doc.Streams)
	}
	return out, doc, err
}

// siteAfter is where the journal went on from an epoch.
func siteAfter(s *state.State, epoch uint64) string {
	for i := range s.Moves {
		if s.Moves[i].Epoch > epoch {
			return s.Moves[i].Site
		}
	}
	return ""
}

// advance moves the streams' points from a fence on to just before a journal index. Where garbage
// collection has freed what lies between, they stay before it, which are points of the common
// history, too: more than need be is saved and put back then.
func (f *found) advance(ctx context.Context, fence, index uint64, points map[change.StreamID]change.Point) error {
	cur := segment.Token{}
	for position, next := fence, uint64(0); next < index; position++ {
		x, err := objlog.ReadIndex(ctx, f.store, position)
		if fail.Is(err, fail.NotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if x.Token.Compare(cur) < 0 {
			continue // void
		}
		cur, next = x.Token, x.LastIndex+1
		for i := range x.Entries {
			if e := &x.Entries[i]; e.OfStream() && e.Index < index && e.LastLSN > points[e.Stream].LSN {
				points[e.Stream] = change.Point{LSN: e.LastLSN, Hash: e.Hash}
			}
		}
	}
	return nil
}

// agrees holds a point against the log.
func (f *found) agrees(ctx context.Context, id change.StreamID, p change.Point) (bool, error) {
	hash, known, err := f.log.HashAt(ctx, id, p.LSN)
	return known && hash == p.Hash, err
}
