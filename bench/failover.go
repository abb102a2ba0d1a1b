package bench

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/pollux-dr/pollux/bench/twosites"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/faultproxy"
	"github.com/pollux-dr/pollux/internal/nbdclient"
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
	// ParkedMS is from the last answer at the old site to the first one of a client that was parked at the
	// new one.
	ParkedMS float64 `json:"handover_parked_ms"`
	// FailbackRatio is what a former seat needed, in bytes of data, over the blocks that were changed
	// at either site.
	FailbackRatio   float64 `json:"failback_ratio"`
	WarmCPUSeconds  float64 `json:"warm_cpu_seconds"` // see FailoverRound
	PauseCPUSeconds float64 `json:"handover_cpu_seconds"`
	ColdCPUSeconds  float64 `json:"cold_cpu_seconds"`
	FailbackSeconds float64 `json:"failback_seconds"`
	// RTTMS is what each request of site B to the store waits longer in the rounds, and ParkedBeyondMS what
	// of ParkedMS is more than two of those.
	RTTMS          float64         `json:"rtt_ms,omitempty"`
	ParkedBeyondMS float64         `json:"handover_parked_beyond_two_round_trips_ms"`
	Standby        []StandbyRate   `json:"standby"`
	Rounds         []FailoverRound `json:"rounds"`
}

// FailoverRound is the way to the other site and back, and a cold failover.
type FailoverRound struct {
	WarmSeconds     float64 `json:"rto_warm_seconds"`
	ColdSeconds     float64 `json:"rto_cold_seconds"`
	PauseMS         float64 `json:"handover_pause_ms"`
	HeldMS          float64 `json:"handover_held_ms"`
	ParkedMS        float64 `json:"handover_parked_ms"`
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
	defaultFailoverWrites = 4096
	maxRTT                = 10 * time.Second
)

// failoverFill is what the volume has before.
var failoverFill = cell{bytes: 64 << 10, depth: 16, flushEvery: 64}

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
		WrittenBytes: o.Writes * int64(failoverFill.bytes), RTTMS: ms(rtt)}}
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
	return b.hostAt(name, b.lab.Target)
}

// hostAt is host with a way to the store of its own.
func (b *failoverBench) hostAt(name, target string) (*twosites.Host, error) {
	h, err := b.lab.HostAt(name, "site-"+name, b.lab.Store, target)
	if err == nil {
		b.hosts = append(b.hosts, h)
	}
	return h, err
}

// far makes one whose way to the store is as long as --rtt says.
func (b *failoverBench) far(name string) (*twosites.Host, error) {
	if b.proxy == nil {
		return b.host(name)
	}
	near := b.sopts.Endpoint
	b.sopts.Endpoint = "http://" + b.proxy.Addr()
	target := b.settingsYAML("      ")
	b.sopts.Endpoint = near
	return b.hostAt(name, target)
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
	}
	b.lab = &twosites.Lab{Program: b.o.Program, Dir: filepath.Join(b.dir, "sites"), Runtime: b.tmpfs,
		Store: b.prefix("circle"), Target: b.settingsYAML("      "), Memory: fmt.Sprintf("%dB", int64(b.o.Memory)),
		More: "log:\n  level: warn\nstandby:\n  park: true\n"}
	if b.a, err = b.host("a"); err != nil {
		return err
	}
	if b.b, err = b.far("b"); err != nil {
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
	if err := b.fill(ctx); err != nil {
		return err
	}
	_, err = b.caughtUp(ctx)
	return err
}

// fill writes the volume's data.
func (b *failoverBench) fill(ctx context.Context) error {
	conn, err := nbdclient.Dial(ctx, b.a.URI(volumeName), nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	g := newGenerator(failoverFill, int64(b.o.Size), b.data, random(b.o.Seed, "fill", 0))
	_, err = runWrites(ctx, conn, g, b.o.Writes)
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
