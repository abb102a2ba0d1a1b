package agent

import (
	"context"
	"slices"
	"time"

	"github.com/pollux-dr/pollux/agent/arena"
	"github.com/pollux-dr/pollux/internal/change"
)

// applyState is how far a stream's frames are written to the backings. Guarded by
// stream.mu.
type applyState struct {
	pending []appended   // durable in the WAL, and not applied yet
	applied change.Point // the backings hold all up to here, though not durably
	bytes   int64        // applied since the last checkpoint
	err     error        // why applying is delayed, nil while it goes well

	wake     chan struct{} // of applyLoop
	wakeRoom chan struct{} // of applyLoop while it lets frames collect: writers wait for memory
}

// batch is what is to be applied next.
func (p *applyState) batch() []appended {
	n, bytes := 0, 0
	for n < len(p.pending) && bytes < applyBatchBytes {
		bytes += int(p.pending[n].bytes)
		n++
	}
	return slices.Clone(p.pending[:n])
}

// applyLoop writes durable frames to the backings and then forgets them in
// overlay and arena.
func (s *stream) applyLoop(ctx context.Context) {
	var ap applier
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.apply.wake:
		}
		s.gather(ctx)
		for ctx.Err() == nil {
			batch := s.takeBatch()
			if len(batch) == 0 && !s.backings.unsynced.Load() {
				break
			}
			if s.suspended == nil {
				s.retryApply(ctx, func() error {
					if err := s.checkBackings(); err != nil { // a write would make a cut file long again
						return err
					}
					if err := s.mend(ctx); err != nil {
						return err
					}
					return ap.apply(batch)
				})
			}
			if ctx.Err() != nil {
				return
			}
			if len(batch) > 0 {
				s.applied(batch)
			}
		}
	}
}

// applyDelay is how long the applier lets frames collect while memory is plenty.
// It would otherwise run at the very moment when the shipper, which somebody
// waits for, wants the CPU too; and what is overwritten meanwhile, or lies side by
// side, is written once.
const applyDelay = 5 * time.Millisecond

// gather waits for applyDelay, unless memory is in demand.
func (s *stream) gather(ctx context.Context) {
	if u := s.a.mem.Usage(); u.UsedBytes > u.TotalBytes/8 {
		return
	}
	timer := time.NewTimer(applyDelay)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-s.apply.wakeRoom:
	}
}

// retryApply repeats work until it succeeds: a backing that is full or fails
// delays the writers once the memory is used up, and says so in the status; it
// never loses what was acknowledged.
func (s *stream) retryApply(ctx context.Context, work func() error) {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := work()
		s.mu.Lock()
		s.apply.err = err
		s.mu.Unlock()
		if err == nil {
			return
		}
		s.a.opts.Logger.Error("applying to the backing is delayed", "group", s.conf.Group, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (s *stream) takeBatch() []appended {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.apply.batch()
}

// applied publishes that the backing holds batch, and frees its memory. Of a
// suspended stream it frees the memory only: the WAL keeps the frames.
func (s *stream) applied(batch []appended) {
	var items []arena.Item
	for _, f := range batch {
		for i := range f.recs {
			r := &f.recs[i]
			if r.vol != nil {
				r.vol.overlay.Remove(r.LSN, r.Off, int64(r.Len))
			}
			items = append(items, arena.Item{Slot: r.slot, Buf: r.Buf})
		}
	}
	s.a.mem.Free(items)

	p := &s.apply
	s.mu.Lock()
	if last := batch[len(batch)-1]; s.suspended == nil {
		p.applied = change.Point{LSN: last.last, Hash: last.hash}
	}
	for i := range batch {
		p.bytes += int64(batch[i].bytes)
		s.order.reuse(batch[i].recs)
	}
	p.pending = append(p.pending[:0], p.pending[len(batch):]...)
	due := p.bytes >= s.a.opts.CheckpointBytes
	s.progress.broadcast()
	s.mu.Unlock()
	if due {
		wake(s.a.wakeCheckpoint)
	}
}

// applier writes batches of records. Within a run of writes that are all whole
// blocks, a block that is written several times is written once, and in the
// order of the volume; anything else is applied one by one in LSN order.
type applier struct {
	runs []run
	seen map[blockKey]struct{}
	part [][]byte
}

type run struct {
	rec *rec
	off int64
	len int
}

type blockKey struct {
	vol   uint32
	block int64
}

const applyBlockBytes = 4096

func (ap *applier) apply(batch []appended) error {
	var recs []*rec
	for i := range batch {
		for k := range batch[i].recs {
			if batch[i].recs[k].vol != nil {
				recs = append(recs, &batch[i].recs[k])
			}
		}
	}
	for len(recs) > 0 {
		n := 0
		for n < len(recs) && wholeBlocks(recs[n]) {
			n++
		}
		if n > 0 {
			if err := ap.coalesce(recs[:n]); err != nil {
				return err
			}
			recs = recs[n:]
			continue
		}
		if err := ap.one(recs[0]); err != nil {
			return err
		}
		recs = recs[1:]
	}
	return nil
}

func wholeBlocks(r *rec) bool {
	return r.Kind == change.Write && r.Off%applyBlockBytes == 0 && r.Len%applyBlockBytes == 0
}

// one applies a record as it is.
func (ap *applier) one(r *rec) error {
	switch r.Kind {
	case change.Write:
		return ap.write(run{r, r.Off, int(r.Len)})
	case change.Zero, change.Trim:
		return r.vol.back.Zero(r.Off, int64(r.Len), r.Kind == change.Zero)
	}
	return nil
}

// coalesce applies writes of whole blocks: newest first decides who wins a
// block, then the winners are written in ascending order.
func (ap *applier) coalesce(recs []*rec) error {
	if ap.seen == nil {
		ap.seen = make(map[blockKey]struct{})
	}
	clear(ap.seen)
	ap.runs = ap.runs[:0]
	for i := len(recs) - 1; i >= 0; i-- {
		r := recs[i]
		var cur run
		for off := r.Off; off < r.Off+int64(r.Len); off += applyBlockBytes {
			key := blockKey{r.Volume, off / applyBlockBytes}
			if _, hidden := ap.seen[key]; hidden {
				if cur.len > 0 {
					ap.runs = append(ap.runs, cur)
					cur = run{}
				}
				continue
			}
			ap.seen[key] = struct{}{}
			if cur.len == 0 {
				cur = run{rec: r, off: off}
			}
			cur.len += applyBlockBytes
		}
		if cur.len > 0 {
			ap.runs = append(ap.runs, cur)
		}
	}
	slices.SortFunc(ap.runs, func(a, b run) int {
		if a.rec.Volume != b.rec.Volume {
			return int(int64(a.rec.Volume) - int64(b.rec.Volume))
		}
		if a.off < b.off {
			return -1
		}
		return 1
	})
	for _, w := range ap.runs {
		if err := ap.write(w); err != nil {
			return err
		}
	}
	return nil
}

// write writes the part of a record that w names.
func (ap *applier) write(w run) error {
	skip, left, off := int(w.off-w.rec.Off), w.len, w.off
	ap.part = w.rec.vol.s.a.mem.Pieces(ap.part[:0], w.rec.Buf)
	for _, p := range ap.part {
		if skip >= len(p) {
			skip -= len(p)
			continue
		}
		p = p[skip:min(len(p), skip+left)]
		skip = 0
		if err := w.rec.vol.back.WriteAt(p, off); err != nil {
			return err
		}
		off += int64(len(p))
		if left -= len(p); left == 0 {
			return nil
		}
	}
	return nil
}
