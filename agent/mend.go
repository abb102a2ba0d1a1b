package agent

import (
	"context"
	"hash/crc32"
	"slices"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// mendStep is how much is read back at once.
const mendStep = 1 << 20

// mend writes to the backings what they were given since the last checkpoint, if a
// sync of them has failed. Only the applier calls it: nobody else writes to them.
func (s *stream) mend(ctx context.Context) error {
	if !s.backings.unsynced.Load() {
		return nil
	}
	s.ckpt.mu.Lock()
	defer s.ckpt.mu.Unlock()
	frames, volumes := s.sinceCheckpoint(), s.a.volumesOf(s)
	for _, v := range volumes {
		v.back.Unsynced()
	}
	written, err := s.applyAgain(ctx, frames)
	if err != nil {
		return err
	}
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
	s.backings.syncErr = nil
	s.backings.unsynced.Store(false)
	s.progress.broadcast()
	s.mu.Unlock()
	s.a.opts.Logger.Info("the backings hold what was applied to them again", "group", s.conf.Group)
	wake(s.a.wakeCheckpoint)
	return nil
}

// sinceCheckpoint are the WAL indexes of what was applied since the last checkpoint.
// Reads of the backings that were under way have ended when it returns, and those that
// come now wait.
func (s *stream) sinceCheckpoint() (frames []uint64) {
	s.backings.mu.Lock()
	defer s.backings.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.wal.refs {
		if r.last > s.ckpt.saved.Applied.LSN && r.last <= s.apply.applied.LSN {
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
