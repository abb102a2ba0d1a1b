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

// find reads the logs that may be taken, and takes the farthest. Those at the site that is lost
// are not asked.
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
	var errs []error
	for _, t := range r.candidates(want) {
		if lost := f.lost(); want == "" && lost != "" && t.Site == lost {
			f.others = append(f.others, Other{Target: t.Name, Site: t.Site, State: OtherLost})
			continue
		}
		if err := f.look(ctx, r, t); err != nil {
			errs = append(errs, fail.At("look at target", t.Name, err))
			f.others = append(f.others, Other{Target: t.Name, Site: t.Site, State: OtherUnreached,
				Error: fail.Explain(err)})
		}
	}
	if f.log == nil {
		if len(errs) == 0 {
			return f, fail.New(fail.NotFound, "find", "target "+want, "there is none in "+r.Path).
				WithHint("name one of journal.targets, by its name or URL")
		}
		return f, errors.Join(errs...)
	}
	return f, nil
}

// candidates are the targets to look at, those at this site first.
func (r *run) candidates(want string) []config.Target {
	var out []config.Target
	for _, t := range r.conf.Journal.Targets {
		if want == "" || want == t.Name || want == t.URL {
			out = append(out, t)
		}
	}
	slices.SortStableFunc(out, func(a, b config.Target) int {
		here := func(t config.Target) int {
			if t.Site == r.conf.Site {
				return 0
			}
			return 1
		}
		return cmp.Compare(here(a), here(b))
	})
	return out
}

// lost is the site of the former seat, as far as is known.
func (f *found) lost() string {
	if f.log == nil {
		return ""
	}
	return f.log.State.Seat.Site
}

// look opens a target's log, and takes it where it is the farthest so far.
func (f *found) look(ctx context.Context, r *run, t config.Target) error {
	s, closeStore, err := r.Open(ctx, t)
	if err != nil {
		return err
	}
	l, err := twin.Open(ctx, s, nil)
	if err != nil {
		closeStore()
		return err
	}
	f.closers = append(f.closers, closeStore)
	end := l.ReadPoint(clock.Now())
	switch {
	case f.log != nil && l.Identity.Journal != f.log.Identity.Journal:
		return fail.New(fail.Refused, "take", s.URL(), fmt.Sprintf("it is of journal %s, and %s of %s",
			l.Identity.Journal, f.store.URL(), f.log.Identity.Journal)).
			WithHint("name the target whose log is to be taken: --store")
	case f.log == nil || end.Index > f.end.Index:
		if f.log != nil {
			f.others = append(f.others, Other{Target: f.target.Name, Site: f.target.Site, State: OtherBehind})
		}
		f.target, f.store, f.log, f.end = t, s, l, end
	default:
		f.others = append(f.others, Other{Target: t.Name, Site: t.Site, State: OtherBehind})
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
