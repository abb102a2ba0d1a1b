package promote

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/seat"
	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin/standby"
)

// A host on which a standby has followed the log has images that are seconds behind. They are
// brought to the fence and become the backings of the agent; only what the standby does not have
// whole comes from the store.

// StandbyDir is where a standby keeps what it knows, in a state directory.
func StandbyDir(state string) string { return filepath.Join(state, "standby") }

// Wanted is standby.Options.Want: the volumes of the groups that a configuration follows.
func Wanted(c *config.Agent) func(*state.State) []standby.Volume {
	return func(s *state.State) (out []standby.Volume) {
		for _, v := range state.Sorted(s.Volumes, func(v *state.Volume) string { return v.Name }) {
			if !v.Removed && c.Standby.Follows(v.Group) {
				out = append(out, standby.Volume{Name: v.Name, Path: c.Standby.PathOf(v.Name)})
			}
		}
		return out
	}
}

// Stage is how far the failover into a state directory is.
type Stage int

// The stages, in their order.
const (
	None   Stage = iota // there is no failover
	Begun               // it was decided, and the log may not be fenced yet
	Fenced              // the log is this site's
	Done                // the agent can be started
)

// StageOf is how far the failover into a state directory is.
func StageOf(state string) (Stage, error) {
	in, err := loadIntent(vfs.Default, state)
	switch {
	case err != nil || in == nil:
		return None, err
	case !in.Done.IsZero():
		return Done, nil
	case in.Fence != nil:
		return Fenced, nil
	}
	return Begun, nil
}

// DoneAt reports a failover whose agent may be running: nil where the state directory has none
// that is done. Errors: fail.Fenced where the journal went on elsewhere since.
func DoneAt(c *config.Agent) (*Report, error) {
	in, err := loadIntent(vfs.Default, c.State)
	if err != nil || in == nil || in.Done.IsZero() {
		return nil, err
	}
	over, err := seat.Load(vfs.Default, c.State)
	if err == nil && over != nil {
		err = errMoved(in, over.Epoch)
	}
	if err != nil {
		return nil, err
	}
	return &Report{Journal: in.Journal, Name: api.JournalName(in.Journal), FromSite: in.FromSite,
		FromEpoch: in.Token.Epoch - 1, Site: in.Site, Epoch: in.Token.Epoch, Target: in.Target, Agents: in.Agents,
		Groups: []Group{}, Volumes: []Volume{}, Others: []Other{}, Resumed: true, Done: true}, nil
}

// openStandby finds the images that a standby has here: of the one that runs in this process, or
// of one that has ended.
func (r *run) openStandby() (err error) {
	if r.intent != nil && r.intent.CaughtUp {
		return nil
	}
	dir := StandbyDir(r.conf.State)
	if r.Standby == nil {
		if _, err := os.Stat(filepath.Join(dir, "cursor.json")); err != nil {
			return nil //nolint:nilerr // there is none, or none that could be used
		}
	}
	if t, err := r.conf.Followed(); err != nil || t.Name != r.found.target.Name {
		r.Tell(fmt.Sprintf("the standby here follows another target than %s: its images are not used; "+
			"--store %s takes the log that it follows", r.found.target.Name, t.Name))
		return nil //nolint:nilerr // what it follows is not said
	}
	if r.Standby == nil {
		r.Standby, err = standby.Open(standby.Options{Store: r.found.store, Dir: dir, Want: Wanted(r.conf),
			StageBytes: int64(r.conf.Standby.StageBudget), Logger: r.Logger})
		if err != nil {
			return err
		}
	}
	r.warm = true
	return nil
}

// imageOf is the standby's image of a volume where that goes; the zero value is none.
func (r *run) imageOf(v *state.Volume) standby.Image {
	if !r.warm {
		return standby.Image{}
	}
	i := r.Standby.Images()[v.Name]
	if i.Path != r.backingOf(v) {
		return standby.Image{}
	}
	return i
}

// warmVolume is what the report says of a volume whose image is warm; nil where it is not.
func (r *run) warmVolume(v *state.Volume, lsn uint64) *Volume {
	i := r.imageOf(v)
	done := r.intent != nil && r.intent.Warm[v.Name]
	if !i.Whole && !done {
		return nil
	}
	was := "the standby's image, of several points"
	if done || i.LSN > 0 {
		was = fmt.Sprintf("the standby's image, at LSN %d", i.LSN)
	}
	return &Volume{Name: v.Name, Group: v.Group, Size: v.SizeBytes, LSN: lsn, Backing: r.backingOf(v), Was: was,
		Warm: true}
}

// warmImages makes backings of the standby's images: brought to the fence, and then to the points
// that the volumes go on from. What it cannot bring there is left to be restored.
func (r *run) warmImages(ctx context.Context) error {
	if r.warm {
		held, err := r.Standby.CatchUp(ctx, r.intent.Fence.Position+1)
		switch {
		case err != nil && (held == nil || fail.Is(err, fail.Retry) || ctx.Err() != nil):
			return fail.At("catch up with", r.found.store.URL(), err)
		case err != nil:
			r.Tell("not all images of the standby can be used: " + fail.Explain(err))
		}
		warm := map[string]bool{}
		for _, v := range r.ready() {
			h, ok := held[v.Name]
			if !ok || h.Path != r.backingOf(v) {
				continue
			}
			if warm[v.Name], err = r.warmImage(ctx, v, &h); err != nil {
				return err
			}
		}
		if err := r.done("caught up"); err != nil {
			return err
		}
		// From here on the images are the agent's.
		r.intent.CaughtUp, r.intent.Warm = true, map[string]bool{}
		for name, ok := range warm {
			if ok {
				r.intent.Warm[name] = true
				r.hasImage(name)
			}
		}
		if err := r.saveIntent(); err != nil {
			return err
		}
		if err := r.done("warm"); err != nil {
			return err
		}
	}
	if !r.intent.CaughtUp {
		return nil
	}
	return r.forgetStandby()
}

// warmImage brings one image to where its volume goes on. It is not ok where that has to be
// restored.
func (r *run) warmImage(ctx context.Context, v *state.Volume, h *standby.Held) (ok bool, err error) {
	b := r.intent.Points[v.Stream]
	switch {
	case h.Epoch != r.intent.Token.Epoch:
		return false, fail.New(fail.Retry, "catch up with", r.found.store.URL(),
			fmt.Sprintf("the standby is at epoch %d, and the fence is of %d", h.Epoch, r.intent.Token.Epoch))
	case h.LSN == b.Head.LSN && h.Hash != b.Head.Hash:
		r.Tell(fmt.Sprintf("the image of volume %s is of another branch than the log: it is restored", v.Name))
		return false, nil
	case h.LSN == b.LSN:
		return true, nil
	case h.LSN < b.LSN:
		r.Tell(fmt.Sprintf("the image of volume %s is at LSN %d, and not at %d: it is restored", v.Name, h.LSN, b.LSN))
		return false, nil
	}
	p, err := r.resolve(ctx, v)
	if err == nil && p.LSN != b.LSN {
		err = fail.New(fail.Damaged, "put back", v.Name,
			fmt.Sprintf("the log's point is LSN %d now, and was %d when it was fenced", p.LSN, b.LSN))
	}
	if err == nil {
		err = r.Standby.PutBack(ctx, r.found.log, p)
	}
	if fail.Is(err, fail.NotFound) {
		r.Tell(fmt.Sprintf("what was written to volume %s behind LSN %d is not kept one by one: it is restored", v.Name,
			b.LSN))
		return false, nil
	}
	return err == nil, err
}

// forgetStandby takes away what the standby knew: it is not true any more when the agent writes to
// the images. The cursor goes first; without it there is no standby.
func (r *run) forgetStandby() error {
	dir := StandbyDir(r.conf.State)
	err := os.Remove(filepath.Join(dir, "cursor.json"))
	if err == nil {
		err = atomicfile.SyncDir(vfs.Default, dir)
	}
	if err == nil || os.IsNotExist(err) {
		err = os.RemoveAll(dir)
	}
	return fail.Wrap(fail.Denied, "remove", dir, err)
}
