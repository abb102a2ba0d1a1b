package standby

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/twin"
)

const (
	// smallBytes is what is brought while nothing is applied: a moment's work.
	smallBytes = 32 << 20
	// maxRounds is after how many approaches the rest is brought however much it is: somebody
	// writes as fast as it is read.
	maxRounds = 8
	// maxDead bounds the objects that are read to trace a dead branch.
	maxDead = 100_000
)

// job is a volume that is to be brought to where its stream is.
type job struct {
	name    string
	v       volumeCursor
	applied change.Point
	written int64 // when the journal wrote that
}

// errCopy is of a volume that would have to be copied wholly, which CatchUp does not wait for.
var errCopy = errors.New("it has no whole image")

// errUnrelated is of an image of which is not known any more what differs from the log.
var errUnrelated = errors.New("what the image has beyond the log is not known any more")

// copyAll brings volumes to their streams' points, one after another, until the context ends.
func (s *Standby) copyAll(ctx context.Context) {
	for ctx.Err() == nil {
		name, wait := s.pick()
		if name == "" {
			t := time.NewTimer(wait)
			select {
			case <-s.wake:
			case <-t.C:
			case <-ctx.Done():
			}
			t.Stop()
			continue
		}
		s.noteBrought(name, s.bring(ctx, name))
	}
}

func (s *Standby) wakeCopier() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// pick is the next volume to bring, or how long there is none.
func (s *Standby) pick() (name string, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait = retryAfter
	if s.cur == nil {
		return "", wait
	}
	now := time.Now()
	for _, n := range s.waiting() {
		at := s.retry[n]
		if !now.Before(at) {
			return n, 0
		}
		wait = min(wait, at.Sub(now))
	}
	return "", wait
}

// noteBrought says what became of a volume that was to be brought.
func (s *Standby) noteBrought(name string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.retry, name)
	switch {
	case errors.Is(err, context.Canceled):
		return
	case isNotYet(err):
		s.retry[name] = time.Now().Add(s.o.MaxPoll)
	case err != nil:
		s.retry[name] = time.Now().Add(retryAfter)
		s.o.Logger.Warn("a volume cannot be brought to its point yet", "volume", name, "err", err)
	}
	s.noteVolume(name, err)
	s.publish()
}

// bring makes a volume's image follow: copied, or made good, beside the others first, and in the
// last moment while nothing is applied.
func (s *Standby) bring(ctx context.Context, name string) error {
	for range maxRounds {
		small, err := s.approach(ctx, name)
		if err != nil {
			return err
		}
		if small {
			break
		}
	}
	return s.join(ctx, name)
}

// jobOf looks at a volume. Called with mu held.
func (s *Standby) jobOf(name string) (*job, error) {
	v, sv := s.cur.Volumes[name], s.state.Volumes[name]
	if v == nil || sv == nil || v.Following {
		return nil, notYet{"it is not to be copied"}
	}
	sc := s.cur.stream(v.Stream)
	switch {
	case sc.Broken != "":
		return nil, fail.New(fail.Damaged, "follow", "volume "+name, sc.Broken)
	case !sv.Ready:
		return nil, notYet{"its initial sync is not complete"}
	case sc.Applied.LSN < sv.FirstLSN:
		return nil, notYet{"its first complete point has not come yet"}
	}
	return &job{name, *v, sc.Applied, sc.Written}, nil
}

// update changes what the cursor says of a job's volume. Called with mu held.
func (s *Standby) update(j *job, fn func(v *volumeCursor)) error {
	c := s.cur.clone()
	v := c.Volumes[j.name]
	if v == nil || v.Number != j.v.Number || v.Path != j.v.Path {
		return notYet{"it is wanted somewhere else by now"}
	}
	fn(v)
	if err := s.save(c, false); err != nil {
		return err
	}
	j.v = *v
	return nil
}

func (s *Standby) updateLocked(j *job, fn func(v *volumeCursor)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.update(j, fn)
}

// approach brings an image near to where its stream is. small is that what is left is little.
func (s *Standby) approach(ctx context.Context, name string) (small bool, err error) {
	s.mu.Lock()
	j, err := s.jobOf(name)
	s.mu.Unlock()
	if err != nil {
		return false, err
	}
	l, err := twin.Open(ctx, s.o.Store, nil)
	if err != nil {
		return false, err
	}
	p, err := s.newest(ctx, l, j)
	if err != nil {
		return false, err
	}
	if !j.v.Image {
		return false, s.copy(ctx, l, p, j, false)
	}
	plan, err := s.plan(ctx, l, p, j)
	if errors.Is(err, errUnrelated) {
		s.o.Logger.Warn("a volume is copied anew: what its image has beyond the log is not known any more",
			"volume", name, "lsn", j.v.High)
		return false, s.copy(ctx, l, p, j, true)
	}
	if err != nil {
		return false, err
	}
	defer plan.Close()
	if plan.NeedBytes+plan.ZeroBytes <= smallBytes {
		return true, nil
	}
	return false, s.difference(ctx, l, plan, j, s.updateLocked)
}

// newest is the newest point of a volume that it may be brought to: with a delay, the newest
// that is old enough.
func (s *Standby) newest(ctx context.Context, l *twin.Log, j *job) (twin.Point, error) {
	v := l.State.Volumes[j.name]
	if v == nil || v.Removed {
		return twin.Point{}, notYet{"the store does not list it yet"}
	}
	at, now := "", s.o.Now()
	if s.o.Delay > 0 {
		at = now.Add(-s.o.Delay).UTC().Format(time.RFC3339Nano)
	} else if l.DamageOf(v) != nil { // what lies before it stands
		at = strconv.FormatUint(j.applied.LSN, 10)
	}
	p, err := l.Resolve(ctx, v, at, now)
	if s.o.Delay > 0 && (fail.Is(err, fail.NotFound) || fail.Is(err, fail.Refused)) {
		return p, notYet{"no point of it is as old as the delay yet"}
	}
	return p, err
}

// join brings a volume to its stream's very point, and lets it follow. Nothing is applied
// meanwhile.
func (s *Standby) join(ctx context.Context, name string) error {
	l, err := twin.Open(ctx, s.o.Store, nil)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	j, err := s.jobOf(name)
	if err != nil {
		return err
	}
	if s.o.Delay > 0 && time.Unix(0, j.written).After(s.o.Now().Add(-s.o.Delay)) {
		return notYet{"its point is not as old as the delay yet"}
	}
	if !j.v.Image {
		return notYet{"it is wanted somewhere else by now"}
	}
	nameless := j.applied.Hash == (change.Hash{}) && j.applied.LSN > 0 // only the log tells which branch it is on
	if l.EndOf(j.v.Stream).LSN < j.applied.LSN || nameless && l.End < s.cur.Position {
		// It was read before the newest was applied.
		if l, err = twin.Open(ctx, s.o.Store, nil); err != nil {
			return err
		}
	}
	v := l.State.Volumes[name]
	hash, known, err := l.HashAt(ctx, j.v.Stream, j.applied.LSN)
	if err != nil {
		return err
	}
	switch {
	case v == nil:
		return notYet{"the store does not list it yet"}
	case !known || nameless && l.End < s.cur.Position:
		return notYet{fmt.Sprintf("the store does not show LSN %d of its stream", j.applied.LSN)}
	case j.applied.Hash != (change.Hash{}) && hash != j.applied.Hash:
		return notYet{fmt.Sprintf("the store has another frame at LSN %d of its stream: %s, not %s", j.applied.LSN,
			hash, j.applied.Hash)}
	}
	p, err := l.Resolve(ctx, v, strconv.FormatUint(j.applied.LSN, 10), s.o.Now())
	if err != nil {
		return err
	}
	plan, err := s.plan(ctx, l, p, j)
	if err != nil {
		return err
	}
	defer plan.Close()
	if err := s.difference(ctx, l, plan, j, s.update); err != nil {
		return err
	}
	return s.update(j, func(v *volumeCursor) { v.Following, v.Low, v.High = true, 0, 0 })
}

// plan says what of an image differs from a point. Errors: errUnrelated where that cannot be
// told.
func (s *Standby) plan(ctx context.Context, l *twin.Log, p twin.Point, j *job) (*twin.Plan, error) {
	base := &twin.Base{Low: j.v.Low, High: j.v.High, Done: twin.Whole}
	var dirty twin.Dirty
	related := false // what it holds is of the log, or of a branch that is known
	for _, d := range j.v.Dead {
		if d.To-d.From > maxDead {
			return nil, errUnrelated
		}
		first, has, err := l.DeadBranch(ctx, j.v.Stream, d.From, d.To, d.Index,
			change.Point{LSN: j.v.High, Hash: j.v.Hash}, func(volume uint32, off, n int64) {
				if n = min(n, j.v.Size-off); volume == j.v.Number && n > 0 {
					dirty.Add(off, n)
				}
			})
		if fail.Is(err, fail.NotFound) {
			return nil, errUnrelated
		}
		if err != nil {
			return nil, err
		}
		if first == 0 {
			continue
		}
		hash, known, err := l.HashAt(ctx, j.v.Stream, d.At.LSN)
		if err != nil {
			return nil, err
		}
		if known && hash != d.At.Hash || d.At.LSN > l.EndOf(j.v.Stream).LSN {
			return nil, errUnrelated // another fence has cut off that as well
		}
		related, base.Low = related || has, min(base.Low, d.At.LSN)
	}
	if !related {
		hash, known, err := l.HashAt(ctx, j.v.Stream, j.v.High)
		if err != nil {
			return nil, err
		}
		unseen := j.v.End == 0 || l.End < j.v.End // else it was cut off
		if !known && unseen && j.v.High > l.EndOf(j.v.Stream).LSN {
			return nil, notYet{fmt.Sprintf("the store does not show LSN %d of its stream, which it has", j.v.High)}
		}
		if !known || hash != j.v.Hash {
			return nil, errUnrelated
		}
	}
	plan, err := l.PlanOver(ctx, p, base, dirty, "")
	if fail.Is(err, fail.NotFound) {
		return nil, errUnrelated
	}
	return plan, err
}

// difference writes what a plan says. Before, it is noted what the image may hold then.
func (s *Standby) difference(ctx context.Context, l *twin.Log, plan *twin.Plan, j *job,
	update func(*job, func(*volumeCursor)) error) error {
	p, left, dead := plan.Point, plan.Left(), len(j.v.Dead)
	hash, known, err := l.HashAt(ctx, j.v.Stream, p.LSN)
	if err != nil {
		return err
	}
	if !known {
		return notYet{fmt.Sprintf("LSN %d is not the end of a frame", p.LSN)}
	}
	err = update(j, func(v *volumeCursor) {
		if p.LSN >= v.High {
			v.Hash = hash
		}
		v.Low, v.High, v.End = left.Low, left.High, max(v.End, l.End)
	})
	if err != nil {
		return err
	}
	f, err := s.o.disk.Open(j.v.Path, j.v.Size)
	if fail.Is(err, fail.NotFound) { // somebody took it away
		return errors.Join(err, update(j, func(v *volumeCursor) { v.Image, v.Begun = false, false }))
	}
	if err != nil {
		return err
	}
	run := twin.Run{Progress: s.progressOf(j.name), BytesPerSecond: s.o.BytesPerSecond}
	if plan.NeedBytes <= smallBytes {
		run.BytesPerSecond = 0
	}
	res, err := plan.Restore(ctx, f, run)
	s.brought.Add(res.WrittenBytes)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return update(j, func(v *volumeCursor) {
		v.Low, v.High, v.Hash, v.Dead = p.LSN, p.LSN, hash, v.Dead[dead:]
	})
}

// copy writes a whole image.
func (s *Standby) copy(ctx context.Context, l *twin.Log, p twin.Point, j *job, anew bool) error {
	if s.whole {
		return errCopy
	}
	if !j.v.Begun {
		if err := s.o.disk.Check(j.v.Path, j.v.Size); err != nil {
			return err
		}
	}
	hash, known, err := l.HashAt(ctx, j.v.Stream, p.LSN)
	if err != nil {
		return err
	}
	if !known {
		return notYet{fmt.Sprintf("LSN %d is not the end of a frame", p.LSN)}
	}
	dead := len(j.v.Dead)
	if err := s.updateLocked(j, func(v *volumeCursor) { v.Begun, v.Image = true, false }); err != nil {
		return err
	}
	n, err := s.o.disk.Copy(ctx, l, p, j.v.Path, anew, copyRun{s.o.BytesPerSecond, s.progressOf(j.name)})
	s.brought.Add(n)
	if err != nil {
		return err
	}
	return s.updateLocked(j, func(v *volumeCursor) {
		v.Image, v.Low, v.High, v.Hash, v.End = true, p.LSN, p.LSN, hash, l.End
		v.Dead = v.Dead[min(dead, len(v.Dead)):]
	})
}
