package node

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/agent/backing"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/verbs"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/hostdev"
	"github.com/pollux-dr/pollux/internal/quantity"
	"github.com/pollux-dr/pollux/replicator/state"
)

// VolumeCreate protects a new volume. It returns when the initial sync is done;
// that goes on by itself when the caller leaves.
func (d service) VolumeCreate(ctx context.Context, r api.VolumeCreate) (api.Volume, error) {
	v, synced, err := d.createVolume(ctx, r)
	if err != nil || synced == nil {
		return v, err
	}
	select {
	case err = <-synced:
	case <-ctx.Done():
		err = fail.Wrap(fail.Retry, "wait for initial sync of", r.Name, ctx.Err())
	}
	var now state.Volume
	d.journal.View(func(s *state.State) { now = *s.Volumes[r.Name] })
	return d.volume(&now), err
}

// createVolume does all of VolumeCreate but the initial sync, which it starts: synced gets
// the outcome. After a dry run it is nil.
func (d service) createVolume(ctx context.Context,
	r api.VolumeCreate) (out api.Volume, synced <-chan error, err error) {
	if err := d.lockVerbs(ctx, "create volume", r.Name); err != nil {
		return out, nil, err
	}
	defer d.endTurn()
	if err := d.checkName(&r); err != nil {
		return out, nil, err
	}
	if r, err = checkCreate(d.conf.State, r); err != nil {
		return out, nil, err
	}
	v := state.Volume{Name: r.Name, Group: r.Group, Agent: d.conf.Name, SizeBytes: r.SizeBytes, Backing: r.Backing,
		Created: clock.Now().UTC()}
	err = d.checkBacking(&v)
	if err == nil {
		err = d.suspended(v.Group)
	}
	if err == nil && r.DryRun {
		err = d.lookAtBacking(&v)
	}
	if err != nil || r.DryRun {
		return d.volume(&v), nil, err
	}
	if v.Stream, err = d.streamOf(r.Group); err != nil {
		return out, nil, err
	}
	if err := d.tryBacking(&v); err != nil { // before the journal knows of it
		return out, nil, err
	}
	if _, err := d.journal.Propose(state.KindVolumeCreate, v); err != nil {
		return out, nil, err
	}
	d.log.Info("volume created", "volume", v.Name, "group", v.Group, "backing", v.Backing, "by", r.By)
	if err := d.attach(ctx, r.Name, false); err != nil {
		return out, nil, err
	}
	return out, d.sync(r.Name), nil
}

// checkCreate checks a request and fills in its defaults.
func checkCreate(stateDir string, r api.VolumeCreate) (api.VolumeCreate, error) {
	if r.Backing == "" {
		r.Backing = filepath.Join(stateDir, "volumes", r.Name+".img")
	}
	if !filepath.IsAbs(r.Backing) {
		return r, fail.New(fail.Invalid, "create volume", r.Name, "backing "+r.Backing+" is not an absolute path")
	}
	have, err := backing.Measure(r.Backing)
	if hostdev.BelowDev(r.Backing) { // where a new file would be a mistyped device
		if err := hostdev.CheckImage("create volume "+r.Name+" on", "--backing "+r.Backing, r.Backing); err != nil {
			return r, err
		}
	}
	switch {
	case fail.Is(err, fail.NotFound) && r.SizeBytes == 0:
		return r, fail.New(fail.Invalid, "create volume", r.Name, "no size, and no backing at "+r.Backing).
			WithHint("give --size for a new sparse file, or --backing for an existing file or device")
	case fail.Is(err, fail.NotFound):
	case err != nil:
		return r, err
	case r.SizeBytes == 0:
		r.SizeBytes = have
	case have < r.SizeBytes:
		return r, fail.New(fail.Invalid, "create volume", r.Name,
			fmt.Sprintf("backing %s has %v, less than the size of %v", r.Backing, quantity.Bytes(have),
				quantity.Bytes(r.SizeBytes))).
			WithHint("leave --size out for the backing's own, name another --backing, or move away what is left there")
	}
	if err := quantity.CheckVolume(r.SizeBytes); err != nil {
		return r, fail.New(fail.Invalid, "create volume", r.Name, "its size: "+err.Error()).
			WithHint("give --size 10GiB, say, or make the backing larger: truncate --size 10G FILE")
	}
	return r, nil
}

// checkName refuses what the journal would refuse of a volume's name and group, so that a
// caller hears of that before anything else.
func (d service) checkName(r *api.VolumeCreate) error {
	if err := state.CheckName("volume", r.Name); err != nil {
		return err
	}
	var group, exists, removed bool
	d.journal.View(func(s *state.State) {
		group = s.Groups[r.Group] != nil
		if v := s.Volumes[r.Name]; v != nil {
			exists, removed = true, v.Removed
		}
	})
	switch {
	case !group:
		return verbs.NoSuch("group", r.Group)
	case removed:
		return fail.New(fail.Exists, "create volume", r.Name,
			"a volume of that name was removed, and its history keeps the name").WithHint("choose another name")
	case exists:
		return fail.New(fail.Exists, "create volume", r.Name, "a volume of that name exists").
			WithHint("choose another name; pollux volume ls lists those there are")
	}
	return nil
}

// checkBacking refuses a backing that another volume of this host has. The journal compares
// paths only, and two paths may lead to one file.
func (d service) checkBacking(v *state.Volume) error {
	backings := map[string]string{} // path to volume
	d.journal.View(func(s *state.State) {
		for _, o := range s.Volumes {
			if !o.Removed && o.Agent == v.Agent && o.Name != v.Name {
				backings[o.Backing] = o.Name
			}
		}
	})
	mine, err := os.Stat(v.Backing) // not under the journal's lock: a mount may hang
	if err != nil {
		return nil
	}
	for path, name := range backings {
		if theirs, err := os.Stat(path); err == nil && os.SameFile(mine, theirs) {
			return fail.New(fail.Refused, "create volume", v.Name, "volume "+name+" uses the same backing "+v.Backing).
				WithHint("name another file or device with --backing")
		}
	}
	return nil
}

// streamOf returns this agent's stream of a group, creating it at first use.
func (d *Daemon) streamOf(group string) (id uuid.UUID, err error) {
	find := func() {
		d.journal.View(func(s *state.State) {
			if st := s.StreamOf(group, d.conf.Name); st != nil {
				id = st.ID
			}
		})
	}
	if find(); id != uuid.Nil {
		return id, d.syncStreams()
	}
	if _, err = d.journal.Propose(state.KindStreamCreate,
		state.Stream{ID: uuid.New(), Group: group, Agent: d.conf.Name}); err != nil {
		return id, err
	}
	find()
	return id, d.syncStreams()
}

// suspended returns why this host's part of a group is.
func (d *Daemon) suspended(group string) error {
	var id uuid.UUID
	d.journal.View(func(s *state.State) {
		if st := s.StreamOf(group, d.conf.Name); st != nil {
			id = st.ID
		}
	})
	return fail.At("create volume in", "group "+group, d.agent.Suspended(id))
}

// lookAtBacking opens a backing that is there, and changes nothing.
func (d *Daemon) lookAtBacking(v *state.Volume) error {
	if _, err := os.Stat(v.Backing); err != nil {
		return nil // it would be made
	}
	return openOnce(backing.Open, v)
}

func openOnce(open func(string, int64) (backing.Backing, error), v *state.Volume) error {
	b, err := open(v.Backing, v.SizeBytes)
	if err != nil {
		return err
	}
	return b.Close()
}

// tryBacking makes and opens a volume's backing once.
func (d *Daemon) tryBacking(v *state.Volume) error {
	dir := filepath.Dir(v.Backing)
	if err := d.hooks.fs.MkdirAll(dir, 0o700); err != nil {
		return fail.Wrap(fail.Denied, "create", dir, err)
	}
	create, open := d.hooks.createBacking, d.hooks.openBacking
	if create == nil {
		create, open = backing.Create, backing.Open
	}
	if _, err := create(v.Backing, v.SizeBytes); err != nil {
		return err
	}
	return openOnce(open, v)
}

// attach tells the agent of a volume of the control state; again means that a part of the
// volume may be in the log already.
func (d *Daemon) attach(ctx context.Context, name string, again bool) error {
	var v state.Volume
	d.journal.View(func(s *state.State) { v = *s.Volumes[name] })
	return d.agent.AttachVolume(ctx, agent.VolumeConf{Name: v.Name, Number: v.Number, Group: v.Group, Stream: v.Stream,
		SizeBytes: v.SizeBytes, Backing: v.Backing, Resync: again})
}

// resync is how long an initial sync that failed waits before it is tried again.
const resync = 10 * time.Second

// sync starts the initial sync of an attached volume, and repeats it until the volume is
// ready or removed, or the daemon stops. The channel gets the outcome of the first attempt.
// It is called in a verb's turn, or before anything is served.
func (d *Daemon) sync(name string) <-chan error {
	first := make(chan error, 1)
	d.wg.Go(func() {
		for told := false; ; told = true {
			err := d.syncOnce(name)
			if !told {
				first <- err
			}
			if err == nil || fail.Is(err, fail.NotFound) || d.ctx.Err() != nil {
				return
			}
			d.log.Error("initial sync failed; it will be tried again", "volume", name, "err", err,
				"hint", fail.HintOf(err))
			select {
			case <-d.ctx.Done():
				return
			case <-time.After(resync):
			}
		}
	})
	return first
}

func (d *Daemon) syncOnce(name string) error {
	lsn, err := d.agent.InitialSync(d.ctx, name)
	if err != nil {
		return err
	}
	ready := false
	d.journal.View(func(s *state.State) { ready = s.Volumes[name].Ready })
	if !ready {
		_, err = d.journal.Propose(state.KindVolumeReady, state.VolumeReady{Name: name, FirstLSN: lsn})
	}
	return err
}

func (d service) volume(v *state.Volume) api.Volume {
	ready := v.Ready
	if v.Agent == d.conf.Name {
		_, err := d.agent.Device(v.Name)
		ready = ready && err == nil
	}
	if v.Agent != d.conf.Name {
		return api.Volume{Name: v.Name, Group: v.Group, Agent: v.Agent, SizeBytes: v.SizeBytes, Backing: v.Backing,
			Ready: ready}
	}
	u := url.URL{Scheme: "nbd+unix", Path: "/" + v.Name, RawQuery: "socket=" + d.conf.NBD.Unix}
	return api.Volume{Name: v.Name, Group: v.Group, Agent: v.Agent, SizeBytes: v.SizeBytes, Backing: v.Backing,
		Ready: ready, NBD: "nbd+unix://" + u.Path + "?" + u.RawQuery, Hydration: d.hydrating.of(v.Backing)}
}

// elsewhere refuses what only a volume's own agent can do.
func elsewhere(op string, v *state.Volume) error {
	return fail.New(fail.Refused, op+" volume", v.Name, "it is agent "+v.Agent+"'s").WithHint("do it on that host")
}

// VolumeList lists the volumes that are protected.
func (d service) VolumeList(ctx context.Context, r api.List) ([]api.Volume, error) {
	if err := d.journal.AwaitSync(ctx); err != nil {
		return nil, err
	}
	var found []state.Volume
	known := r.Group == ""
	d.journal.View(func(s *state.State) {
		known = known || s.Groups[r.Group] != nil
		for _, v := range state.Sorted(s.Volumes, func(v *state.Volume) string { return v.Name }) {
			if !v.Removed && (r.Group == "" || v.Group == r.Group) {
				found = append(found, *v)
			}
		}
	})
	if !known {
		return nil, verbs.NoSuch("group", r.Group)
	}
	out := make([]api.Volume, 0, len(found))
	for i := range found {
		out = append(out, d.volume(&found[i]))
	}
	return out, nil
}

// VolumeChanged answers from the agent's change map.
func (d service) VolumeChanged(ctx context.Context, r api.VolumeChanged) (api.VolumeChanges, error) {
	if v, err := d.protected(r.Name); err == nil && v.Agent != d.conf.Name {
		return api.VolumeChanges{}, elsewhere("list changes of", &v)
	}
	c, err := d.agent.Changed(ctx, r.Name, r.AfterLSN)
	if err != nil {
		return api.VolumeChanges{}, err
	}
	out := api.VolumeChanges{Name: r.Name, AfterLSN: c.After, LastLSN: c.Last, GranuleBytes: c.GranuleBytes,
		Bytes: c.Bytes, Extents: make([]api.Extent, 0, len(c.Extents))}
	for _, e := range c.Extents {
		out.Extents = append(out.Extents, api.Extent{Offset: e.Off, Length: e.Len})
	}
	return out, nil
}

// protected returns a volume that was created and not removed.
func (d *Daemon) protected(name string) (v state.Volume, err error) {
	d.journal.View(func(s *state.State) {
		if p := s.Volumes[name]; p != nil && !p.Removed {
			v = *p
		}
	})
	if v.Name == "" {
		err = verbs.NoSuch("volume", name)
	}
	return v, err
}

// VolumeAccept takes what is now at the path of a suspended volume's backing for the right
// one.
func (d service) VolumeAccept(ctx context.Context, r api.VolumeAccept) (api.Volume, error) {
	if err := d.lockVerbs(ctx, "accept backing of", r.Name); err != nil {
		return api.Volume{}, err
	}
	defer d.endTurn()
	v, err := d.protected(r.Name)
	if err != nil {
		return api.Volume{}, err
	}
	if err := d.agent.AcceptBacking(r.Name, r.DryRun); err != nil {
		return api.Volume{}, err
	}
	if !r.DryRun {
		d.accepted.Store(v.Group, v.Name)
		d.log.Warn("backing accepted; the next start applies the WAL to it", "volume", v.Name, "backing", v.Backing,
			"by", r.By)
	}
	return d.volume(&v), nil
}

// VolumeRemove ends protection.
func (d service) VolumeRemove(ctx context.Context, r api.VolumeRemove) (api.Volume, error) {
	if err := d.lockVerbs(ctx, "remove volume", r.Name); err != nil {
		return api.Volume{}, err
	}
	defer d.endTurn()
	v, err := d.protected(r.Name)
	if err != nil {
		return api.Volume{}, err
	}
	if v.Agent != d.conf.Name {
		return api.Volume{}, elsewhere("remove", &v)
	}
	if r.DryRun {
		return d.volume(&v), nil
	}
	if dev, err := d.agent.Device(r.Name); err == nil {
		d.nbd.Detach(dev)
	}
	limited, cancel := context.WithTimeout(ctx, markTimeout)
	defer cancel()
	if err := d.agent.RemoveVolume(limited, r.Name); err != nil {
		if limited.Err() != nil {
			err = fail.New(fail.Retry, "remove volume", r.Name, err.Error()).
				WithHint("the group's writers are held up, and what they wrote must reach the backing first: " +
					"`pollux status` says why")
		}
		return api.Volume{}, err
	}
	if _, err := d.journal.Propose(state.KindVolumeRemove, state.VolumeRemove{Name: r.Name}); err != nil {
		return api.Volume{}, err
	}
	d.log.Info("volume removed", "volume", v.Name, "by", r.By)
	return d.volume(&v), nil
}
