package main

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbdclient"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/objlog/cover"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/mount"
)

// liveChunk is what is compared at a time.
const liveChunk = 256 << 10

// verifyLiveRounds bounds how often what differs is looked at again.
const verifyLiveRounds = 20

// liveReport is what `pollux verify VOLUME --live --json` prints.
type liveReport struct {
	Volume        string     `json:"volume"`
	LSN           uint64     `json:"lsn"` // of the last comparison
	ComparedBytes int64      `json:"compared_bytes"`
	Rounds        int        `json:"rounds"`
	Equal         bool       `json:"equal"` // all of it was compared, and nothing differs
	Differs       []diffSpan `json:"differs"`
	Open          []diffSpan `json:"open"` // written to all the time: not known
	Seconds       float64    `json:"seconds"`
}

type diffSpan struct {
	Offset int64 `json:"offset"`
	Bytes  int64 `json:"bytes"`
}

// liveVerifier compares a volume in use with its twin. In each round it takes the
// newest point P, reads the volume, and then waits until the twin has R, all that was
// written up to then. What differs, and was not written to between P and R, is a true
// difference; the rest is looked at in the next round.
type liveVerifier struct {
	c     *cobra.Command
	f     *verifyFlags
	store objstore.Store
	name  string
	group string
	agent *api.Client
	dev   *nbdclient.Conn
	rep   liveReport
}

func verifyLive(c *cobra.Command, f *verifyFlags, store objstore.Store, name string) error {
	start := time.Now()
	dev, err := cli.DialNBD(c.Context(), f.live)
	if err != nil {
		return err
	}
	defer dev.Close()
	v := &liveVerifier{c: c, f: f, store: store, name: name, agent: (&cli.DaemonFlags{Socket: f.socket}).Client(), dev: dev}
	v.rep = liveReport{Volume: name, Differs: []diffSpan{}, Open: []diffSpan{}}
	spans := []diffSpan{{0, -1}}
	for v.rep.Rounds < verifyLiveRounds && len(spans) > 0 {
		v.rep.Rounds++
		if spans, err = v.round(c.Context(), spans); err != nil {
			return err
		}
	}
	v.rep.Open = append(v.rep.Open, spans...)
	v.rep.Equal = len(v.rep.Differs)+len(v.rep.Open) == 0
	v.rep.Seconds = time.Since(start).Seconds()
	if f.json {
		err = cli.PrintJSON(c.OutOrStdout(), v.rep)
	} else {
		w := c.OutOrStdout()
		for _, d := range v.rep.Differs {
			fmt.Fprintf(w, "differs: %d bytes at %d\n", d.Bytes, d.Offset)
		}
		for _, d := range v.rep.Open {
			fmt.Fprintf(w, "written to all the time, and so not compared: %d bytes at %d\n", d.Bytes, d.Offset)
		}
		result := "equal"
		switch {
		case len(v.rep.Differs) > 0:
			result = "NOT equal"
		case len(v.rep.Open) > 0:
			result = "equal but for what was written to all the time"
		}
		fmt.Fprintf(w, "volume %s and its twin at LSN %d are %s: %s compared in %d rounds, %s\n", name, v.rep.LSN, result, text.Bytes(v.rep.ComparedBytes), v.rep.Rounds, text.Duration(time.Duration(v.rep.Seconds*1e9)))
	}
	switch {
	case err != nil:
		return err
	case len(v.rep.Differs) > 0:
		return fail.New(fail.Damaged, "verify", "volume "+name, fmt.Sprintf("it differs from its twin in %d places, first at byte %d", len(v.rep.Differs), v.rep.Differs[0].Offset)).
			WithHint("was the backing written to behind the agent's back? Take both copies before anything else")
	case len(v.rep.Open) > 0:
		return fail.New(fail.Retry, "verify", "volume "+name, "parts of it were written to all the time").WithHint("again when it is quieter")
	}
	return nil
}

// round compares the spans and returns what must be looked at again.
func (v *liveVerifier) round(ctx context.Context, spans []diffSpan) (again []diffSpan, err error) {
	l, p, err := v.newest(ctx)
	if err != nil {
		return nil, err
	}
	image, err := l.Image(ctx, p, "")
	if err != nil {
		return nil, err
	}
	defer image.Close()
	dev, err := mount.New(image, mount.Options{CacheBytes: 64 << 20, Description: "twin of " + v.name})
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	if spans[0].Bytes < 0 {
		spans = []diffSpan{{0, p.Volume.SizeBytes}}
		if n := v.dev.Size(); n != p.Volume.SizeBytes {
			return nil, fail.New(fail.Invalid, "verify", v.f.live, fmt.Sprintf("it has %d bytes, volume %s has %d", n, v.name, p.Volume.SizeBytes))
		}
	}
	var found []diffSpan
	bar := cli.NewProgress(v.c.ErrOrStderr(), "comparing")
	defer bar.End()
	var whole, done int64
	for _, s := range spans {
		whole += s.Bytes
	}
	a, b := make([]byte, liveChunk), make([]byte, liveChunk)
	for _, s := range spans {
		for off := s.Offset; off < s.Offset+s.Bytes; off += liveChunk {
			n := min(liveChunk, s.Offset+s.Bytes-off)
			if err := dev.ReadAt(ctx, a[:n], off); err != nil {
				return nil, err
			}
			if err := v.read(ctx, b[:n], off); err != nil {
				return nil, err
			}
			v.rep.ComparedBytes += n
			done += n
			bar.Update(done, whole)
			found = appendDiffs(found, a[:n], b[:n], off)
		}
	}
	v.rep.LSN = p.LSN
	if len(found) == 0 {
		return nil, nil
	}
	return v.judge(ctx, p, found)
}

// liveReadTimeout is how long the agent may take for one read of the volume.
const liveReadTimeout = time.Minute

func (v *liveVerifier) read(ctx context.Context, b []byte, off int64) error {
	ctx, cancel := context.WithTimeout(ctx, liveReadTimeout)
	defer cancel()
	return v.dev.ReadAt(ctx, b, off)
}

// appendDiffs adds the blocks of 4 KiB in which a and b differ.
func appendDiffs(found []diffSpan, a, b []byte, off int64) []diffSpan {
	const unit = 4096
	for i := 0; i < len(a); i += unit {
		end := min(i+unit, len(a))
		if bytes.Equal(a[i:end], b[i:end]) {
			continue
		}
		if k := len(found) - 1; k >= 0 && found[k].Offset+found[k].Bytes == off+int64(i) {
			found[k].Bytes += int64(end - i)
			continue
		}
		found = append(found, diffSpan{off + int64(i), int64(end - i)})
	}
	return found
}

// judge waits until the twin has all that was written by now, and takes what differs
// and was not written to since p as a true difference.
func (v *liveVerifier) judge(ctx context.Context, p twin.Point, found []diffSpan) (again []diffSpan, err error) {
	var st api.Status
	if err := v.agent.Call(ctx, api.VerbStatus, struct{}{}, &st); err != nil {
		return nil, err
	}
	reached := uint64(0)
	for _, g := range st.Groups {
		if g.Name == v.group {
			reached = g.LastLSN
		}
	}
	var wait api.GroupProgress
	for wait.DurableLSN < reached {
		if err := v.agent.Call(ctx, api.VerbGroupWait, api.GroupWait{Group: v.group, AfterLSN: max(reached, 1) - 1}, &wait); err != nil {
			return nil, err
		}
	}
	l, q, err := v.newest(ctx)
	if err != nil {
		return nil, err
	}
	if q.LSN < reached {
		return nil, fail.New(fail.Retry, "verify", "volume "+v.name, fmt.Sprintf("its twin has no point behind LSN %d just now: a resync has not ended", q.LSN)).WithHint("again when pollux status says Replicating")
	}
	written, err := l.Changed(ctx, p.Volume.Stream, p.LSN, q.LSN, "")
	if err != nil {
		return nil, err
	}
	defer written.Close()
	m := &extent.Map{Volume: p.Volume.Number, SizeBytes: p.Volume.SizeBytes, Recent: written}
	c := cover.New()
	err = m.Each(ctx, true, func(_ int64, extents []extent.Extent) error {
		for i := range extents {
			from := extents[i].Off / 4096 * 4096 // a block that was written to in part may differ all over
			to := min((extents[i].End()+4095)/4096*4096, p.Volume.SizeBytes)
			c.Settle(from, to-from, func(int64, int64) {})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, d := range found {
		at := d.Offset
		c.Settle(d.Offset, d.Bytes, func(off, n int64) { // not written to: it differs
			if off > at {
				again = append(again, diffSpan{at, off - at})
			}
			v.rep.Differs = append(v.rep.Differs, diffSpan{off, n})
			at = off + n
		})
		if at < d.Offset+d.Bytes {
			again = append(again, diffSpan{at, d.Offset + d.Bytes - at})
		}
	}
	return again, nil
}

// newest opens the store and finds the volume's newest point.
func (v *liveVerifier) newest(ctx context.Context) (*twin.Log, twin.Point, error) {
	l, err := twin.Open(ctx, v.store, nil)
	if err != nil {
		return nil, twin.Point{}, err
	}
	p, err := cli.PointOf(ctx, l, v.name, "")
	if err == nil {
		v.group = p.Volume.Group
	}
	return l, p, err
}
