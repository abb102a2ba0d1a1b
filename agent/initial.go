package agent

import (
	"context"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// InitialSync says how far those initial syncs of a group are that run now.
type InitialSync struct {
	Bytes       int64 // what their backings hold; holes do not count
	CopiedBytes int64 // how much of that was read, and put into the log where it is not zeros
	Since       time.Time
	running     int
}

// Percent is how much of it is done.
func (i *InitialSync) Percent() int {
	if i.Bytes == 0 {
		return 100
	}
	return int(float64(i.CopiedBytes) / float64(i.Bytes) * 100)
}

// Left is how long it takes from now on at the rate so far; false where that is not known.
func (i *InitialSync) Left(now time.Time) (time.Duration, bool) {
	took := now.Sub(i.Since)
	if i.CopiedBytes <= 0 || took <= 0 {
		return 0, false
	}
	return time.Duration(float64(i.Bytes-i.CopiedBytes) / float64(i.CopiedBytes) * float64(took)), true
}

// beginInitial adds a volume's initial sync to the status. The caller reports to copied
// how many bytes it has done, and calls end when it is over.
func (v *Volume) beginInitial(ctx context.Context) (copied func(n int64), end func(), err error) {
	bytes := int64(0)
	for pos := int64(0); pos < v.conf.SizeBytes && ctx.Err() == nil; {
		start, n, err := v.back.Data(pos)
		if err != nil {
			return nil, nil, err
		}
		if n == 0 {
			break
		}
		bytes, pos = bytes+min(start+n, v.conf.SizeBytes)-start, start+n
	}
	s := v.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.initial == nil {
		s.initial = &InitialSync{Since: time.Now()}
	}
	i := s.initial
	i.running++
	i.Bytes += bytes
	copied = func(n int64) {
		s.mu.Lock()
		defer s.mu.Unlock()
		i.CopiedBytes = min(i.CopiedBytes+n, i.Bytes)
	}
	end = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if i.running--; i.running == 0 {
			s.initial = nil
		}
	}
	return copied, end, nil
}

// initialStatus is nil where no initial sync runs. Called with mu held.
func (s *stream) initialStatus() *InitialSync {
	if s.initial == nil {
		return nil
	}
	out := *s.initial
	return &out
}

// InitialSync puts what the backing held before it was protected into the log,
// once, and returns the LSN at which that was complete: the first one at which
// the twin is. Nobody else writes yet: the volume is served only when it is
// ready. A sync that a stop cut short begins anew.
func (a *Agent) InitialSync(ctx context.Context, name string) (readyLSN uint64, err error) {
	ctx, leave, err := a.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	v, err := a.volume("initial sync of", name)
	if err != nil {
		return 0, err
	}
	if err := v.s.suspended; err != nil {
		return 0, fail.New(fail.Refused, "initial sync of", name, "its group is suspended: "+err.Error()).
			WithHint(fail.HintOf(err))
	}
	v.syncMu.Lock()
	defer v.syncMu.Unlock()
	a.mu.Lock()
	conf := v.conf
	a.mu.Unlock()
	if conf.Ready {
		return conf.ReadyLSN, nil
	}
	if !conf.Resync { // a second attempt must not take the log for empty
		if err := a.changeVolume(v, func(vc *VolumeConf) { vc.Resync = true }); err != nil {
			return 0, err
		}
	}
	if err := v.copyAll(ctx, conf.Resync); err != nil {
		return 0, fail.At("initial sync of", name, err)
	}
	if err := v.s.flush(ctx); err != nil {
		return 0, err
	}
	v.s.mu.Lock()
	lsn := v.s.wal.durableLSN
	v.s.mu.Unlock()
	a.manifestMu.Lock()
	defer a.manifestMu.Unlock()
	a.mu.Lock()
	v.conf.Ready, v.conf.ReadyLSN = true, lsn
	a.mu.Unlock()
	return lsn, a.saveManifest(nil)
}

// copyAll logs what the backing holds; with zeros, holes and blocks of zeros too.
func (v *Volume) copyAll(ctx context.Context, zeros bool) error {
	const step = 256 << 10
	copied, end, err := v.beginInitial(ctx)
	if err != nil {
		return err
	}
	defer end()
	for pos := int64(0); pos < v.conf.SizeBytes; {
		start, n, err := v.back.Data(pos)
		if err != nil {
			return err
		}
		if n == 0 {
			start = v.conf.SizeBytes
		}
		if zeros && start > pos {
			if err := v.Trim(ctx, pos, start-pos, false); err != nil {
				return err
			}
		}
		for pos = start; pos < start+n; {
			if ctx.Err() != nil {
				return fail.Wrap(fail.Retry, "read", "backing", ctx.Err())
			}
			k := int(min(step, start+n-pos))
			if err := v.copyIn(ctx, pos, k, zeros); err != nil {
				return err
			}
			copied(int64(k))
			pos += int64(k)
		}
	}
	return nil
}

// copyIn logs n bytes of the backing as a write of what is there already. Zeros
// need no record where the twin is known to be new.
func (v *Volume) copyIn(ctx context.Context, off int64, n int, zeros bool) error {
	b, err := v.Prepare(ctx, n)
	if err != nil {
		return err
	}
	pos := off
	zero := true
	for _, p := range b.Pieces() {
		if err := v.back.ReadAt(p, pos); err != nil {
			b.Release()
			return err
		}
		zero = zero && allZero(p)
		pos += int64(len(p))
	}
	if !zero {
		return v.Write(ctx, b, off, false)
	}
	b.Release()
	if zeros {
		return v.Trim(ctx, off, int64(n), false)
	}
	return nil
}
