package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/pollux-dr/pollux/bench/twosites"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/faultproxy"
)

// FailoverReport is the outcome of Failover: medians of its rounds.
type FailoverReport struct {
	Header
	SizeBytes    int64 `json:"size_bytes"`
	WrittenBytes int64 `json:"written_bytes"` // to the volume of zeros, before the rounds
	// WarmSeconds and ColdSeconds are from the verb to the first flushed write at the new site: with
	// a standby that follows, and with nothing but the store.
	WarmSeconds float64 `json:"rto_warm_seconds"`
	ColdSeconds float64 `json:"rto_cold_seconds"`
	// PauseMS is the longest time without an answer for a client under load that goes to the new site
	// when the old one refuses it, in a hand-over in order; HeldMS is what the former seat says.
	PauseMS float64 `json:"handover_pause_ms"`
	HeldMS  float64 `json:"handover_held_ms"`
	// FailbackRatio is what a former seat needed, in bytes of data, over the blocks that were changed
	// at either site.
	FailbackRatio   float64 `json:"failback_ratio"`
	WarmCPUSeconds  float64 `json:"warm_cpu_seconds"` // see FailoverRound
	PauseCPUSeconds float64 `json:"handover_cpu_seconds"`
	ColdCPUSeconds  float64 `json:"cold_cpu_seconds"`
	FailbackSeconds float64 `json:"failback_seconds"`
	// RTTMS is what each request to the store waits longer in the rounds, and PauseRoundTrips is the
	// pause in those.
	RTTMS           float64         `json:"rtt_ms,omitempty"`
	PauseRoundTrips float64         `json:"handover_pause_round_trips,omitempty"`
	Standby         []StandbyRate   `json:"standby"`
	Rounds          []FailoverRound `json:"rounds"`
}

// FailoverRound is the way to the other site and back, and a cold failover.
type FailoverRound struct {
	WarmSeconds     float64 `json:"rto_warm_seconds"`
	ColdSeconds     float64 `json:"rto_cold_seconds"`
	PauseMS         float64 `json:"handover_pause_ms"`
	HeldMS          float64 `json:"handover_held_ms"`
	WarmCPUSeconds  float64 `json:"warm_cpu_seconds"` // of all sites' processes, the load included
	PauseCPUSeconds float64 `json:"handover_cpu_seconds"`
	ColdCPUSeconds  float64 `json:"cold_cpu_seconds"`
	FailbackBytes   int64   `json:"failback_bytes"`
	ChangedBytes    int64   `json:"changed_bytes"`
	FailbackSeconds float64 `json:"failback_seconds"`
}

// StandbyRate is how a standby keeps up with a load.
type StandbyRate struct {
	Name         string `json:"name"`
	WrittenBytes int64  `json:"written_bytes"`
	// PrimaryMBPerSecond is written until the store holds all, StandbyMBPerSecond until the standby
	// has applied all.
	PrimaryMBPerSecond float64 `json:"primary_mb_per_s"`
	StandbyMBPerSecond float64 `json:"standby_mb_per_s"`
	BehindSeconds      float64 `json:"behind_seconds"` // of the standby, when the store held all
	CPUSecondsGiB      float64 `json:"standby_cpu_seconds_per_gib"`
	PrimaryCPUGiB      float64 `json:"primary_cpu_seconds_per_gib"`
}

const (
	defaultFailoverSize   = 10 << 30
	defaultFailoverWrites = 64 << 10
	maxRTT                = 10 * time.Second
)

// failoverCells are the loads under which a standby has to keep up.
var failoverCells = []cell{
	{name: "rand4k-qd16-flush32", bytes: blockBytes, depth: 16, flushEvery: 32},
	{name: "seq1m-flush16", bytes: segmentBytes, depth: 4, flushEvery: 16, sequential: true},
}

// failoverLoad is what is written while a journal moves.
var failoverLoad = twosites.Load{Depth: 16, FlushEvery: 32, OpsPerSecond: 1000}

// failoverBench are the sites of a run.
type failoverBench struct {
	*session
	lab    *twosites.Lab
	proxy  *faultproxy.Proxy
	rtt    time.Duration
	a, b   *twosites.Host // of them a is the seat at the beginning and the end of a round
	hosts  []*twosites.Host
	volume *twosites.Volume
	rep    *FailoverReport
}

// Failover moves a journal between two sites and back, round after round, and measures for how long
// its volume is not served; and what following costs.
func Failover(ctx context.Context, o Options, rtt time.Duration) (*FailoverReport, error) {
	if o.Size == 0 {
		o.Size = defaultFailoverSize
	}
	if err := o.complete(3); err != nil {
		return nil, err
	}
	if o.Writes == 0 {
		o.Writes = defaultFailoverWrites
	}
	if rtt < 0 || rtt > maxRTT {
		return nil, fail.New(fail.Invalid, "benchmark", "--rtt", fmt.Sprintf("%v: 0 to %v", rtt, maxRTT))
	}
	s, err := newSession(ctx, &o, "failover")
	if err != nil {
		return nil, err
	}
	defer s.close()
	s.head.Settings["seconds"], s.head.Settings["rounds"] = o.Seconds, o.Rounds
	b := &failoverBench{session: s, rtt: rtt, rep: &FailoverReport{SizeBytes: int64(o.Size),
		WrittenBytes: o.Writes * blockBytes, RTTMS: ms(rtt)}}
	defer b.end()
	if err := b.prepare(ctx); err != nil {
		return nil, err
	}
	for _, c := range failoverCells {
		if err := b.keepUp(ctx, c); err != nil {
			return nil, err
		}
	}
	if err := b.rounds(ctx); err != nil {
		return nil, err
	}
	b.rep.sum()
	b.rep.Header = s.finish()
	return b.rep, nil
}

func (b *failoverBench) end() {
	for _, h := range b.hosts {
		h.Kill()
	}
	if b.volume != nil {
		b.volume.Close()
	}
	if b.proxy != nil {
		_ = b.proxy.Close()
	}
}

// host makes one more.
func (b *failoverBench) host(name string) (*twosites.Host, error) {
	h, err := b.lab.Host(name, "site-"+name)
	if err == nil {
		b.hosts = append(b.hosts, h)
	}
	return h, err
}

// prepare starts both sites with a volume that has some data.
func (b *failoverBench) prepare(ctx context.Context) (err error) {
	if b.rtt > 0 {
		if b.server == nil {
			return fail.New(fail.Unsupported, "benchmark", "--rtt", "it needs the S3 server that is built in a source "+
				"checkout, without --store")
		}
		b.proxy, err = faultproxy.NewHTTP(strings.TrimPrefix(b.sopts.Endpoint, "http://"), b.o.Seed)
		if err != nil {
			return fail.Wrap(fail.Internal, "start", "proxy", err)
		}
		b.sopts.Endpoint = "http://" + b.proxy.Addr()
	}
	b.lab = &twosites.Lab{Program: b.o.Program, Dir: filepath.Join(b.dir, "sites"), Runtime: b.tmpfs,
		Store: b.prefix("circle"), Target: b.settingsYAML("      "), Memory: fmt.Sprintf("%dB", int64(b.o.Memory)),
		More: "log:\n  level: warn\n"}
	if b.a, err = b.host("a"); err != nil {
		return err
	}
	if b.b, err = b.host("b"); err != nil {
		return err
	}
	b.o.Say(fmt.Sprintf("site A: a volume of %s, of which %s are written; site B: its standby", mib(int64(b.o.Size)),
		mib(b.rep.WrittenBytes)))
	if err := b.a.StartAgent(ctx); err != nil {
		return err
	}
	model := twosites.NewModel(int64(b.o.Size), b.o.Seed, b.data.data)
	b.volume = &twosites.Volume{Name: volumeName, Group: groupName, Model: model, Load: failoverLoad}
	if err := b.volume.Create(ctx, b.a, "local"); err != nil {
		return err
	}
	if err := b.b.StartStandby(ctx); err != nil {
		return err
	}
	uri := b.a.URI(volumeName)
	if err := b.overwrite(ctx, uri, b.o.Writes); err != nil {
		return err
	}
	_, err = b.caughtUp(ctx)
	return err
}

// caughtUp waits until the standby at B has all, and returns its status and when the store had it.
func (b *failoverBench) caughtUp(ctx context.Context) (durable time.Time, err error) {
	if err := b.a.Drained(ctx, groupName); err != nil {
		return durable, err
	}
	durable = time.Now()
	g, err := b.a.Group(ctx, groupName)
	if err == nil {
		_, err = b.b.Follows(ctx, volumeName, g.LastLSN)
	}
	return durable, err
}

// keepUp loads A as fast as it takes it, and sees when the standby has it.
func (b *failoverBench) keepUp(ctx context.Context, c cell) error {
	b.settle()
	cpuA, cpuB := processCPU(b.a.Process().PID()), processCPU(b.b.Process().PID())
	g := newGenerator(c, int64(b.o.Size), b.data, random(b.o.Seed, c.name, 0))
	begin := time.Now()
	r, err := runSlice(ctx, b.a.URI(volumeName), g, b.o.slice())
	if err != nil {
		return err
	}
	durable, err := b.caughtUp(ctx)
	if err != nil {
		return err
	}
	applied := time.Now()
	n := r.writes * int64(c.bytes)
	gib := float64(n) / (1 << 30)
	out := StandbyRate{Name: c.name, WrittenBytes: n, BehindSeconds: applied.Sub(durable).Seconds(),
		PrimaryMBPerSecond: ratio(float64(n)/1e6, durable.Sub(begin).Seconds()),
		StandbyMBPerSecond: ratio(float64(n)/1e6, applied.Sub(begin).Seconds()),
		CPUSecondsGiB:      ratio(processCPU(b.b.Process().PID())-cpuB, gib),
		PrimaryCPUGiB:      ratio(processCPU(b.a.Process().PID())-cpuA, gib)}
	b.rep.Standby = append(b.rep.Standby, out)
	b.o.Say(fmt.Sprintf("%s: primary %.1f MB/s, standby %.1f MB/s, %.1f CPU-s per GiB applied", c.name,
		out.PrimaryMBPerSecond, out.StandbyMBPerSecond, out.CPUSecondsGiB))
	return nil
}

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
	r.PauseMS, r.HeldMS, r.PauseCPUSeconds = ms(b.volume.Pulse.Longest()), held, b.cpu()-cpu
	return nil
}

// again makes B the standby that it was.
func (b *failoverBench) again(ctx context.Context, _ *FailoverRound) error {
	if err := b.b.Stop(); err != nil {
		return err
	}
	if _, err := b.b.Failback(ctx); err != nil {
		return err
	}
	if err := b.b.StartStandby(ctx); err != nil {
		return err
	}
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
