package promote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// found is the log that is taken, as it was read.
type found struct {
	target config.Target
	store  objstore.Store
	log    *twin.Log
	end    catalog.ReadPoint
	ahead  *ahead // of end, in a claim
	others []Other

	closers []func()
}

func (f *found) close() {
	if f != nil {
		for _, c := range f.closers {
			c()
		}
	}
}

// find reads the logs that may be taken, and takes the one that choice says.
func (r *run) find(ctx context.Context) (f *found, err error) {
	f = &found{}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	want := r.Target
	if r.intent != nil {
		want = r.intent.Target
	}
	looks := r.candidates(want)
	if h := r.HandOver; h != nil && len(looks) == 1 && want == r.Target { // else it is another target's
		looks[0].read, looks[0].to, r.Log = r.Log, h.At.Position, nil
	}
	taken := r.ask(ctx, looks)
	var errs []error
	for i, l := range looks {
		f.closers = append(f.closers, l.close)
		switch {
		case i == taken:
		case l.log != nil:
			f.others = append(f.others, l.other(OtherBehind))
		case l.err == nil:
			f.others = append(f.others, l.other(OtherLost))
		default:
			errs = append(errs, fail.At("look at target", l.target.Name, l.err))
			o := l.other(OtherUnreached)
			o.Error = fail.Explain(l.err)
			f.others = append(f.others, o)
		}
	}
	switch {
	case taken >= 0:
		f.take(looks[taken])
		return f, nil
	case len(looks) == 0:
		return f, fail.New(fail.NotFound, "find", "target "+want, "there is none in "+r.Path).
			WithHint("name one of journal.targets, by its name or URL")
	}
	return f, errors.Join(errs...)
}

// look is one at a target.
type look struct {
	target config.Target
	store  objstore.Store
	log    *twin.Log // nil where it was not read
	end    catalog.ReadPoint
	err    error // why, where it was asked
	close  func()

	read *twin.Log // its log as it was, from which on to a position it may be read
	to   uint64
}

func newLook(t config.Target) *look { return &look{target: t, close: func() {}} }

// candidates are the targets to look at, those at this site first.
func (r *run) candidates(want string) (out []*look) {
	for _, t := range r.conf.Journal.Targets {
		if want == "" || want == t.Name || want == t.URL {
			out = append(out, newLook(t))
		}
	}
	slices.SortStableFunc(out, func(a, b *look) int {
		elsewhere := func(l *look) int {
			if l.target.Site == r.conf.Site {
				return 0
			}
			return 1
		}
		return cmp.Compare(elsewhere(a), elsewhere(b))
	})
	return out
}

// open reads the target's log.
func (l *look) open(ctx context.Context, open Opener, cache *twin.Cache) {
	l.close() // of an earlier time
	l.close = func() {}
	var closeStore func()
	if l.store, closeStore, l.err = open(ctx, l.target); l.err != nil {
		return
	}
	l.close = closeStore
	if l.log, l.read = l.read, nil; l.log != nil {
		if ok, err := l.log.Extend(ctx, l.to); err != nil || !ok || l.log.End < l.to {
			l.log = nil
		}
	}
	if l.log == nil {
		l.log, l.err = twin.Open(ctx, l.store, &twin.Reading{Cache: cache})
	}
	if l.err == nil {
		l.end = l.log.ReadPoint(clock.Now())
	}
}

// lastLimit is how long targets at the lost site have to answer, where they are asked at all.
const lastLimit = 10 * time.Second

// ask reads the logs of targets, and returns which one is taken, or -1. Those at this site are read
// first, since they tell which site is lost; the others at once. What turns out to be at the lost site
// meanwhile is not waited for.
func (r *run) ask(ctx context.Context, looks []*look) (taken int) {
	c := choice{}
	for _, l := range looks {
		c.add(l.target.Site, !l.target.Optional)
	}
	done := make(chan int)
	cancel := map[int]context.CancelFunc{}
	var first *look
	answer := func() {
		i := <-done
		cancel[i]()
		delete(cancel, i)
		l := looks[i]
		if l.err == nil && first != nil && l.log.Identity.Journal != first.log.Identity.Journal {
			l.err = fail.New(fail.Refused, "take", l.store.URL(), fmt.Sprintf("it is of journal %s, and %s of %s",
				l.log.Identity.Journal, first.store.URL(), first.log.Identity.Journal)).
				WithHint("name the target whose log is to be taken: --store")
			l.log = nil
		}
		if l.err != nil {
			if c.away(i); c.skipped(i) { // it was not let answer
				l.err = nil
			}
			return
		}
		first = cmp.Or(first, l)
		c.found(i, l.end.Index, l.log.Epoch, l.log.State.Seat)
		for k := range cancel {
			if c.hurry(k) {
				cancel[k]()
			}
		}
	}
	for {
		i := c.next()
		switch {
		case i >= 0:
			limit := ctx
			if c.last(i) {
				limit, cancel[i] = context.WithTimeout(ctx, lastLimit)
			} else {
				limit, cancel[i] = context.WithCancel(ctx)
			}
			c.ask(i)
			go func() {
				looks[i].open(limit, r.Open, r.Cache)
				done <- i
			}()
			if looks[i].target.Site == r.conf.Site {
				answer()
			}
		case len(cancel) > 0:
			answer()
		default:
			return c.taken()
		}
	}
}

func (l *look) other(state string) Other {
	return Other{Target: l.target.Name, Site: l.target.Site, State: state}
}

func (f *found) take(l *look) {
	f.target, f.store, f.log, f.end, f.ahead = l.target, l.store, l.log, l.end, nil
}

// points are where the streams end in the log.
func (f *found) points() map[change.StreamID]change.Point {
	out := map[change.StreamID]change.Point{}
	for id, st := range f.log.State.Streams {
		p := f.at(id).Point
		if to := st.NewestGap(); to.LSN > p.LSN { // a resync began, and nothing followed
			p = to
		}
		out[id] = p
	}
	return out
}

// at is the end of a stream's newest frame.
func (f *found) at(id change.StreamID) catalog.At {
	if at, ok := f.end.Streams[id]; ok {
		return at
	}
	if c := f.log.Catalog; c != nil {
		return c.PointAt(len(c.ReadPoints)-1, id)
	}
	return catalog.At{}
}

// takeable refuses a log that cannot be taken as it is.
func (f *found) takeable(r *run) error {
	l := f.log
	if err := l.DamageOf(r.volumesOf()...); err != nil {
		return (&fail.Error{Kind: fail.KindOf(err), Op: "take", Object: f.store.URL(), Err: err}).
			WithHint("the log is damaged before its end: bring the object back from a version or replica of the " +
				"bucket, or take another target's log: --store")
	}
	if l.State.Level < state.LevelOf(state.KindSeat) && len(l.State.Streams) == 0 {
		return fail.New(fail.NotFound, "take", f.store.URL(), "the log has no stream: nothing was replicated to it")
	}
	if len(r.rep.Agents) == 0 {
		return fail.New(fail.NotFound, "take", f.store.URL(), "no agent of it has a stream").
			WithHint("agents of this log: " + fmt.Sprint(agentsOf(l.State)))
	}
	used := map[string]string{} // group -> agent
	for _, st := range r.streams() {
		if other := used[st.Group]; other != "" {
			return fail.New(fail.Refused, "take", "group "+st.Group, fmt.Sprintf("agents %s and %s both have a part "+
				"of it, and one agent can have one", other, st.Agent)).
				WithHint("take one here with --agent, and the other on another host with pollux recover, from the " +
					"journal that is here then")
		}
		used[st.Group] = st.Agent
	}
	return nil
}

// agentsOf are all that have a stream.
func agentsOf(s *state.State) (out []string) {
	for _, st := range s.Streams {
		if !slices.Contains(out, st.Agent) {
			out = append(out, st.Agent)
		}
	}
	slices.Sort(out)
	return out
}

// agents are those whose streams go on here.
func (r *run) agents() []string {
	switch {
	case r.intent != nil:
		return r.intent.Agents
	case len(r.Agents) > 0:
		return slices.DeleteFunc(slices.Clone(r.Agents), func(a string) bool {
			return !slices.Contains(agentsOf(r.found.log.State), a)
		})
	}
	return agentsOf(r.found.log.State)
}

// streams are those that go on here: of the agents that are taken, and of this agent where an
// earlier run has moved them already.
func (r *run) streams() (out []*state.Stream) {
	agents := r.agents()
	byID := func(st *state.Stream) string { return st.ID.String() }
	for _, st := range state.Sorted(r.found.log.State.Streams, byID) {
		if slices.Contains(agents, st.Agent) {
			out = append(out, st)
		}
	}
	return out
}

// volumesOf are the volumes that go on here; those that were removed do not.
func (r *run) volumesOf() (out []*state.Volume) {
	s := r.found.log.State
	agents := r.agents()
	for _, v := range state.Sorted(s.Volumes, func(v *state.Volume) string { return v.Name }) {
		if st := s.Streams[v.Stream]; st != nil && slices.Contains(agents, st.Agent) && !v.Removed {
			out = append(out, v)
		}
	}
	return out
}

// lastSign is when the log was written to last, by the journal's clock there.
func (f *found) lastSign(ctx context.Context) time.Time {
	at, err := f.log.LastTime(ctx)
	if err != nil {
		return time.Time{}
	}
	return at
}
