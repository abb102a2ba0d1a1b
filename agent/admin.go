package agent

import (
	"context"

	"github.com/pollux-dr/pollux/agent/arena"
	"github.com/pollux-dr/pollux/agent/overlay"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// enter begins a call that Close must wait for; its context ends with the agent.
func (a *Agent) enter(ctx context.Context) (context.Context, func(), error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ctx.Err() != nil {
		return nil, nil, fail.New(fail.Refused, "use", "agent "+a.opts.Name, "it is shut down")
	}
	a.wg.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(a.ctx, cancel)
	return ctx, func() { stop(); cancel(); a.wg.Done() }, nil
}

// AddStream starts a stream, or updates its policy and whether it is paused. It is
// idempotent.
func (a *Agent) AddStream(c StreamConf) error {
	a.manifestMu.Lock()
	defer a.manifestMu.Unlock()
	a.mu.Lock()
	s := a.streams[c.ID]
	fresh := s == nil
	if fresh {
		s = newStream(a, c)
		a.streams[c.ID] = s
	}
	s.mu.Lock()
	same, paused := s.conf == c, s.conf.Paused
	s.conf.Paused, s.conf.Policy = c.Paused, c.Policy
	s.mu.Unlock()
	a.mu.Unlock()
	if same && !fresh {
		return nil
	}
	err := a.saveManifest(nil)
	if fresh || paused != c.Paused {
		a.restartSessions()
	}
	if fresh {
		a.startStream(s)
	}
	s.ship.told.Broadcast() // whoever waits looks at the policy again
	s.restoreAck()
	return err
}

// AddVolume is AttachVolume followed by InitialSync.
func (a *Agent) AddVolume(ctx context.Context, vc VolumeConf) (readyLSN uint64, err error) {
	if err := a.AttachVolume(ctx, vc); err != nil {
		return 0, err
	}
	return a.InitialSync(ctx, vc.Name)
}

// AttachVolume opens or creates the backing and puts the volume on the agent's
// list. A new backing is served at once, one that was there only after its
// InitialSync. It is idempotent.
func (a *Agent) AttachVolume(ctx context.Context, vc VolumeConf) error {
	_, leave, err := a.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	a.mu.Lock()
	known := a.volumes[vc.Name] != nil
	a.mu.Unlock()
	if known {
		return nil
	}
	if err := a.Suspended(vc.Stream); err != nil {
		return fail.At("add volume", vc.Name, err)
	}
	s, err := a.stream("add volume to", vc.Stream)
	if err != nil {
		return err
	}
	if !vc.Resync { // else there was one: a new file in its place would be another's content
		existed, err := a.opts.CreateBacking(vc.Backing, vc.SizeBytes)
		if err != nil {
			return err
		}
		vc.Ready = !existed
	}
	b, err := a.opts.OpenBacking(vc.Backing, vc.SizeBytes)
	if err != nil {
		return fail.At("open volume", vc.Name, err)
	}
	vc.Mark, err = a.identify(b, &vc) // may take as long as an fsync of all that is in the file
	if err != nil {
		_ = b.Close()
		return fail.At("open volume", vc.Name, err)
	}
	a.manifestMu.Lock()
	defer a.manifestMu.Unlock()
	err = a.saveManifest(func(m *manifest) {
		m.dropVolume(vc.Name)
		m.Volumes = append(m.Volumes, vc)
	})
	if err != nil {
		_ = b.Close()
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.volumes[vc.Name] = &Volume{conf: vc, s: s, overlay: overlay.New(a.mem), back: b}
	return nil
}

// stream returns the stream that op is about.
func (a *Agent) stream(op string, id change.StreamID) (*stream, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s := a.streams[id]; s != nil {
		return s, nil
	}
	return nil, fail.New(fail.NotFound, op, id.String(), "no such stream on this agent")
}

// volume returns the volume that op is about.
func (a *Agent) volume(op, name string) (*Volume, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if v := a.volumes[name]; v != nil {
		return v, nil
	}
	return nil, fail.New(fail.NotFound, op, name, "no such volume on this agent")
}

// Suspended returns why the stream is, nil where it is not.
func (a *Agent) Suspended(id change.StreamID) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s := a.streams[id]; s != nil {
		return s.suspended
	}
	return nil
}

// RemoveVolume stops protecting a volume. Backing and history stay.
func (a *Agent) RemoveVolume(ctx context.Context, name string) error {
	ctx, leave, err := a.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	a.mu.Lock()
	v := a.volumes[name]
	a.mu.Unlock()
	if v == nil {
		return nil
	}
	suspended := v.s.suspended
	if suspended != nil && !v.absent { // its backing lacks what only a start with all backings applies
		return fail.New(fail.Refused, "remove volume", name, "its group is suspended: "+suspended.Error()).
			WithHint("bring that backing back, or remove the volume that lacks it, " +
				"and restart the agent; then remove this one")
	}
	v.setGone(true) // from here on no write gets an LSN
	if suspended == nil {
		if err := v.settle(ctx); err != nil {
			v.setGone(false) // it stays
			return err
		}
	}
	if err := a.forgetVolume(name); err != nil {
		v.setGone(false) // it stays, its backing's identity too
		return fail.At("remove volume", name, err)
	}
	if !v.absent {
		v.letGo()
	}
	return nil
}

// forgetVolume takes a volume off the agent's list.
func (a *Agent) forgetVolume(name string) error {
	a.manifestMu.Lock()
	defer a.manifestMu.Unlock()
	if err := a.saveManifest(func(m *manifest) { m.dropVolume(name) }); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.volumes, name)
	return nil
}

// letGo closes a removed volume's backing: it is the operator's again.
func (v *Volume) letGo() {
	v.s.ckpt.mu.Lock() // a checkpoint may be syncing it
	defer v.s.ckpt.mu.Unlock()
	err := v.back.ClearIdentity(v.conf.Mark)
	if cerr := v.back.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		v.s.a.opts.Logger.Warn("a removed volume's backing keeps its mark, or was not closed",
			"volume", v.conf.Name, "err", err)
	}
}

func (v *Volume) setGone(gone bool) {
	v.s.mu.Lock()
	v.removed = gone
	v.s.mu.Unlock()
}

// settle applies all that was written and makes it durable in the backing.
func (v *Volume) settle(ctx context.Context) error {
	if err := v.s.flush(ctx); err != nil {
		return err
	}
	if err := v.s.await(ctx, func() bool { return v.s.apply.applied.LSN >= v.s.wal.durableLSN }); err != nil {
		return err
	}
	v.s.ckpt.mu.Lock()
	defer v.s.ckpt.mu.Unlock()
	return v.s.syncBackings()
}

// Mark puts a bookmark's name into the stream's order, makes it durable, and
// returns its LSN.
func (a *Agent) Mark(ctx context.Context, id change.StreamID, name string) (lsn uint64, err error) {
	ctx, leave, err := a.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	s, err := a.stream("mark", id)
	if err != nil {
		return 0, err
	}
	if s.suspended != nil {
		return 0, fail.At("mark", name, s.suspended)
	}
	buf, err := a.mem.Alloc(ctx, len(name))
	if err != nil {
		return 0, fail.Wrap(fail.Retry, "mark", name, err)
	}
	pos := 0
	for _, p := range a.mem.Pieces(nil, buf) {
		pos += copy(p, name[pos:])
	}
	slot, err := a.mem.AllocSlot(ctx)
	if err != nil {
		a.mem.ReleaseBuf(buf)
		return 0, fail.Wrap(fail.Retry, "mark", name, err)
	}
	lsn, err = s.submit([]rec{{slot: slot, Entry: arena.Entry{Kind: change.Mark, Buf: buf}}})
	if err != nil {
		a.mem.Free([]arena.Item{{Slot: slot, Buf: buf}})
		return 0, err
	}
	return lsn, s.flushTo(ctx, lsn)
}

// LastLSN is the newest LSN of a stream.
func (a *Agent) LastLSN(id change.StreamID) uint64 {
	s, err := a.stream("look at", id)
	if err != nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.order.nextLSN - 1
}

// WaitCommitted blocks until the journal has accepted everything up to lsn.
func (a *Agent) WaitCommitted(ctx context.Context, id change.StreamID, lsn uint64) error {
	s, err := a.stream("wait for", id)
	if err != nil {
		return err
	}
	return s.await(ctx, func() bool { return s.ship.committed.LSN >= lsn })
}

// WaitRemote waits until the remote targets hold more of a stream than after,
// or ctx ends. It returns the newest LSN, and the one they hold.
func (a *Agent) WaitRemote(ctx context.Context, id change.StreamID, after uint64) (last, durable uint64, err error) {
	ctx, leave, err := a.enter(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer leave()
	s, err := a.stream("wait for", id)
	if err != nil {
		return 0, 0, err
	}
	for ended := false; ; {
		next := s.ship.told.Next()
		s.mu.Lock()
		last, durable, err = s.order.nextLSN-1, s.remote(), s.progress.err
		s.mu.Unlock()
		if durable > after || err != nil || ended {
			return last, durable, err
		}
		select {
		case <-next:
		case <-ctx.Done():
			ended = true
		}
	}
}
