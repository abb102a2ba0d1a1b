package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pollux-dr/pollux/bench/twosites"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/faultproxy"
)

// rounds moves the journal, and then loses its seat again and again.
func (b *failoverBench) rounds(ctx context.Context) error {
	g, err := b.a.Group(ctx, groupName)
	if err != nil {
		return err
	}
	b.volume.Model.Base = g.LastLSN // what comes now is known
	if _, err := b.volume.Connect(ctx, b.a); err != nil {
		return err
	}
	if b.proxy != nil {
		b.proxy.Set(faultproxy.Faults{Delay: b.rtt})
	}
	for i := range b.o.Rounds {
		var r FailoverRound
		for _, part := range []func(context.Context, *FailoverRound) error{b.warm, b.handOver, b.again} {
			if err := part(ctx, &r); err != nil {
				return err
			}
		}
		b.rep.Rounds = append(b.rep.Rounds, r)
		b.o.Say(fmt.Sprintf("round %d: warm %.2f s, hand-over %.0f ms, failback %.2f of what was changed", i+1,
			r.WarmSeconds, r.PauseMS, ratio(float64(r.FailbackBytes), float64(r.ChangedBytes))))
	}
	b.b.Kill()
	for i := range b.rep.Rounds {
		if err := b.cold(ctx, i, &b.rep.Rounds[i]); err != nil {
			return err
		}
		b.o.Say(fmt.Sprintf("round %d: cold %.2f s", i+1, b.rep.Rounds[i].ColdSeconds))
	}
	return ctx.Err()
}

// cpu is what both sites' processes have used so far. One that has ended counts for nothing.
func (b *failoverBench) cpu() float64 {
	sum := 0.0
	for _, h := range []*twosites.Host{b.a, b.b} {
		if h.Process().Running() {
			sum += processCPU(h.Process().PID())
		}
	}
	return sum
}

// lose writes for a while at the seat, and loses it.
func (b *failoverBench) lose(ctx context.Context, seat *twosites.Host) error {
	b.volume.Begin(ctx)
	if err := pause(ctx, b.o.slice()); err != nil {
		return err
	}
	seat.Kill()
	return b.volume.Broken(ctx)
}

// served connects at a host, and writes there; the seam is where the volume went on.
func (b *failoverBench) served(ctx context.Context, h *twosites.Host) (*twosites.Seam, error) {
	seam, err := b.volume.Connect(ctx, h)
	if err == nil {
		err = b.volume.WriteFlushed(ctx)
	}
	return seam, err
}

// warm loses A, and goes on at B, where a standby follows; then it makes A a standby.
func (b *failoverBench) warm(ctx context.Context, r *FailoverRound) error {
	if err := b.lose(ctx, b.a); err != nil {
		return err
	}
	cpu, typed, done := b.cpu(), time.Now(), make(chan error, 1)
	go func() { _, err := b.b.ForceFailover(ctx); done <- err }()
	seam, err := b.served(ctx, b.b)
	r.WarmSeconds, r.WarmCPUSeconds = time.Since(typed).Seconds(), b.cpu()-cpu
	if err = errors.Join(err, <-done); err != nil {
		return err
	}
	b.volume.Begin(ctx)
	if err := pause(ctx, b.o.slice()); err != nil {
		return err
	}
	if err := b.volume.Pause(ctx); err != nil {
		return err
	}
	if err := b.b.Drained(ctx, groupName); err != nil {
		return err
	}
	return b.failBack(ctx, seam, r)
}

// failBack makes A a standby of B, and counts what that needed.
func (b *failoverBench) failBack(ctx context.Context, seam *twosites.Seam, r *FailoverRound) error {
	began := time.Now()
	fb, err := b.a.Failback(ctx)
	if err != nil {
		return err
	}
	if err := b.a.StartStandby(ctx); err != nil {
		return err
	}
	model := b.volume.Model
	st, err := b.a.Follows(ctx, volumeName, model.Sent())
	if err != nil {
		return err
	}
	blocks := map[int64]bool{}
	for _, g := range fb.Groups {
		seam.Before.Changed(g.PointLSN, g.LastLSN, blocks)
	}
	model.Changed(seam.LSN, model.Sent(), blocks)
	r.FailbackSeconds = time.Since(began).Seconds()
	r.FailbackBytes = fb.PayloadBytes + st.BroughtBytes + st.AppliedBytes
	r.ChangedBytes = int64(len(blocks)) * twosites.BlockBytes
	return nil
}

// handOver hands the journal over to A, under load.
func (b *failoverBench) handOver(ctx context.Context, r *FailoverRound) error {
	b.volume.Begin(ctx)
	if err := pause(ctx, b.o.slice()); err != nil {
		return err
	}
	parked, err := b.volume.Park(ctx, b.a)
	if err != nil {
		return err
	}
	defer parked.Close()
	b.volume.Pulse.Reset()
	cpu, held, done := b.cpu(), 0.0, make(chan error, 1)
	go func() {
		rep, err := b.b.HandOver(ctx, b.a)
		held = rep.HeldSeconds * 1000
		done <- err
	}()
	if err := b.volume.Broken(ctx); err != nil {
		return err
	}
	waited, err := parked.Pause(ctx)
	if err != nil {
		return err
	}
	seam, err := b.volume.ConnectHanded(ctx, b.a)
	if err == nil {
		err = b.volume.WriteFlushed(ctx)
	}
	if err = errors.Join(err, <-done); err != nil {
		return err
	}
	if acked := seam.Before.Acked(); seam.LSN < acked {
		return fail.New(fail.Damaged, "hand over", "volume "+volumeName, fmt.Sprintf("LSN %d was acknowledged, and it "+
			"goes on from %d", acked, seam.LSN))
	}
	r.ParkedMS = ms(waited)
	r.PauseMS, r.HeldMS, r.PauseCPUSeconds = ms(b.volume.Pulse.Longest()), held, b.cpu()-cpu
	return nil
}

// again waits until B is the standby that it was, which it becomes by itself.
func (b *failoverBench) again(ctx context.Context, _ *FailoverRound) error {
	_, err := b.caughtUp(ctx)
	return err
}

// cold loses the seat, and goes on at a host that has nothing.
func (b *failoverBench) cold(ctx context.Context, i int, r *FailoverRound) error {
	seat := b.a
	if i > 0 {
		seat = b.hosts[len(b.hosts)-1]
	}
	if err := b.lose(ctx, seat); err != nil {
		return err
	}
	h, err := b.host(fmt.Sprintf("c%d", i))
	if err != nil {
		return err
	}
	typed := time.Now()
	if err := h.StartCold(); err != nil {
		return err
	}
	_, err = b.served(ctx, h)
	r.ColdSeconds, r.ColdCPUSeconds = time.Since(typed).Seconds(), processCPU(h.Process().PID())
	return err
}
