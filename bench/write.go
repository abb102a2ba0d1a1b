package bench

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// WriteReport is the outcome of Write.
type WriteReport struct {
	Header
	MemoryBudgetBytes  int64      `json:"memory_budgets_bytes"` // all of the daemon's together
	InitialSyncSeconds float64    `json:"initial_sync_seconds"`
	Workloads          []Workload `json:"workloads"`
}

// Workload is one cell: medians over its rounds.
type Workload struct {
	Name            string   `json:"name"`
	ProtectedIOPS   float64  `json:"protected_iops"`
	UnprotectedIOPS float64  `json:"unprotected_iops"`
	Ratio           float64  `json:"ratio"`            // of the two, pair by pair
	RatioWithDrain  float64  `json:"ratio_with_drain"` // the time until the store held all counted as well
	NBDKitIOPS      *float64 `json:"nbdkit_iops"`      // null without nbdkit
	// UnprotectedOfNBDKit says whether the unprotected server is a fair
	// yardstick, and not merely a slow one.
	UnprotectedOfNBDKit *float64 `json:"unprotected_of_nbdkit"`
	BlockBytes          int      `json:"block_bytes"`
	Depth               int      `json:"depth"`
	FlushEvery          int      `json:"flush_every"`
	BacklogBytes        int64    `json:"backlog_bytes"` // not yet in the store when the slice ended
	DrainSeconds        float64  `json:"drain_seconds"`
	MovedBytes          int64    `json:"moved_bytes"`            // by the protected volume, all rounds
	ExceedsMemory       bool     `json:"exceeds_memory_budgets"` // MovedBytes does
	AgentCPUSecondsGiB  float64  `json:"agent_cpu_seconds_per_gib"`
	Rounds              []Round  `json:"rounds"`
}

// Round is one turn of each server.
type Round struct {
	UnprotectedIOPS    float64 `json:"unprotected_iops"`
	ProtectedIOPS      float64 `json:"protected_iops"`
	NBDKitIOPS         float64 `json:"nbdkit_iops"`
	Ratio              float64 `json:"ratio"`
	RatioWithDrain     float64 `json:"ratio_with_drain"`
	BacklogBytes       int64   `json:"backlog_bytes"`
	DrainSeconds       float64 `json:"drain_seconds"`
	ProtectedBytes     int64   `json:"protected_bytes"`
	AgentCPUSeconds    float64 `json:"agent_cpu_seconds"`  // slice and drain
	ClientCPUSeconds   float64 `json:"client_cpu_seconds"` // slice
	UnprotectedSeconds float64 `json:"unprotected_seconds"`
	ProtectedSeconds   float64 `json:"protected_seconds"`
}

// writeBench holds the three servers that take turns.
type writeBench struct {
	*session
	bare, kit *peer // kit may be nil
	agent     *agentProc
}

// extraRounds bounds the rounds of a workload, as a multiple of those asked for.
const extraRounds = 2

// Write compares a protected volume with an unprotected one.
func Write(ctx context.Context, o Options) (*WriteReport, error) {
	if err := o.complete(2); err != nil {
		return nil, err
	}
	s, err := newSession(ctx, &o, "write")
	if err != nil {
		return nil, err
	}
	defer s.close()
	s.head.Settings["seconds"], s.head.Settings["rounds"] = o.Seconds, o.Rounds
	s.head.Settings["request_rate"] = o.rate()
	b := &writeBench{session: s}
	rep := &WriteReport{MemoryBudgetBytes: o.memoryBudgets()}
	o.Say("starting the servers")
	defer func() { b.kit.kill() }()
	if b.kit, err = s.startNBDKit(ctx); err != nil {
		return nil, err
	}
	if b.bare, err = s.startUnprotected(ctx); err != nil {
		return nil, err
	}
	defer b.bare.kill()
	if b.agent, err = s.startAgent(ctx, "agent", o.RequestRate); err != nil {
		return nil, err
	}
	defer b.agent.kill()
	rep.InitialSyncSeconds = b.agent.syncTime.Seconds()
	if err := b.rest(ctx); err != nil {
		return nil, err
	}
	for _, c := range cells {
		if len(o.Only) > 0 && !slices.Contains(o.Only, c.name) {
			continue
		}
		w, err := b.cell(ctx, c, rep.MemoryBudgetBytes)
		if err != nil {
			return nil, err
		}
		rep.Workloads = append(rep.Workloads, *w)
	}
	rep.Header = s.finish()
	return rep, nil
}

func (b *writeBench) cell(ctx context.Context, c cell, budgets int64) (*Workload, error) {
	w := &Workload{Name: c.name, BlockBytes: c.bytes, Depth: c.depth, FlushEvery: c.flushEvery}
	// A slow workload gets more rounds, to move what it must.
	for i := 0; i < b.o.Rounds || (w.MovedBytes <= budgets && i < extraRounds*b.o.Rounds); i++ {
		r, err := b.round(ctx, c, i)
		if err != nil {
			return nil, err
		}
		w.Rounds = append(w.Rounds, *r)
		w.MovedBytes += r.ProtectedBytes
		b.o.Say(fmt.Sprintf("%s round %d: unprotected %.0f, protected %.0f (ratio %.2f, with drain %.2f), nbdkit %.0f",
			c.name, i+1, r.UnprotectedIOPS, r.ProtectedIOPS, r.Ratio, r.RatioWithDrain, r.NBDKitIOPS))
	}
	w.sum(b.kit != nil, budgets)
	if !w.ExceedsMemory {
		b.note(fmt.Sprintf("%s moved %s in all, less than the memory budgets of %s: give it more --seconds or --rounds",
			c.name, mib(w.MovedBytes), mib(budgets)))
	}
	return w, nil
}

// sum makes the workload's medians.
func (w *Workload) sum(kit bool, budgets int64) {
	med := func(f func(*Round) float64) float64 { return median(column(w.Rounds, f)) }
	w.ProtectedIOPS = med(func(r *Round) float64 { return r.ProtectedIOPS })
	w.UnprotectedIOPS = med(func(r *Round) float64 { return r.UnprotectedIOPS })
	w.Ratio = med(func(r *Round) float64 { return r.Ratio })
	w.RatioWithDrain = med(func(r *Round) float64 { return r.RatioWithDrain })
	w.BacklogBytes = int64(med(func(r *Round) float64 { return float64(r.BacklogBytes) }))
	w.DrainSeconds = med(func(r *Round) float64 { return r.DrainSeconds })
	if kit {
		iops := med(func(r *Round) float64 { return r.NBDKitIOPS })
		part := med(func(r *Round) float64 { return ratio(r.UnprotectedIOPS, r.NBDKitIOPS) })
		w.NBDKitIOPS, w.UnprotectedOfNBDKit = &iops, &part
	}
	cpu := 0.0
	w.MovedBytes = 0
	for _, r := range w.Rounds {
		w.MovedBytes += r.ProtectedBytes
		cpu += r.AgentCPUSeconds
	}
	w.AgentCPUSecondsGiB = ratio(cpu, float64(w.MovedBytes)/(1<<30))
	w.ExceedsMemory = w.MovedBytes > budgets
}

// round gives every server one slice of the same writes, one after the other.
func (b *writeBench) round(ctx context.Context, c cell, i int) (*Round, error) {
	load := func(uri string) (slice, error) {
		g := newGenerator(c, int64(b.o.Size), b.data, random(b.o.Seed, c.name, i))
		return runSlice(ctx, uri, g, b.o.slice())
	}
	r := &Round{}
	bare, err := load(b.bare.uri)
	if err != nil {
		return nil, err
	}
	b.settle()
	agentCPU, ownCPU := b.agent.cpuSeconds(), ownCPUSeconds()
	safe, err := load(b.agent.uri)
	if err != nil {
		return nil, err
	}
	r.ClientCPUSeconds = ownCPUSeconds() - ownCPU
	drainBegin := time.Now()
	_, g, err := b.agent.group(ctx)
	if err != nil {
		return nil, err
	}
	r.BacklogBytes = g.LagBytes
	if _, err := b.agent.drain(ctx); err != nil {
		return nil, err
	}
	drain := time.Since(drainBegin)
	r.AgentCPUSeconds = b.agent.cpuSeconds() - agentCPU
	if err := b.rest(ctx); err != nil {
		return nil, err
	}
	if b.kit != nil {
		kit, err := load(b.kit.uri)
		if err != nil {
			return nil, err
		}
		r.NBDKitIOPS = kit.iops()
		b.settle()
	}
	r.UnprotectedIOPS, r.ProtectedIOPS = bare.iops(), safe.iops()
	r.Ratio = ratio(r.ProtectedIOPS, r.UnprotectedIOPS)
	r.DrainSeconds = drain.Seconds()
	r.RatioWithDrain = ratio(float64(safe.writes)/(safe.elapsed+drain).Seconds(), r.UnprotectedIOPS)
	r.ProtectedBytes = safe.writes * int64(c.bytes)
	r.UnprotectedSeconds, r.ProtectedSeconds = bare.elapsed.Seconds(), safe.elapsed.Seconds()
	return r, nil
}

// rest waits until the agent has nothing left to do, so that it does not work
// in the time of another server's slice.
func (b *writeBench) rest(ctx context.Context) error {
	if err := b.agent.idle(ctx); err != nil {
		return err
	}
	b.settle()
	return nil
}
