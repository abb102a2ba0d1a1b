package failback

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/agent/backing"
	"github.com/pollux-dr/pollux/control/failback/record"
	"github.com/pollux-dr/pollux/control/node"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/hostdev"
	"github.com/pollux-dr/pollux/replicator/journal"
	"github.com/pollux-dr/pollux/replicator/state"
)

// survey finds out what is to be done, and changes nothing.
func (r *run) survey(ctx context.Context) error {
	idle, err := agent.ReadIdle(vfs.Default, r.agentDir())
	if err != nil {
		return err
	}
	defer idle.Close()
	id, epoch, err := r.former(idle)
	if err != nil {
		return err
	}
	want := r.Target
	if want == "" {
		want = r.conf.Standby.Target
	}
	if err := r.find(ctx, want, id, epoch); err != nil {
		return err
	}
	if t := r.conf.Standby.Target; t != "" && t != r.found.target.Name {
		return fail.New(fail.Invalid, "fail back from", "target "+r.found.target.Name,
			"standby.target in "+r.Path+" is "+t).
			WithHint("the log that is read is the one that is followed: correct one of the two")
	}
	next, doc, err := r.found.succession(ctx, epoch)
	if err != nil {
		return err
	}
	now := clock.Now().UTC()
	r.rec = &record.Record{ID: fmt.Sprintf("%s-%.8s", now.Format("20060102-150405"), uuid.NewString()), Began: now,
		Journal: id, Epoch: epoch, Site: r.conf.Site, Agent: idle.Agent, Successor: next}
	for i := range idle.Streams {
		if err := r.surveyStream(ctx, idle, &idle.Streams[i], doc); err != nil {
			return err
		}
	}
	return r.checkVolumes(idle)
}

// former is the journal of this host, and the epoch under which it had its seat here.
func (r *run) former(idle *agent.Idle) (uuid.UUID, uint64, error) {
	if idle.Agent != r.conf.Name {
		return uuid.Nil, 0, fail.New(fail.Refused, "fail back", r.agentDir(), fmt.Sprintf("it is of agent %q, not %q",
			idle.Agent, r.conf.Name)).WithHint("set name in the configuration back")
	}
	dir := filepath.Join(r.conf.State, "journal")
	there, err := journal.Peek(vfs.Default, dir)
	if err == nil {
		r.accepted = there.Points
		return there.Journal, there.Epoch, nil
	}
	if !fail.Is(err, fail.NotFound) {
		return uuid.Nil, 0, err
	}
	id, perr := uuid.Parse(idle.Journal) // it was on other hosts
	if perr != nil || idle.Epoch() == 0 {
		return uuid.Nil, 0, fail.New(fail.NotFound, "fail back", r.conf.State,
			"neither "+dir+" nor the agent's state says which journal this host belonged to, and under which epoch")
	}
	return id, idle.Epoch(), nil
}

// surveyStream decides to which point a stream's volumes go back, and how that is found out.
func (r *run) surveyStream(ctx context.Context, idle *agent.Idle, sc *agent.StreamConf, doc *state.Fence) error {
	volumes := r.volumesOf(idle, sc.ID)
	st := r.found.log.State.Streams[sc.ID]
	if st == nil || len(volumes) == 0 {
		return nil // what it has is left as it is; volumesOf has said so
	}
	s := record.Stream{ID: sc.ID, Group: sc.Group, Point: doc.Streams[sc.ID], End: idle.End(sc.ID)}
	if err := r.base(ctx, idle, &s, volumes); err != nil {
		return err
	}
	r.rec.Streams = append(r.rec.Streams, s)
	for _, v := range volumes {
		if v.log.FirstLSN > s.Base.LSN {
			r.leave(v.conf.Name, fmt.Sprintf("it was not complete in the log at LSN %d, to which its group goes back",
				s.Base.LSN))
			continue
		}
		r.rec.Volumes = append(r.rec.Volumes, record.Volume{Name: v.conf.Name, Number: v.conf.Number,
			Group: v.conf.Group, Stream: sc.ID, SizeBytes: v.conf.SizeBytes, Backing: v.conf.Backing,
			Mark: v.conf.Mark})
	}
	return nil
}

// volume is one of this host that the log has, too.
type volume struct {
	conf *agent.VolumeConf
	log  *state.Volume
}

// volumesOf are those of a stream that may go back.
func (r *run) volumesOf(idle *agent.Idle, id change.StreamID) (out []volume) {
	for i := range idle.Volumes {
		vc := &idle.Volumes[i]
		if vc.Stream != id {
			continue
		}
		v := r.found.log.State.Volumes[vc.Name]
		switch {
		case v == nil || v.Number != vc.Number || v.Stream != vc.Stream:
			r.leave(vc.Name, "the log does not have it: it was created here after the branch point")
		case v.Removed:
			r.leave(vc.Name, "it was removed at the new seat")
		case !v.Ready || !vc.Ready:
			r.leave(vc.Name, "its initial sync never was complete in the log")
		case v.SizeBytes != vc.SizeBytes:
			r.leave(vc.Name, fmt.Sprintf("it has %d bytes in the log, and %d here", v.SizeBytes, vc.SizeBytes))
		default:
			out = append(out, volume{vc, v})
		}
	}
	return out
}

func (r *run) leave(name, why string) { r.rep.Left = append(r.rep.Left, Left{Volume: name, Why: why}) }

// checkVolumes refuses what cannot go back, before anything is changed.
func (r *run) checkVolumes(idle *agent.Idle) error {
	if len(r.rec.Volumes) == 0 {
		return fail.New(fail.NotFound, "fail back", r.conf.State, "no volume of this host can go back to the log").
			WithHint("see pollux volume ls --store, and follow with another state directory: pollux standby")
	}
	var errs []error
	for i := range r.rec.Volumes {
		if err := r.checkVolume(&r.rec.Volumes[i]); err != nil {
			errs = append(errs, fail.At("fail back volume", r.rec.Volumes[i].Name, err))
		}
	}
	for i := range idle.Volumes { // their group's WAL is applied to all of them
		path := idle.Volumes[i].Backing
		if _, err := os.Stat(path); err != nil {
			errs = append(errs, fail.Wrap(fail.NotFound, "look at backing of "+idle.Volumes[i].Name, path, err))
		}
	}
	return errors.Join(errs...)
}

func (r *run) checkVolume(v *record.Volume) error {
	c := &r.conf.Standby
	if !c.Follows(v.Group) {
		return fail.New(fail.Invalid, "follow", "group "+v.Group, "standby.groups in "+r.Path+" leaves it out").
			WithHint("add it there")
	}
	if path := c.Backings[v.Name]; path != "" && filepath.Clean(path) != filepath.Clean(v.Backing) {
		return fail.New(fail.Invalid, "follow", v.Backing, "standby.backings in "+r.Path+" says "+path).
			WithHint("take the line out: an image that goes back is followed where it is")
	}
	place := node.HydratingPlace(r.conf, v.Backing)
	if pending, err := place.Pending(); err != nil || pending {
		if err == nil {
			err = fail.New(fail.Refused, "use", v.Backing, "it was never filled from the object store: some of it is "+
				"not here").
				WithHint("what it has is not saved by a failback; keep it, and follow with another state directory: " +
					"pollux standby")
		}
		return err
	}
	b, err := backing.Open(v.Backing, v.SizeBytes)
	if err != nil {
		return err
	}
	defer b.Close()
	if v.Mark != "" && !b.HasIdentity(v.Mark) {
		return fail.New(fail.Refused, "use", v.Backing, "another file was put in its place since it was attached").
			WithHint("put the right file back")
	}
	st, err := os.Stat(v.Backing)
	if err == nil && !hostdev.IsBlock(st.Mode()) && st.Size() != v.SizeBytes {
		return fail.New(fail.Refused, "use", v.Backing, fmt.Sprintf("it has %d bytes, and the volume %d", st.Size(),
			v.SizeBytes)).WithHint("a standby's image has the volume's size: keep what is behind it, and cut it there")
	}
	return fail.Wrap(fail.Denied, "look at", v.Backing, err)
}

// refind opens the log again for a run that was cut short, and makes sure that it still has what the
// images go back to.
func (r *run) refind(ctx context.Context) error {
	if err := r.find(ctx, r.rec.Successor.Target, r.rec.Journal, r.rec.Epoch); err != nil {
		return err
	}
	for i := range r.rec.Streams {
		s := &r.rec.Streams[i]
		same, err := r.found.agrees(ctx, s.ID, s.Base)
		if err != nil {
			return err
		}
		if !same {
			return fail.New(fail.Fenced, "go on with", record.Path(r.conf.State), fmt.Sprintf("the log does not "+
				"have %v of group %s any more, to which its images were to go back", s.Base, s.Group)).
				WithHint("what only this host has is in " + r.conf.State + ": keep it, and follow with another state " +
					"directory: pollux standby")
		}
	}
	return nil
}
