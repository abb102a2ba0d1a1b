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

// find reads the logs that may be taken, and takes the farthest. Those at the site that is lost are
// not asked; where no log at this site tells which one that is, the others are asked at once, and as
// soon as one has told, those at the lost site are not waited for.
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
	all := r.candidates(want)
	here := slices.IndexFunc(all, func(l *look) bool { return l.target.Site != r.conf.Site })
	if here < 0 {
		here = len(all)
	}
	for _, l := range all[:here] {
		l.open(ctx, r)
	}
	lost := r.lostSite(all, want)
	var asked []*look
	for _, l := range all[here:] {
		if lost == "" || l.target.Site != lost {
			asked = append(asked, l)
		}
	}
	openAll(ctx, r, asked, want)
	return f, f.choose(r, all, want)
}

// look is one at a target.
type look struct {
	target config.Target
	store  objstore.Store
	log    *twin.Log // nil where it was not read
	err    error     // why
	close  func()
}

// candidates are the targets to look at, those at this site first.
func (r *run) candidates(want string) (out []*look) {
	for _, t := range r.conf.Journal.Targets {
		if want == "" || want == t.Name || want == t.URL {
			out = append(out, &look{target: t, close: func() {}})
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
func (l *look) open(ctx context.Context, r *run) {
	if l.store, l.close, l.err = r.Open(ctx, l.target); l.err != nil {
		l.close = func() {}
		return
	}
	l.log, l.err = twin.Open(ctx, l.store, nil)
}

// openAll reads several logs at once, but none at the lost site once that is known.
func openAll(ctx context.Context, r *run, asked []*look, want string) {
	done := make(chan *look)
	cancel := map[*look]context.CancelFunc{}
	for _, l := range asked {
		var one context.Context
		one, cancel[l] = context.WithCancel(ctx)
		go func() {
			l.open(one, r)
			done <- l
		}()
	}
	var read []*look
	for range asked {
		l := <-done
		read = append(read, l)
		lost := r.lostSite(read, want)
		for _, l := range asked {
			if lost != "" && l.target.Site == lost {
				cancel[l]()
			}
		}
	}
	for _, end := range cancel {
		end()
	}
}

// lostSite is the site of the former seat, as far as the logs that were read tell: none where it is
// this one, whose targets are there. Where the target is named, it does not matter.
func (r *run) lostSite(looks []*look, want string) string {
	for _, l := range looks {
		if want == "" && l.log != nil && l.log.State.Seat.Site != r.conf.Site {
			return l.log.State.Seat.Site
		}
	}
	return ""
}

// choose takes the farthest log of those that were read: one at the lost site only where there is no
// other.
func (f *found) choose(r *run, all []*look, want string) error {
	lost := r.lostSite(all, want)
	var errs []error
	var atLost *look
	for _, l := range all {
		f.closers = append(f.closers, l.close)
		switch {
		case lost != "" && l.target.Site == lost:
			if f.others = append(f.others, l.other(OtherLost)); l.log != nil {
				atLost = l
			}
			continue
		case l.err == nil:
			l.err = f.take(l)
		}
		if l.err != nil {
			errs = append(errs, fail.At("look at target", l.target.Name, l.err))
			o := l.other(OtherUnreached)
			o.Error = fail.Explain(l.err)
			f.others = append(f.others, o)
		}
	}
	switch {
	case f.log != nil:
		return nil
	case atLost != nil:
		f.others = slices.DeleteFunc(f.others, func(o Other) bool { return o.Target == atLost.target.Name })
		return f.take(atLost)
	case len(errs) == 0:
		return fail.New(fail.NotFound, "find", "target "+want, "there is none in "+r.Path).
			WithHint("name one of journal.targets, by its name or URL")
	}
	return errors.Join(errs...)
}

func (l *look) other(state string) Other {
	return Other{Target: l.target.Name, Site: l.target.Site, State: state}
}

// take takes a log where it is the farthest so far: of the highest epoch, whatever others have written
// on a dead branch, and then by what it has.
func (f *found) take(l *look) error {
	end := l.log.ReadPoint(clock.Now())
	switch {
	case f.log != nil && l.log.Identity.Journal != f.log.Identity.Journal:
		return fail.New(fail.Refused, "take", l.store.URL(), fmt.Sprintf("it is of journal %s, and %s of %s",
			l.log.Identity.Journal, f.store.URL(), f.log.Identity.Journal)).
			WithHint("name the target whose log is to be taken: --store")
	case f.log == nil || l.log.Epoch > f.log.Epoch || l.log.Epoch == f.log.Epoch && end.Index > f.end.Index:
		if f.log != nil {
			f.others = append(f.others, Other{Target: f.target.Name, Site: f.target.Site, State: OtherBehind})
		}
		f.target, f.store, f.log, f.end = l.target, l.store, l.log, end
	default:
		f.others = append(f.others, l.other(OtherBehind))
	}
	return nil
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
