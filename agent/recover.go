package agent

import (
	"fmt"
	"slices"

	"github.com/pollux-dr/pollux/agent/arena"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// recoverStreams brings every stream to where it was: the WAL's frames beyond
// the checkpoint are applied to the backings again, and what the arena holds
// beyond the WAL becomes the open frame again. Nothing is served before.
func (a *Agent) recoverStreams(found []arena.Recovered) error {
	for _, s := range a.streams {
		if _, err := loadMeta(a.opts.FS, a.checkpointPath(s.conf.ID), &s.ckpt.saved); err != nil {
			return err
		}
		s.ship.lease, s.order.lastTime = s.ckpt.saved.Lease, s.ckpt.saved.Time
		s.apply.applied, s.enc.tail, s.ship.committed = s.ckpt.saved.Applied,
			s.ckpt.saved.Applied, s.ckpt.saved.Committed
		s.loadSpilled()
		if err := s.loadOverflow(); err != nil {
			return err
		}
		if s.ckpt.saved.Gone != nil {
			s.evicted.lag = lagMarks{*s.ckpt.saved.Gone}
			s.evicted.lag[0].at = a.whenWas(s.evicted.lag[0].Time)
		}
	}
	var buf, plain []byte
	var f change.Frame
	seen := make(map[change.StreamID]change.Point)
	for i := a.wal.First(); i <= a.wal.Last(); i++ {
		var err error
		if buf, err = a.wal.Read(i, buf); err != nil {
			return err
		}
		if err := f.Reset(buf); err != nil {
			return fail.At("recover", fmt.Sprintf("WAL entry %d in %s", i, a.walDir()), err)
		}
		s := a.streams[f.Stream]
		if s == nil {
			continue // its last volume was removed
		}
		if p, ok := seen[f.Stream]; ok {
			if err := f.Follows(p); err != nil {
				return fail.At("recover", fmt.Sprintf("WAL entry %d in %s", i, a.walDir()), err)
			}
		}
		here := change.Point{LSN: f.LastLSN, Hash: f.Hash}
		seen[f.Stream] = here
		if err := s.recoverFrame(&f, i, &plain); err != nil {
			return err
		}
	}
	for _, s := range a.streams {
		if err := s.recovered(); err != nil {
			return err
		}
		if err := s.checkCommitted(); err != nil {
			return err
		}
	}
	return a.recoverArena(found)
}

// recoverFrame applies one frame of the WAL when the checkpoint does not cover it.
func (s *stream) recoverFrame(f *change.Frame, index uint64, plain *[]byte) error {
	s.wal.refs = append(s.wal.refs, frameRef{last: f.LastLSN, wal: index, time: f.FirstTime,
		at: s.a.whenWas(f.FirstTime), bytes: f.PlainBytes})
	s.wal.appendedIndex = index
	applied := s.ckpt.saved.Applied
	if f.LastLSN <= applied.LSN {
		if f.LastLSN == applied.LSN && f.Hash != applied.Hash {
			return fail.New(fail.Damaged, "recover", "group "+s.conf.Group,
				fmt.Sprintf("the WAL's frame at LSN %d is not the one that the backing was written from", applied.LSN))
		}
		return s.reapply(f, index, plain, func(v *Volume) bool { return v.conf.Accepted })
	}
	if f.FirstLSN > s.enc.tail.LSN+1 {
		return fail.New(fail.Damaged, "recover", "group "+s.conf.Group,
			fmt.Sprintf("the WAL begins at LSN %d, but the backing was written only up to %d",
				f.FirstLSN, s.enc.tail.LSN)).
			WithHint("an older backup of the state directory? Restore the volume from the object store")
	}
	s.enc.tail = change.Point{LSN: f.LastLSN, Hash: f.Hash}
	s.order.lastTime = max(s.order.lastTime, f.LastTime)
	return s.reapply(f, index, plain, anyVolume)
}

func anyVolume(*Volume) bool { return true }

// reapply writes a frame's records to the backings of the volumes that want it.
func (s *stream) reapply(f *change.Frame, index uint64, plain *[]byte, wants func(*Volume) bool) (err error) {
	if s.suspended != nil || !slices.ContainsFunc(s.a.volumesOf(s), wants) {
		return nil // it is applied once all backings are there
	}
	if *plain, err = f.Plain(*plain); err != nil {
		return fail.At("recover", fmt.Sprintf("WAL entry %d", index), err)
	}
	for i := range f.Records {
		r := &f.Records[i]
		v := s.a.numbered(r.Volume)
		if v == nil || r.Kind == change.Mark || !wants(v) {
			continue
		}
		if r.Kind == change.Write {
			err = v.back.WriteAt(f.Data(i, *plain), r.Off)
		} else {
			err = v.back.Zero(r.Off, int64(r.Len), r.Kind == change.Zero)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// recovered sets the stages to "all of the WAL is applied", or for a suspended
// stream to "nothing more than the checkpoint says".
func (s *stream) recovered() error {
	if n := len(s.wal.refs); n > 0 && s.wal.refs[n-1].last < s.ckpt.saved.Applied.LSN {
		return fail.New(fail.Damaged, "recover", "group "+s.conf.Group, "the WAL lost frames that the backing holds")
	}
	s.wal.appendedLSN, s.wal.durableLSN = s.enc.tail.LSN, s.enc.tail.LSN
	s.apply.applied = s.enc.tail
	if s.suspended != nil {
		s.apply.applied = s.ckpt.saved.Applied
	}
	s.order.nextLSN = s.enc.tail.LSN + 1
	s.ship.mayHave = s.enc.tail.LSN // for all that is known
	s.ack.flushed = s.enc.tail.LSN  // perhaps a flush was answered for all of it
	if s.a.opts.Remote != nil {
		s.ship.durable = min(s.a.opts.Remote(s.conf.ID), s.enc.tail.LSN)
		s.ship.remote = s.ship.durable
	}
	return nil
}

// checkCommitted compares the WAL with the journal. Nothing is shipped before it
// is durable here, so a journal that is ahead means that the WAL has lost synced
// frames: what was taken for a torn tail is damage.
func (s *stream) checkCommitted() error {
	if s.a.opts.Committed == nil {
		return nil
	}
	p := s.a.opts.Committed(s.conf.ID)
	if _, gap := s.overflow.gap(&change.Attached{Committed: p}); gap {
		return nil // its volumes were put back, and the first session says so
	}
	if _, err := s.locate(p); err != nil {
		where := s.a.walDir()
		if r := s.a.wal.Recovery(); r.TornFile != "" {
			where = fmt.Sprintf("%s at byte %d (%s)", r.TornFile, r.TornOffsetBytes, r.TornReason)
		}
		return fail.New(fail.Damaged, "recover group "+s.conf.Group+" from", where,
			fmt.Sprintf("the journal has accepted %v, the WAL ends at %v", p, s.enc.tail)).
			WithHint("the WAL lost frames that were durable; restore the group's volumes from the object store")
	}
	return nil
}

// recoverArena puts the writes that the last process acknowledged, but did not
// get into the WAL, back to where they were, under the same LSNs.
func (a *Agent) recoverArena(found []arena.Recovered) error {
	for i := range found {
		e := &found[i]
		s := a.streamNumber(e.Stream)
		var v *Volume
		if s != nil {
			v = a.volumeNumber(e.Volume)
		}
		if s == nil || e.LSN < s.order.nextLSN { // a removed volume's record keeps its LSN, and is applied to nothing
			a.mem.Free([]arena.Item{{Slot: e.Slot, Buf: e.Buf}})
			continue
		}
		if e.LSN != s.order.nextLSN {
			return fail.New(fail.Damaged, "recover", "arena of group "+s.conf.Group,
				fmt.Sprintf("it holds LSN %d, but %d is next", e.LSN, s.order.nextLSN))
		}
		s.order.nextLSN++
		s.order.lastTime = max(s.order.lastTime, e.Time)
		s.enqueue(&rec{Entry: e.Entry, slot: e.Slot, vol: v, at: a.whenWas(e.Time)})
		a.count.recovered.Add(1)
	}
	return nil
}
