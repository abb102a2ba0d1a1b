package promote

import (
	"context"
	"fmt"
	"time"

	"github.com/pollux-dr/pollux/control/node"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/journal"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/hydrate"
	"github.com/pollux-dr/pollux/replicator/twin/image"
)

// A volume without a local image is served at once: its backing is filled from the object store
// while the agent serves it. A bookmark keeps the point that is read until the agent says that
// nothing reads it any more.

// quietWindow is how long the newest point of a group that was written to long ago has to stay without
// a bookmark, which cannot be set at a point of that age: the group's retention keeps it for that long
// once something is written behind it.
const quietWindow = 24 * time.Hour

// kept reports whether a bookmark can keep a stream's point.
func (r *run) kept(st *state.Stream, lsn uint64) bool { return lsn > st.Horizon }

// firstWhole is why a volume is restored wholly before it can be served; "" where it is filled while
// it serves.
func (r *run) firstWhole(v *state.Volume, lsn uint64, t *image.Target) string {
	wait := r.WaitForData
	if r.intent != nil {
		wait = r.intent.WaitForData
	}
	s := r.found.log.State
	st, retention := s.Streams[v.Stream], s.Groups[v.Group].Retention
	newest := lsn == r.found.points()[v.Stream].LSN
	switch {
	case wait:
		return "--wait-for-data"
	case !r.kept(st, lsn) && !(newest && (retention.Forever() || retention.EveryWrite() >= quietWindow)):
		return "its point is so old that garbage collection may take it meanwhile"
	case t.Exists() && !t.Device():
		return "a file is in its place"
	}
	return ""
}

// hydrate makes the image of a point that is filled while it serves. It is not ok where it has to
// be restored wholly.
func (r *run) hydrate(v *state.Volume, p twin.Point, path string) (ok bool, err error) {
	place := node.HydratingPlace(r.conf, path)
	at, err := hydrate.PointOf(context.Background(), r.found.log, p)
	if err != nil {
		return false, err
	}
	made, err := hydrate.Made(place, at)
	if made || err != nil {
		return made, err
	}
	t, err := image.Inspect(path, v.SizeBytes)
	if err != nil {
		return false, err
	}
	if why := r.firstWhole(v, p.LSN, t); why != "" {
		r.Tell(fmt.Sprintf("volume %s is restored before it can be served: %s", v.Name, why))
		return false, hydrate.Remove(place) // of an earlier use of the place: this is another image
	}
	if err := t.Refused(true); err != nil {
		return false, err
	}
	return true, hydrate.Create(place, at)
}

// keepPoints sets the bookmarks without which garbage collection would let go of the points that
// volumes are filled with.
func (r *run) keepPoints(j *journal.Journal) error {
	for _, st := range r.streams() {
		b := r.intent.Points[st.ID]
		if !r.intent.hydrates(r.ready(), st) || !r.kept(st, b.LSN) {
			continue
		}
		mark := state.Bookmark{Name: fmt.Sprintf("failover-%d", r.intent.Token.Epoch), Group: st.Group, Stream: st.ID,
			LSN: b.LSN, Epoch: r.intent.Token.Epoch, Time: clock.Now().UTC()}
		key := func() string { return mark.Group + "/" + mark.Name }
		var old *state.Bookmark
		find := func(s *state.State) { old = s.Bookmarks[key()] }
		if j.View(find); old != nil && r.intent.Keeps[key()] == 0 { // somebody's own
			mark.Name += "-" + r.intent.ID.String()[:8]
			j.View(find)
		}
		if r.intent.Keeps == nil {
			r.intent.Keeps = map[string]uint64{}
		}
		r.intent.Keeps[key()] = b.LSN // before it is there: who is cut short here finds it again
		if err := r.saveIntent(); err != nil {
			return err
		}
		if err := r.done("keep"); err != nil {
			return err
		}
		if old != nil {
			continue
		}
		if _, err := j.Propose(state.KindBookmarkAdd, mark); err != nil {
			return fail.At("keep the point of", "group "+st.Group, err)
		}
	}
	return nil
}

// hydrates reports whether a volume of a stream is filled while it serves.
func (in *intent) hydrates(volumes []*state.Volume, st *state.Stream) bool {
	for _, v := range volumes {
		if v.Stream == st.ID && in.Hydrates[v.Name] {
			return true
		}
	}
	return false
}

// place makes a volume's image: one that is filled while it serves, or a whole one.
func (r *run) place(ctx context.Context, v *state.Volume, p twin.Point, path string) error {
	ok, err := r.hydrate(v, p, path)
	if err != nil {
		return err
	}
	if ok {
		if r.intent.Hydrates == nil {
			r.intent.Hydrates = map[string]bool{}
		}
		r.intent.Hydrates[v.Name] = true
		return r.done("create")
	}
	t, err := image.Inspect(path, v.SizeBytes)
	if err != nil {
		return err
	}
	_, err = image.Restore(ctx, r.found.log, p, t, image.Options{Overwrite: true, Restart: true, Stage: r.Stage})
	return err
}
