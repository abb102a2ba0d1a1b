package demo

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/bench/twosites"
	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbdclient"
	"github.com/pollux-dr/pollux/internal/text"
)

// comeBack starts the agent of the lost site: it finds out that it is no seat any more.
func (d *circle) comeBack(ctx context.Context) error {
	d.say("Site A is back, and its agent starts.")
	if err := d.a.StartAgent(ctx); err != nil {
		return err
	}
	var st *api.Status
	err := d.a.Until(ctx, time.Minute, "A knows that it is superseded", func() (err error) {
		if st, err = d.a.Status(ctx); err != nil {
			return err
		}
		if s := st.Journal.Superseded; s == nil || s.Branch == 0 {
			return fmt.Errorf("%+v", st.Journal)
		}
		return nil
	})
	if err != nil {
		return err
	}
	ends := map[uint64]bool{}
	for _, p := range st.Journal.Superseded.Streams {
		ends[p.LSN] = true
	}
	if !ends[d.left.LSN] || !ends[d.kept.LSN] {
		return wrong("ask", "host A", "the common history ends at LSN %d and %d, and it says %+v",
			d.left.LSN, d.kept.LSN, st.Journal.Superseded.Streams)
	}
	for _, g := range st.Groups {
		d.found("group %s: %s: %s", g.Name, g.State, g.Reason)
	}
	if c, err := nbdclient.Dial(ctx, d.a.URI(d.data.Name), nil); err == nil {
		_ = c.Close()
		return fail.New(fail.Damaged, "connect to", "host A", "it serves, and is superseded")
	}
	return d.a.Stop()
}

// failBack makes A a standby.
func (d *circle) failBack(ctx context.Context) error {
	d.say("pollux failback at A: what only A has is saved as a branch, and put back; then A follows as a standby.")
	began := time.Now()
	fb, err := d.a.Failback(ctx)
	if err != nil {
		return err
	}
	d.rep.DivergentBytes = fb.DivergentBytes
	seams := map[string]*twosites.Seam{d.data.Group: d.left, d.ledger.Group: d.kept}
	changed := int64(0)
	last := map[string]uint64{}
	for _, v := range d.volumes() {
		blocks, seam := map[int64]bool{}, seams[v.Group]
		for _, g := range fb.Groups {
			if g.Name != v.Group {
				continue
			}
			last[v.Group] = g.LastLSN
			acked, sent := seam.Before.Acked(), seam.Before.Sent()
			if g.PointLSN != seam.LSN || g.LastLSN < acked || g.LastLSN > sent || g.Compare {
				return wrong("fail back", "group "+g.Name, "it says LSN %d to %d; what only A has is behind LSN %d, "+
					"%d acknowledged and %d sent", g.PointLSN, g.LastLSN, seam.LSN, acked, sent)
			}
			seam.Before.Changed(seam.LSN, g.LastLSN, blocks)
		}
		v.Model.Changed(seam.LSN, v.Model.Sent(), blocks)
		changed += int64(len(blocks)) * twosites.BlockBytes
	}
	if err := d.a.StartStandby(ctx); err != nil {
		return err
	}
	var st *api.StandbyStatus
	for _, v := range d.volumes() {
		if st, err = d.a.Follows(ctx, v.Name, v.Model.Sent()); err != nil {
			return err
		}
	}
	d.rep.FailbackSeconds = time.Since(began).Seconds()
	d.rep.FailbackBytes, d.rep.ChangedBytes = fb.PayloadBytes+st.BroughtBytes+st.AppliedBytes, changed
	d.found("branch %s has %s that never left A; A follows %s after the verb", fb.Branch, text.Bytes(fb.DivergentBytes),
		took(time.Since(began)))
	d.found("%s were transferred (%s put back), %s were changed at either site", text.Bytes(d.rep.FailbackBytes),
		text.Bytes(fb.PayloadBytes), text.Bytes(changed))
	for _, v := range d.volumes() {
		if err := v.Model.CompareFile(ctx, d.a.Image(v.Name), v.Model.Sent()); err != nil {
			return err
		}
		d.rep.Compared++
		if last[v.Group] == seams[v.Group].LSN { // the branch has nothing of it
			continue
		}
		if err := v.VerifyBranch(ctx, d.a, fb.Branch, seams[v.Group].Before, last[v.Group]); err != nil {
			return err
		}
		d.rep.Compared++
	}
	d.found("equal to the model, byte by byte: the images of A, and the branch, as A had it last")
	if float64(d.rep.FailbackBytes) > maxFailbackRatio*float64(changed) {
		return wrong("fail back", "to A", "%d bytes were transferred, and %d changed",
			d.rep.FailbackBytes, changed)
	}
	return nil
}

// handOver hands the journal over to A, under load.
func (d *circle) handOver(ctx context.Context) error {
	d.say("pollux failover --planned --to %s at B, under load.", d.a.Site)
	for _, v := range d.volumes() {
		v.Begin(ctx)
	}
	if err := pause(ctx, d.part(0.05)); err != nil {
		return err
	}
	d.data.Pulse.Reset()
	type outcome struct {
		rep *api.HandOverReport
		err error
	}
	done := make(chan outcome, 1)
	go func() { rep, err := d.b.HandOver(ctx, d.a); done <- outcome{rep, err} }()
	if err := d.moved(ctx, d.data, d.a); err != nil {
		return err
	}
	d.rep.HandoverPauseMS = float64(d.data.Pulse.Longest()) / float64(time.Millisecond)
	if err := d.moved(ctx, d.ledger, d.a); err != nil {
		return err
	}
	o := <-done
	if o.err != nil {
		return o.err
	}
	d.rep.HandoverHeldMS = o.rep.HeldSeconds * 1000
	d.found("a client under load, which tries A when B refuses it, had no answer for %.0f ms; B held its I/O "+
		"for %.0f ms", d.rep.HandoverPauseMS, d.rep.HandoverHeldMS)
	d.found("nothing that was acknowledged is lost")
	d.say("Load at A for %v.", d.part(0.2))
	return d.loadAt(ctx, d.a, "A", d.part(0.2))
}

// moved connects a volume under load at the host that its journal was handed over to, and writes there.
func (d *circle) moved(ctx context.Context, v *twosites.Volume, to *twosites.Host) error {
	if err := v.Broken(ctx); err != nil {
		return err
	}
	seam, err := v.ConnectHanded(ctx, to)
	if err != nil {
		return err
	}
	if acked := seam.Before.Acked(); seam.LSN < acked {
		return wrong("hand over", "volume "+v.Name, "LSN %d was acknowledged, and it goes on from %d", acked, seam.LSN)
	}
	return v.WriteFlushed(ctx)
}

// close makes B the standby again.
func (d *circle) close(ctx context.Context) error {
	d.say("B has nothing of its own, and follows by itself, as in the beginning.")
	for _, v := range d.volumes() {
		if _, err := d.b.Follows(ctx, v.Name, v.Model.Sent()); err != nil {
			return err
		}
		if err := v.Model.CompareFile(ctx, d.b.Image(v.Name), v.Model.Sent()); err != nil {
			return err
		}
		d.rep.Compared++
	}
	d.found("equal to the model, byte by byte: the images of B")
	return nil
}

// cold loses A again, and goes on at a host that has nothing.
func (d *circle) cold(ctx context.Context) error {
	for _, v := range d.volumes() {
		v.Begin(ctx)
	}
	if err := pause(ctx, d.part(0.05)); err != nil {
		return err
	}
	lost := time.Now()
	d.a.Kill()
	d.say("Both sites are lost under load. pollux failover --force --serve at a fresh host C, from the store alone.")
	d.b.Kill()
	for _, v := range d.volumes() {
		if err := v.Broken(ctx); err != nil {
			return err
		}
	}
	typed := time.Now()
	if err := d.c.StartCold(); err != nil {
		return err
	}
	seam, err := d.data.Connect(ctx, d.c)
	if err == nil {
		err = d.data.WriteFlushed(ctx)
	}
	if err != nil {
		return err
	}
	d.rep.RTOColdSeconds = time.Since(typed).Seconds()
	writes, old := seam.Before.Loss(seam.LSN, lost)
	d.rep.ColdRPOSeconds = old
	d.found("a flushed write at C %s after the verb, while the volume is filled; %d writes lost, up to %s old",
		took(seconds(d.rep.RTOColdSeconds)), writes, took(seconds(old)))
	if seam, err = d.ledger.Connect(ctx, d.c); err != nil {
		return err
	}
	if seam.LSN < d.ledger.Flushed {
		return wrong("go on with", "volume ledger", "LSN %d was flushed, and it goes on from %d",
			d.ledger.Flushed, seam.LSN)
	}
	if err := d.verifyServed(ctx, "all that C serves"); err != nil {
		return err
	}
	for _, v := range d.volumes() {
		d.rep.Writes += v.Model.Writes()
	}
	return d.loadAt(ctx, d.c, "C", d.part(0.05))
}

func circleReport(c *cobra.Command, f *flags, r *CircleReport) error {
	if f.json {
		if err := cli.PrintJSON(c.OutOrStdout(), r); err != nil {
			return err
		}
	} else {
		r.print(c.OutOrStdout())
	}
	return verdict(r.Verified, r.FailureReason, r.Seed)
}

func (r *CircleReport) print(w io.Writer) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %s%s%s\n", name, strings.Repeat(" ", 14-len(name)), fmt.Sprintf(format, args...))
	}
	fmt.Fprintln(w)
	line("lag", "p50 %s, p99 %s", took(seconds(r.Lag.P50)), took(seconds(r.Lag.P99)))
	line("actual RPO", "%d writes, %s (ack: local); none (ack: remote)", r.RPOWrites, took(seconds(r.RPOSeconds)))
	line("RTO", "warm %s, cold %s, to the first flushed write", took(seconds(r.RTOWarmSeconds)),
		took(seconds(r.RTOColdSeconds)))
	line("failback", "%s transferred for %s changed", text.Bytes(r.FailbackBytes), text.Bytes(r.ChangedBytes))
	line("hand-over", "%.0f ms without I/O", r.HandoverPauseMS)
	if r.Verified {
		line("verified", "%d volumes, images and restores equal the model, byte by byte", r.Compared)
	}
}
