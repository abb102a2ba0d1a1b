package bench

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbdclient"
)

// LagReport is the outcome of Lag.
type LagReport struct {
	Header
	LagMS        Dist     `json:"lag_ms"`   // unlimited store requests
	FloorMS      Floor    `json:"floor_ms"` // bare PUTs of the same sizes
	Ratio        LagRatio `json:"ratio"`    // of the two
	DefaultLagMS Dist     `json:"default_lag_ms"`
	Unlimited    LagRun   `json:"unlimited"`
	Default      LagRun   `json:"default"`
	// Voters is the same with a journal of several members in processes of their own.
	Voters *LagVoters `json:"voters,omitempty"`
}

// LagVoters compares a journal of several voters with the embedded one.
type LagVoters struct {
	Voters int      `json:"voters"`
	LagMS  Dist     `json:"lag_ms"`
	Ratio  LagRatio `json:"ratio"` // over lag_ms of one
	Run    LagRun   `json:"run"`
}

// LagRatio compares the lag with the floor.
type LagRatio struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

// LagRun is what one run did and how exactly it was seen.
type LagRun struct {
	Writes          int     `json:"writes"`
	WritesPerSecond float64 `json:"writes_per_second"`
	AckMS           Dist    `json:"ack_ms"`
	FlushMS         Dist    `json:"flush_ms"`
	Objects         int     `json:"objects"`
	ObjectBytesP50  float64 `json:"object_bytes_p50"`
	ObjectBytesP99  float64 `json:"object_bytes_p99"`
	AgentCPUPercent float64 `json:"agent_cpu_percent"` // of one CPU
}

const (
	lagRate       = 5000 // writes per second
	lagFlushEvery = 32
)

// Lag measures how far the store is behind acknowledged writes.
func Lag(ctx context.Context, o Options) (*LagReport, error) {
	if err := o.complete(30); err != nil {
		return nil, err
	}
	s, err := newSession(ctx, &o, "lag")
	if err != nil {
		return nil, err
	}
	defer s.close()
	s.head.Settings["seconds"] = o.Seconds
	s.head.Settings["writes_per_second"], s.head.Settings["flush_every"] = lagRate, lagFlushEvery
	rep := &LagReport{}
	var sizes []int64
	if rep.LagMS, sizes, err = s.lagRun(ctx, "agent-unlimited", 0, &rep.Unlimited); err != nil {
		return nil, err
	}
	o.Say("measuring the floor: bare PUTs of the same sizes")
	if rep.FloorMS, err = s.floor(ctx, sizes); err != nil {
		return nil, err
	}
	rep.Ratio = LagRatio{P50: ratio(rep.LagMS.P50, rep.FloorMS.P50), P99: ratio(rep.LagMS.P99, rep.FloorMS.P99)}
	if rep.DefaultLagMS, _, err = s.lagRun(ctx, "agent-default", -1, &rep.Default); err != nil {
		return nil, err
	}
	if o.Voters > 0 {
		if rep.Voters, err = s.lagVoters(ctx, o.Voters, &rep.LagMS); err != nil {
			return nil, err
		}
	}
	rep.Header = s.finish()
	return rep, nil
}

func (s *session) lagVoters(ctx context.Context, n int, one *Dist) (*LagVoters, error) {
	if n < 1 || n > maxVoters {
		return nil, fail.New(fail.Invalid, "measure", "lag", fmt.Sprintf("%d voters: 1 to %d", n, maxVoters))
	}
	name := fmt.Sprintf("agent-%d-voters", n)
	s.o.Say(fmt.Sprintf("starting a journal of %d voters", n))
	v, err := s.startVoters(ctx, name, n, 0)
	if err != nil {
		return nil, err
	}
	defer v.stop()
	s.journal = v
	defer func() { s.journal = nil }()
	out := &LagVoters{Voters: n}
	if out.LagMS, _, err = s.lagRun(ctx, name, 0, &out.Run); err != nil {
		return nil, err
	}
	out.Ratio = LagRatio{P50: ratio(out.LagMS.P50, one.P50), P99: ratio(out.LagMS.P99, one.P99)}
	return out, nil
}

// lagRun runs an agent under the paced load. It returns the sizes of the objects
// that the load created; the agent has ended by then.
func (s *session) lagRun(ctx context.Context, name string, rate float64, run *LagRun) (Dist, []int64, error) {
	s.o.Say("starting " + name)
	a, err := s.startAgent(ctx, name, rate)
	if err != nil {
		return Dist{}, nil, err
	}
	defer a.kill()
	if err := a.idle(ctx); err != nil {
		return Dist{}, nil, err
	}
	s.settle()
	before, err := s.objectSizes(ctx, a.store, "")
	if err != nil {
		return Dist{}, nil, err
	}
	if rate < 0 { // the initial sync has used up part of the burst; let it come back
		if err := pause(ctx, refill); err != nil {
			return Dist{}, nil, err
		}
	}
	_, g, err := a.group(ctx)
	if err != nil {
		return Dist{}, nil, err
	}
	p, err := newPoller(a.socket, g.Name)
	if err != nil {
		return Dist{}, nil, err
	}
	defer p.close()
	s.o.Say(fmt.Sprintf("%s: %d writes per second for %g s", name, lagRate, s.o.Seconds))
	cpu, begin := a.cpuSeconds(), time.Now()
	acks, base, err := s.pacedLoad(ctx, a, p, run)
	if err != nil {
		return Dist{}, nil, err
	}
	run.AgentCPUPercent = 100 * (a.cpuSeconds() - cpu) / time.Since(begin).Seconds()
	a.stop(drainTimeout)
	all, err := s.objectSizes(ctx, a.store, "")
	if err != nil {
		return Dist{}, nil, err
	}
	sizes := all[len(before):]
	d := distribution(lags(base, acks, p.samples))
	run.Objects = len(sizes)
	run.ObjectBytesP50, run.ObjectBytesP99 = sizePercentiles(sizes)
	s.o.Say(fmt.Sprintf("%s: lag p50 %.2f ms, p99 %.2f ms, max %.2f ms in %d objects", name, d.P50, d.P99, d.Max,
		len(sizes)))
	return d, sizes, nil
}

// refill is the time in which an agent's default budget is whole again.
const refill = 10 * time.Second

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// pacedLoad writes at the fixed rate, one write at a time on one connection, so
// that the n-th write has the n-th LSN. It returns when all is durable in the
// store.
func (s *session) pacedLoad(ctx context.Context, a *agentProc, p *poller, run *LagRun) (
	acks []time.Time, base uint64, err error) {
	_, g, err := a.group(ctx)
	if err != nil {
		return nil, 0, err
	}
	base = g.LastLSN
	var end atomic.Uint64
	eg, ectx := errgroup.WithContext(ctx)
	eg.Go(func() error {
		return p.run(ectx, func() (uint64, bool) { v := end.Load(); return v, v > 0 })
	})
	eg.Go(func() error {
		var err error
		acks, err = s.paced(ectx, a.uri, run)
		end.Store(base + uint64(len(acks)))
		return err
	})
	if err := eg.Wait(); err != nil {
		return nil, 0, err
	}
	if _, g, err = a.group(ctx); err != nil {
		return nil, 0, err
	}
	if g.LastLSN != base+uint64(len(acks)) {
		return nil, 0, fail.New(fail.Internal, "measure", "lag",
			fmt.Sprintf("%d writes took the LSN from %d to %d", len(acks), base, g.LastLSN))
	}
	return acks, base, nil
}

// paced does the writing. A write that is late is sent at once, and so are those
// that it held up.
func (s *session) paced(ctx context.Context, uri string, run *LagRun) ([]time.Time, error) {
	conn, err := nbdclient.Dial(ctx, uri, nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	c := cell{bytes: blockBytes, flushEvery: lagFlushEvery}
	g := newGenerator(c, int64(s.o.Size), s.data, random(s.o.Seed, "lag", 0))
	n := max(int(s.o.Seconds*lagRate), lagFlushEvery)
	acks := make([]time.Time, 0, n)
	var ackMS, flushMS []float64
	free := context.WithoutCancel(ctx) // a request under a context costs more; the loop looks at it
	start := time.Now()
	for i := range n {
		if i%lagFlushEvery == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / lagRate)))
		begin := time.Now()
		off, data := g.write()
		if err := conn.WriteAt(free, data, off, 0); err != nil {
			return nil, err
		}
		now := time.Now()
		acks = append(acks, now)
		ackMS = append(ackMS, ms(now.Sub(begin)))
		if (i+1)%lagFlushEvery == 0 {
			if err := conn.Flush(free); err != nil {
				return nil, err
			}
			flushMS = append(flushMS, ms(time.Since(now)))
		}
	}
	run.Writes, run.WritesPerSecond = n, float64(n)/time.Since(start).Seconds()
	run.AckMS, run.FlushMS = distribution(ackMS), distribution(flushMS)
	return acks, nil
}
