package agent

import (
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/agent/backing"
	"github.com/pollux-dr/pollux/agent/overlay"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/provenance"
)

// attachVolume opens a volume's backing at a start. One that is not there, or is
// another file than the one that was attached, suspends its group, and no other:
// the group's volumes are not served and nothing is applied to any of them. What
// the arena holds of it goes into the WAL, and is shipped; the WAL keeps it until
// a start that finds all backings.
func (a *Agent) attachVolume(vc VolumeConf) error {
	s := a.streams[vc.Stream]
	if s == nil {
		return fail.New(fail.Damaged, "open volume", vc.Name, "the manifest has no stream for it")
	}
	b, err := a.opts.OpenBacking(vc.Backing, vc.SizeBytes)
	if err == nil && vc.Mark != "" && !b.HasIdentity(vc.Mark) {
		_ = b.Close()
		err = fail.New(fail.Refused, "open backing", vc.Backing,
			"another file was put in its place since it was attached").
			WithHint("put the right file back and restart the agent; if this is it, moved by a copy, " +
				"or the restored newest point, say `pollux volume accept " + vc.Name + "` and restart")
	}
	if err == nil && vc.Mark == "" { // of an older release
		if vc.Mark, err = a.identify(b, &vc); err != nil {
			_ = b.Close()
		}
	}
	if err == nil {
		a.volumes[vc.Name] = &Volume{conf: vc, s: s, overlay: overlay.New(a.mem), back: b}
		return nil
	}
	err = fail.At("open volume", vc.Name, err)
	if s.suspended == nil {
		s.suspended = err
	}
	a.volumes[vc.Name] = &Volume{conf: vc, s: s, overlay: overlay.New(a.mem), back: backing.Absent(err), absent: true}
	a.opts.Logger.Error("the group is suspended: its volumes are not served",
		"group", vc.Group, "err", err, "hint", fail.HintOf(err))
	return nil
}

// identify gives a backing that was not written to yet a new id, and returns that. It
// returns "" where the backing has no place for one: then a swap would go unnoticed.
func (a *Agent) identify(b backing.Backing, vc *VolumeConf) (string, error) {
	id := uuid.NewString()
	err := b.SetIdentity(id, "volume "+vc.Name+" of group "+vc.Group+", agent "+a.opts.Name)
	if fail.Is(err, fail.Unsupported) {
		a.opts.Logger.Info("the backing bears no mark: never change it behind the agent's back",
			"volume", vc.Name, "err", err)
		return "", nil
	}
	return id, err
}

// settleBackings ends what a start does for backings: one that was accepted has
// all of the WAL now. One that cannot be synced stays accepted, so that the next
// start applies all of the WAL to it again; until then its group is suspended.
func (a *Agent) settleBackings(before []VolumeConf) error {
	for _, v := range a.volumes {
		if !v.conf.Accepted || v.s.suspended != nil {
			continue
		}
		if err := v.back.Sync(); err != nil {
			v.s.suspend(fail.At("accept backing of", v.conf.Name, err))
			continue
		}
		v.conf.Accepted = false
	}
	if !slices.ContainsFunc(before, func(vc VolumeConf) bool { return a.volumes[vc.Name].conf != vc }) {
		return nil
	}
	a.manifestMu.Lock()
	defer a.manifestMu.Unlock()
	return a.saveManifest(nil)
}

// suspend keeps a stream whose WAL was applied from being served in this run, as one
// that lacks a backing: what was applied counts for nothing.
func (s *stream) suspend(err error) {
	s.suspended = err
	s.apply.applied = s.ckpt.saved.Applied
	s.a.opts.Logger.Error("the group is suspended: its volumes are not served",
		"group", s.conf.Group, "err", err, "hint", fail.HintOf(err))
}

// checkRestored refuses an image that was restored to a point from which the WAL
// cannot go on, or from another volume. A file that says nothing is taken on the
// operator's word.
func (v *Volume) checkRestored() error {
	r, ok := provenance.RestoredAt(v.conf.Backing)
	if !ok {
		return nil
	}
	refuse := func(why, hint string) error {
		return fail.New(fail.Refused, "accept backing of", v.conf.Name, v.conf.Backing+" "+why).WithHint(hint)
	}
	if r.Stream != v.conf.Stream.String() || r.Volume != v.conf.Number {
		return refuse("was restored from another volume", "restore "+v.conf.Name+"'s newest point there")
	}
	v.s.mu.Lock()
	first := v.s.ckpt.saved.Applied.LSN + 1
	refs := v.s.wal.refs
	v.s.mu.Unlock()
	if len(refs) > 0 {
		h, _, err := v.s.a.readHeader(refs[0].wal)
		if err != nil {
			return err
		}
		first = h.FirstLSN
	}
	if r.LSN+1 < first {
		return refuse(fmt.Sprintf("was restored to LSN %d, and this host's WAL begins at %d", r.LSN, first),
			"restore the newest point: the store holds what lies between")
	}
	return nil
}

// AcceptBacking takes the file or device that is at the path of an absent
// volume's backing for the right one, from the next start on: it holds what the
// old one held when the agent stopped, or the newest point of the store. What the
// WAL still has is applied to it then, below the checkpoint too.
func (a *Agent) AcceptBacking(name string, dryRun bool) error {
	v, err := a.volume("accept backing of", name)
	if err != nil {
		return err
	}
	if !v.absent {
		return fail.New(fail.Refused, "accept backing of", name, "its backing is in place")
	}
	b, err := a.opts.OpenBacking(v.conf.Backing, v.conf.SizeBytes)
	if err != nil {
		return err
	}
	defer b.Close()
	if err := v.checkRestored(); err != nil || dryRun {
		return err
	}
	id, err := a.identify(b, &v.conf)
	if err != nil {
		return err
	}
	return a.changeVolume(v, func(vc *VolumeConf) { vc.Mark, vc.Accepted = id, true })
}
