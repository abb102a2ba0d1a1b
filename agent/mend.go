package agent

import (
	"context"
	"hash/crc32"
	"slices"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// A sync of a backing that failed says that some of what was written since the last
// one may be lost, and the next one will not say it again: the kernel takes the pages
// for clean, and may drop them. So from then on nothing that the backings were given
// since the last checkpoint counts. The checkpoint stays, the WAL keeps all that came
// after it, reads of the backings wait, and the applier writes it to them anew, syncs
// them, and reads it back, until that succeeds.

// mendStep is how much is read back at once.
const mendStep = 1 << 20

// syncBackings makes durable what was applied. Called with ckptMu held.
func (s *stream) syncBackings() error {
	s.mu.Lock()
	err := s.syncErr
	s.mu.Unlock()
	if err != nil {
		return err
	}
	for _, v := range s.a.volumesOf(s) {
		if err := v.back.Sync(); err != nil {
			return s.syncFailed(v, err)
		}
	}
	return nil
}

// syncFailed makes reads wait until the applier has mended the backings.
func (s *stream) syncFailed(v *Volume, err error) error {
	e := &fail.Error{Kind: fail.KindOf(err), Op: "make durable what was applied to", Object: v.conf.Name, Err: err}
	err = e.WithHint("writes collect in the WAL, and reads of the backing wait; " +
		"both go on by themselves when its disk has room and works")
	s.mu.Lock()
	s.syncErr = err
	s.unsynced.Store(true)
	s.mu.Unlock()
	s.a.opts.Logger.Error("the group is suspended: what its backings got since the last checkpoint is written again",
		"group", s.conf.Group, "err", err)
	wake(s.wakeApply)
	return err
}

// rlockBackings takes backMu for reading once the backings hold all that was applied.
func (s *stream) rlockBackings(ctx context.Context) error {
	for {
		if !s.unsynced.Load() {
			s.backMu.RLock()
			if !s.unsynced.Load() {
				return nil
			}
			s.backMu.RUnlock()
		}
		if err := s.await(ctx, func() bool { return s.syncErr == nil || s.backErr != nil }); err != nil {
			return err
		}
		s.mu.Lock()
		err := s.backErr
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// mend writes to the backings what they were given since the last checkpoint, if a
// sync of them has failed. Only the applier calls it: nobody else writes to them.
func (s *stream) mend(ctx context.Context) error {
	if !s.unsynced.Load() {
		return nil
	}
	s.ckptMu.Lock()
	defer s.ckptMu.Unlock()
	written, err := s.applyAgain(ctx, s.sinceCheckpoint())
	if err != nil {
		return err
	}
	volumes := s.a.volumesOf(s)
	sums := make([][]uint32, len(volumes))
	for i, v := range volumes {
		if sums[i], err = v.sums(written[v.conf.Number]); err != nil {
			return err
		}
	}
	for i, v := range volumes {
		if err := v.back.Sync(); err != nil {
			return fail.At("make durable what was applied to", v.conf.Name, err)
		}
		for _, e := range written[v.conf.Number] {
			v.back.Forget(e.Off, e.Len)
		}
		got, err := v.sums(written[v.conf.Number])
		if err != nil {
			return err
		}
		if !slices.Equal(got, sums[i]) {
			return fail.New(fail.Damaged, "read back what was applied to", v.conf.Name,
				"the medium of "+v.conf.Backing+" does not hold it").WithHint("the disk loses writes: replace it")
		}
	}
	s.mu.Lock()
	s.syncErr = nil
	s.unsynced.Store(false)
	s.broadcast()
	s.mu.Unlock()
	s.a.opts.Logger.Info("the backings hold what was applied to them again", "group", s.conf.Group)
	wake(s.a.wakeCheckpoint)
	return nil
}

// sinceCheckpoint are the WAL indexes of what was applied since the last checkpoint.
// Reads of the backings that were under way have ended when it returns, and those that
// come now wait.
func (s *stream) sinceCheckpoint() (frames []uint64) {
	s.backMu.Lock()
	defer s.backMu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.refs {
		if r.last > s.ckpt.Applied.LSN && r.last <= s.appliedLSN {
			frames = append(frames, r.wal)
		}
	}
	return frames
}

// applyAgain writes frames to the backings, in their order. It returns where data was
// written, by volume.
func (s *stream) applyAgain(ctx context.Context, frames []uint64) (map[uint32][]Extent, error) {
	maps := map[uint32]*dirtyMap{}
	var f change.Frame
	var buf, plain []byte
	for _, index := range frames {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		var err error
		if buf, err = s.a.readFrame(index, &f, buf); err != nil {
			return nil, fail.At("apply again", "group "+s.conf.Group, err)
		}
		if err := s.reapply(&f, index, &plain, anyVolume); err != nil {
			return nil, err
		}
		f.Records = slices.DeleteFunc(f.Records, func(r change.Record) bool { return r.Kind != change.Write })
		s.a.note(maps, &f)
	}
	written := map[uint32][]Extent{}
	for number, m := range maps {
		if v := s.a.numbered(number); v != nil {
			written[number], _ = m.extents(v.conf.SizeBytes)
		}
	}
	return written, nil
}

// sums are the checksums of what the backing has in extents.
func (v *Volume) sums(extents []Extent) ([]uint32, error) {
	var out []uint32
	buf := make([]byte, mendStep)
	for _, e := range extents {
		for off := e.Off; off < e.Off+e.Len; off += mendStep {
			p := buf[:min(mendStep, e.Off+e.Len-off)]
			if err := v.back.ReadAt(p, off); err != nil {
				return nil, err
			}
			out = append(out, crc32.Checksum(p, castagnoli))
		}
	}
	return out, nil
}
