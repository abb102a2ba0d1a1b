package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pollux-dr/pollux/bench/twosites"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/text"
)

// CircleReport is what a run of the circle found.
type CircleReport struct {
	Verified bool `json:"verified"`
	// RTOs are from the loss of a site, which is when the verb is typed, to the first flushed write
	// at the one that goes on: with a standby, and with nothing but the store.
	RTOWarmSeconds float64 `json:"rto_warm_seconds"`
	RTOColdSeconds float64 `json:"rto_cold_seconds"`
	// RPOSeconds is the age of the oldest write that was acknowledged under ack: local and lost with
	// the first site, RPOWrites how many there were; of ack: remote nothing flushed may be lost.
	RPOSeconds float64 `json:"rpo_seconds"`
	RPOWrites  uint64  `json:"rpo_writes"`
	// FailbackBytes of data were put back or brought, before compression, until the former seat
	// followed. ChangedBytes are the blocks of 4 KiB that either site had changed meanwhile.
	FailbackBytes int64 `json:"failback_bytes"`
	ChangedBytes  int64 `json:"changed_bytes"`
	// HandoverPauseMS is the longest time in which no request of a client under load succeeded, at
	// neither site; HandoverHeldMS is what the seat says of it.
	HandoverPauseMS float64 `json:"handover_pause_ms"`
	HandoverHeldMS  float64 `json:"handover_held_ms"`

	DivergentBytes  int64        `json:"divergent_bytes"` // saved as a branch
	FailbackSeconds float64      `json:"failback_seconds"`
	ColdRPOSeconds  float64      `json:"cold_rpo_seconds"`
	Lag             twosites.Lag `json:"lag_seconds"`
	Compared        int          `json:"compared"` // whole volumes, with the model
	Writes          uint64       `json:"writes"`
	Seconds         float64      `json:"seconds"`
	SizeBytes       int64        `json:"size_bytes"`
	Seed            uint64       `json:"seed"`
	Store           string       `json:"store"`
	FailureReason   string       `json:"failure,omitempty"`
}

// circle is a run under way.
type circle struct {
	Options
	a, b, c *twosites.Host
	data    *twosites.Volume // ack: local
	ledger  *twosites.Volume // ack: remote
	rep     CircleReport
	began   time.Time
	step    int

	durable uint64         // of data: the last LSN that was reported so before the first site was lost
	left    *twosites.Seam // where data went on at B, and what A had beyond
	kept    *twosites.Seam // the same of ledger
}

// maxFailbackRatio is what a failback may transfer, over what was changed.
const maxFailbackRatio = 1.1

// Circle plays the way of a journal from one site to another and back.
func Circle(ctx context.Context, o Options) (*CircleReport, error) {
	d := &circle{Options: o, began: time.Now()}
	d.rep = CircleReport{SizeBytes: o.SizeBytes, Seed: o.Seed, Store: o.Store}
	defer d.end()
	for _, act := range []func(context.Context) error{d.begin, d.lose, d.goOn, d.comeBack, d.failBack, d.handOver,
		d.close, d.cold} {
		err := act(ctx)
		if cerr := ctx.Err(); cerr != nil {
			return nil, cerr
		}
		if fail.Is(err, fail.Damaged) { // it is worth a report
			d.rep.FailureReason = fail.Explain(err)
			return &d.rep, nil
		}
		if err != nil {
			return nil, err
		}
	}
	d.rep.Verified, d.rep.Seconds = true, time.Since(d.began).Seconds()
	return &d.rep, nil
}

func (d *circle) end() {
	for _, h := range []*twosites.Host{d.a, d.b, d.c} {
		if h != nil {
			h.Kill()
		}
	}
	for _, v := range d.volumes() {
		if v != nil {
			v.Close()
		}
	}
}

func (d *circle) volumes() []*twosites.Volume { return []*twosites.Volume{d.data, d.ledger} }

// say tells of the next step.
func (d *circle) say(format string, args ...any) {
	d.step++
	fmt.Fprintf(d.Out, "%d. %s\n", d.step, fmt.Sprintf(format, args...))
}

// found tells of what a step has found.
func (d *circle) found(format string, args ...any) { fmt.Fprintf(d.Out, "   "+format+"\n", args...) }

func took(t time.Duration) string { return text.Duration(t) }

// begin starts site A, and a standby at site B.
func (d *circle) begin(ctx context.Context) (err error) {
	lab := d.lab()
	for _, h := range []struct {
		to         **twosites.Host
		name, site string
	}{{&d.a, "a", "site-a"}, {&d.b, "b", "site-b"}, {&d.c, "c", "site-c"}} {
		if *h.to, err = lab.Host(h.name, h.site); err != nil {
			return err
		}
	}
	d.say("Site A: an agent with two volumes of %s and %s behind NBD. The object store is at neither site:\n   %s",
		text.Bytes(d.SizeBytes), text.Bytes(ledgerBytes), d.Store)
	pool, tree, err := twosites.ReadPool()
	if err != nil {
		return err
	}
	d.found("contents from %s, seed %d", tree, d.Seed)
	d.data = &twosites.Volume{Name: "data", Group: "data", Model: twosites.NewModel(d.SizeBytes, d.Seed, pool),
		Load: twosites.DemoLoad(d.SizeBytes)}
	d.ledger = &twosites.Volume{Name: "ledger", Group: "ledger",
		Model: twosites.NewModel(ledgerBytes, d.Seed+1, pool),
		Load:  twosites.Load{Depth: 1, FlushEvery: 1, OpsPerSecond: 50}}
	if err := d.a.StartAgent(ctx); err != nil {
		return err
	}
	if err := d.data.Create(ctx, d.a, "local"); err != nil {
		return err
	}
	if err := d.ledger.Create(ctx, d.a, "remote"); err != nil {
		return err
	}
	if err := reached(ctx, d.a, d.Store); err != nil {
		return err
	}
	d.say("Site B: a standby follows.")
	return d.b.StartStandby(ctx)
}

// ledgerBytes is the size of the volume each write of which is flushed with ack: remote.
const ledgerBytes = 4 << 20

// part of the load's time.
func (d *circle) part(of float64) time.Duration { return time.Duration(of * float64(d.Load)) }

// lose loads site A, and loses it.
func (d *circle) lose(ctx context.Context) error {
	d.say("Load at A for %v: a file tree, then random overwrites, with flushes and trims; each write of the small\n"+
		"   volume is flushed, and has ack: remote.", d.part(0.4))
	watch := &twosites.Watch{Group: d.data.Group}
	watchCtx, stop := context.WithCancel(ctx)
	defer stop()
	watched := make(chan struct{})
	go func() { defer close(watched); watch.Run(watchCtx, d.a) }()
	begin := time.Now()
	d.ledger.Begin(ctx)
	if err := d.data.Writer().Pack(ctx, d.SizeBytes/2, begin.Add(d.part(0.15))); err != nil {
		return err
	}
	d.data.Begin(ctx)
	if err := pause(ctx, time.Until(begin.Add(d.part(0.4)))); err != nil {
		return err
	}
	for _, v := range d.volumes() {
		if _, err := d.b.Follows(ctx, v.Name, 1); err != nil {
			return err
		}
	}
	lost := time.Now()
	d.a.Kill()
	stop()
	<-watched
	for _, v := range d.volumes() {
		if err := v.Broken(ctx); err != nil {
			return err
		}
	}
	d.rep.Lag, d.durable, _ = watch.Result()
	d.say("Site A is lost: its agent was killed (SIGKILL) in mid-load. pollux failover --force at B.")
	return d.warm(ctx, lost)
}

// warm goes on at B.
func (d *circle) warm(ctx context.Context, lost time.Time) error {
	type outcome struct {
		rep *twosites.Failover
		err error
	}
	done := make(chan outcome, 1)
	go func() { rep, err := d.b.ForceFailover(ctx); done <- outcome{rep, err} }()
	var err error
	if d.left, err = d.data.Connect(ctx, d.b); err == nil {
		err = d.data.WriteFlushed(ctx)
	}
	d.rep.RTOWarmSeconds = time.Since(lost).Seconds()
	o := <-done
	if err = errors.Join(o.err, err); err != nil {
		return err
	}
	if d.kept, err = d.ledger.Connect(ctx, d.b); err != nil {
		return err
	}
	for _, v := range o.rep.Volumes {
		if !v.Warm {
			return fail.New(fail.Internal, "fail over", "volume "+v.Name, "it is not warm, and its standby followed")
		}
	}
	d.rep.RPOWrites, d.rep.RPOSeconds = d.left.Before.Loss(d.left.LSN, lost)
	d.found("a flushed write at B %s after the loss, epoch %d", took(time.Since(lost)), o.rep.Epoch)
	d.found("data   (ack: local)  goes on from LSN %d of %d acknowledged: %d writes lost, up to %s old", d.left.LSN,
		d.left.Before.Acked(), d.rep.RPOWrites, took(seconds(d.rep.RPOSeconds)))
	d.found("ledger (ack: remote) goes on from LSN %d; flushed were %d: nothing of that is lost", d.kept.LSN,
		d.ledger.Flushed)
	for _, x := range []struct {
		v     *twosites.Volume
		seam  *twosites.Seam
		least uint64
		what  string
	}{{d.data, d.left, d.durable, "was reported durable"}, {d.ledger, d.kept, d.ledger.Flushed, "was flushed"}} {
		if x.seam.LSN < x.least || o.rep.LSN(x.v.Group) != x.seam.LSN {
			return wrong("go on with", "volume "+x.v.Name, "LSN %d %s, the report says that it goes on from %d, "+
				"and it does from %d", x.least, x.what, o.rep.LSN(x.v.Group), x.seam.LSN)
		}
	}
	return d.verifyServed(ctx, "all that B serves")
}

// wrong is of what does not hold.
func wrong(op, object, format string, args ...any) error {
	return fail.New(fail.Damaged, op, object, fmt.Sprintf(format, args...))
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// verifyServed compares what is served with the models. Nothing may be on its way.
func (d *circle) verifyServed(ctx context.Context, what string) error {
	for _, v := range d.volumes() {
		if err := v.Verify(ctx); err != nil {
			return err
		}
		d.rep.Compared++
	}
	d.found("equal to the model, byte by byte: %s", what)
	return nil
}

// loadAt writes for a while and compares what is served, and what the store alone gives.
func (d *circle) loadAt(ctx context.Context, h *twosites.Host, name string, long time.Duration) error {
	for _, v := range d.volumes() {
		v.Begin(ctx)
	}
	perr := pause(ctx, long)
	for _, v := range d.volumes() {
		perr = errors.Join(perr, v.Pause(ctx))
	}
	if perr != nil {
		return perr
	}
	for _, v := range d.volumes() {
		if err := h.Drained(ctx, v.Group); err != nil {
			return err
		}
	}
	if err := d.verifyServed(ctx, "all that "+name+" serves"); err != nil {
		return err
	}
	for _, v := range d.volumes() {
		if err := v.VerifyRestore(ctx, h); err != nil {
			return err
		}
		d.rep.Compared++
	}
	d.found("equal to the model, byte by byte: what the store alone gives")
	return nil
}

func pause(ctx context.Context, long time.Duration) error {
	select {
	case <-time.After(long):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// goOn writes at B.
func (d *circle) goOn(ctx context.Context) error {
	d.say("Load at B for %v.", d.part(0.25))
	return d.loadAt(ctx, d.b, "B", d.part(0.25))
}
