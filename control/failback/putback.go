package failback

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/agent/backing"
	"github.com/pollux-dr/pollux/control/failback/record"
	"github.com/pollux-dr/pollux/control/promote"
	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/branch"
	"github.com/pollux-dr/pollux/replicator/twin/image"
	"github.com/pollux-dr/pollux/replicator/twin/standby"
)

// putBack brings the extents of the branch, and nothing else, to what the log has at the base.
func (r *run) putBack(ctx context.Context) error {
	b, err := branch.Load(r.conf.State, r.rec.ID)
	if err != nil {
		return err
	}
	for i := range r.rec.Volumes {
		v := &r.rec.Volumes[i]
		if v.Back {
			continue
		}
		if err := r.putBackVolume(ctx, b, v); err != nil {
			return fail.At("put back", "volume "+v.Name, err)
		}
		v.Back = true
		if err := r.saveRecord(); err != nil {
			return err
		}
		if err := r.stepped("put back " + v.Name); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) putBackVolume(ctx context.Context, b *branch.Branch, v *record.Volume) error {
	for i := range b.Volumes {
		if b.Volumes[i].Number == v.Number {
			if err := r.restoreExtents(ctx, b, &b.Volumes[i], v); err != nil {
				return err
			}
		}
	}
	back, err := backing.Open(v.Backing, v.SizeBytes)
	if err != nil {
		return err
	}
	if v.Mark != "" { // it is no agent's any more
		err = back.ClearIdentity(v.Mark)
	}
	return errors.Join(err, back.Close())
}

// restoreExtents writes the base's content over the extents of a branch, and syncs it.
func (r *run) restoreExtents(ctx context.Context, b *branch.Branch, saved *branch.Volume, v *record.Volume) error {
	var dirty twin.Dirty
	err := b.Each(r.conf.State, saved, func(e branch.Extent) error {
		dirty.Add(e.Off, e.Len)
		return nil
	})
	if err != nil {
		return err
	}
	p, err := r.point(ctx, v.Name, r.baseOf(v).LSN)
	if err != nil {
		return err
	}
	plan, err := r.found.log.PlanOver(ctx, p, twin.Complete(p.LSN), dirty, "")
	if err != nil {
		return err
	}
	defer plan.Close()
	t, err := image.InPlace(v.Backing, v.SizeBytes)
	if err != nil {
		return err
	}
	tell, end := r.Stage("putting back " + v.Name)
	defer end()
	res, err := plan.Restore(ctx, t, twin.Run{Progress: tell})
	if err == nil {
		err = t.Sync()
	}
	r.rec.PayloadBytes += res.WrittenBytes
	r.rec.ReadBytes += res.ReadBytes
	return errors.Join(err, t.Close())
}

// adopt makes the standby's state, with the images at the base.
func (r *run) adopt(ctx context.Context) error {
	if r.rec.Adopted {
		return nil
	}
	dir := branch.PathOf(r.conf.State, r.rec.ID)
	if _, err := os.Stat(filepath.Join(dir, "standby")); os.IsNotExist(err) { // of an earlier time, if there is one
		if err := moveAside(r.conf.State, dir, "standby"); err != nil {
			return err
		}
	}
	conf, err := record.Places(r.conf)
	if err != nil {
		return err
	}
	held := map[string]standby.Held{}
	for i := range r.rec.Volumes {
		v := &r.rec.Volumes[i]
		p := r.baseOf(v)
		held[v.Name] = standby.Held{Path: v.Backing, Stream: v.Stream, LSN: p.LSN, Hash: p.Hash}
	}
	err = standby.Adopt(ctx, standby.Options{Store: r.found.store, Dir: promote.StandbyDir(r.conf.State),
		Logger: r.Logger, Want: promote.Wanted(conf)}, held)
	if err != nil {
		return err
	}
	r.rec.Adopted = true
	return r.saveRecord()
}

// moveAside moves a file or directory of a state directory into a branch's, where it is not yet.
func moveAside(state, dir, name string) error {
	from, to := filepath.Join(state, name), filepath.Join(dir, name)
	if _, err := os.Stat(from); os.IsNotExist(err) {
		return nil
	}
	err := os.Rename(from, to)
	if err == nil {
		err = errors.Join(atomicfile.SyncDir(vfs.Default, dir), atomicfile.SyncDir(vfs.Default, state))
	}
	if err != nil {
		return fail.Wrap(fail.Denied, "put aside", from, err)
	}
	return nil
}
