package image

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/provenance"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// Options say how an image is written.
type Options struct {
	Overwrite bool // what is there, in spite of the target's objections
	Resume    bool // onto a device: go on from an interrupted restore
	Restart   bool // go on from nothing
	Verify    bool // read it back at the end and compare it with the store
	DryRun    bool // look only
	// Held is the point that the target holds, as the operator says; nil: nothing is said.
	Held *twin.Point
	// BytesPerSecond bounds what is read from the store; 0: no limit.
	BytesPerSecond int64
	// Stage, if set, is told when "restoring" or "verifying" begins; what it returns hears how
	// far that is, and of its end.
	Stage func(what string) (progress twin.Progress, end func())
	// GoingOn, if set, hears what of the target's content is gone on from.
	GoingOn func(path, what string)
}

// stage begins one.
func (o *Options) stage(what string) (twin.Progress, func()) {
	if o.Stage == nil {
		return nil, func() {}
	}
	return o.Stage(what)
}

// Report is what became of one image.
type Report struct {
	Volume     string    `json:"volume"`
	Output     string    `json:"output"`
	Epoch      uint64    `json:"epoch"`
	LSN        uint64    `json:"lsn"`
	Time       time.Time `json:"time"`
	SizeBytes  int64     `json:"size_bytes"`
	LiveBytes  int64     `json:"live_bytes"` // of data at the point
	Objects    int       `json:"objects"`
	FetchBytes int64     `json:"fetch_bytes"`
	DryRun     bool      `json:"dry_run"`
	Target     string    `json:"target"`               // what was there before
	Base       string    `json:"base,omitempty"`       // what it went on from
	Verified   bool      `json:"verified"`             // read back and compared
	Objections []string  `json:"objections,omitempty"` // of a dry run: why it would be refused without --overwrite
	Seconds    float64   `json:"seconds"`
	LogDamage  string    `json:"log_damage,omitempty"` // of objects behind the point's
	Note       string    `json:"note,omitempty"`       // why the point is not quite what was asked for
	twin.Result
}

// Restore writes the volume of a point to a target, which is complete when it returns nil. An
// error leaves what there is for the same call to go on from, where that can be.
func Restore(ctx context.Context, l *twin.Log, p twin.Point, t *Target, o Options) (*Report, error) {
	start := time.Now()
	base, what, err := t.goesOn(ctx, l, &p, &o)
	if err != nil {
		return nil, err
	}
	plan, err := l.Plan(ctx, p, base, "")
	if base != nil && fail.Is(err, fail.NotFound) { // what was written in between is not kept any more
		base, what, t.reuse = nil, "", false
		plan, err = l.Plan(ctx, p, nil, "")
	}
	if err != nil {
		return nil, err
	}
	defer plan.Close()
	rep := &Report{Volume: p.Volume.Name, Output: t.Path, Epoch: p.Epoch, LSN: p.LSN, Time: p.Time.UTC(),
		SizeBytes: p.Volume.SizeBytes,
		Note:      p.Note, LiveBytes: plan.LiveBytes, Objects: plan.Objects, FetchBytes: plan.Bytes, DryRun: o.DryRun,
		Target: t.What, Base: what}
	if damage := l.DamageOf(p.Volume); damage != nil {
		rep.LogDamage = damage.Error()
	}
	if o.DryRun {
		rep.Objections = t.Objections
		return rep, nil
	}
	if what != "" && o.GoingOn != nil {
		o.GoingOn(t.Path, what)
	}
	if rep.Result, err = write(ctx, l, plan, base, t, &o); err != nil {
		return nil, err
	}
	rep.Verified, rep.Seconds = o.Verify, time.Since(start).Seconds()
	return rep, nil
}

// goesOn is base where the log has what the target holds: a fence may have cut that off since, and
// another history has the same LSNs. What the log does not say is not gone on from.
func (t *Target) goesOn(ctx context.Context, l *twin.Log, p *twin.Point, o *Options) (*twin.Base, string, error) {
	if o.Held != nil {
		hash, err := hashIn(ctx, l, p.Volume.Stream, o.Held.LSN)
		t.hash = hash
		return twin.Complete(o.Held.LSN), fmt.Sprintf("LSN %d, which it is said to hold", o.Held.LSN), err
	}
	base, what := t.base(o, p)
	if base == nil {
		return nil, "", nil
	}
	hash, err := hashIn(ctx, l, p.Volume.Stream, base.High)
	if err != nil || hash != t.hash || hash == (change.Hash{}) {
		t.reuse = false
		return nil, "", err
	}
	return base, what, nil
}

// hashIn is the hash of the frame in which an LSN lies; zero where the log does not say.
func hashIn(ctx context.Context, l *twin.Log, id change.StreamID, lsn uint64) (change.Hash, error) {
	hash, known, err := l.HashIn(ctx, id, lsn)
	if err == nil && !known || fail.Is(err, fail.Damaged) || fail.Is(err, fail.NotFound) {
		return change.Hash{}, nil
	}
	return hash, err
}

// write carries a plan out on a target.
func write(ctx context.Context, l *twin.Log, plan *twin.Plan, base *twin.Base, t *Target, o *Options) (
	res twin.Result, err error) {
	v, p := plan.Point.Volume, plan.Point
	save := newSaver(t, v, plan.Left())
	hash, err := hashIn(ctx, l, v.Stream, p.LSN)
	if err != nil {
		return res, err
	}
	save.hashes = map[uint64]change.Hash{plan.Left().High: t.hash}
	save.hashes[p.LSN] = hash
	if err := t.open(base != nil, save.save); err != nil {
		return res, err
	}
	progress, end := o.stage("restoring")
	res, err = plan.Restore(ctx, t, twin.Run{Progress: progress, BytesPerSecond: o.BytesPerSecond, Done: save.reached})
	end()
	if err == nil && o.Verify {
		if err = verify(ctx, l, p, t, o); fail.Is(err, fail.Damaged) {
			save.distrust(err) // the next one begins anew
		}
	}
	if err != nil {
		return res, t.interrupted(err, save)
	}
	if !t.device { // best effort: who takes it for a backing looks at it, and the next restore
		_ = provenance.SetRestored(t.file, provenance.Restored{Stream: v.Stream.String(), Volume: v.Number, LSN: p.LSN,
			Hash: hash})
	}
	return res, t.finish()
}

// verify compares what the disk has with the store.
func verify(ctx context.Context, l *twin.Log, p twin.Point, t *Target, o *Options) error {
	if err := t.file.Sync(); err != nil {
		return fail.Wrap(fail.Full, "sync", t.Path, err)
	}
	_ = unix.Fadvise(int(t.file.Fd()), 0, 0, unix.FADV_DONTNEED) // so that it is read from the disk
	plan, err := l.Plan(ctx, p, nil, "")
	if err != nil {
		return err
	}
	progress, end := o.stage("verifying")
	defer end()
	err = plan.Verify(ctx, t, twin.Run{Progress: progress, BytesPerSecond: o.BytesPerSecond})
	return errors.Join(fail.At("verify", t.Path, err), plan.Close())
}
