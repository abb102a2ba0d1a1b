package comparison

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbdclient"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/objlog/rangeset"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/extentmap"
	"github.com/pollux-dr/pollux/replicator/twin/mount"
)

// chunkBytes is what is compared at a time.
const chunkBytes = 256 << 10

// rounds bounds how often what differs is looked at again.
const rounds = 20

// Report is what was found.
type Report struct {
	Volume        string  `json:"volume"`
	LSN           uint64  `json:"lsn"` // of the last comparison
	ComparedBytes int64   `json:"compared_bytes"`
	Rounds        int     `json:"rounds"`
	Equal         bool    `json:"equal"` // all of it was compared, and nothing differs
	Differs       []Span  `json:"differs"`
	Open          []Span  `json:"open"` // written to all the time: not known
	Seconds       float64 `json:"seconds"`
}

// Span is a range of the volume.
type Span struct {
	Offset int64 `json:"offset"`
	Bytes  int64 `json:"bytes"`
}

// Options say what is compared.
type Options struct {
	Store  objstore.Store
	Volume string
	// Device is the volume as its agent serves it at URI.
	Device *nbdclient.Conn
	URI    string
	Agent  *api.Client
	// Stage is called when the comparison begins. Of the functions that it returns one is told
	// how far the comparison is, and the other when it ends.
	Stage func(what string) (progress twin.Progress, end func())
}

// comparison compares a volume in use with its twin. In each round it takes the
// newest point P, reads the volume, and then waits until the twin has R, all that was
// written up to then. What differs, and was not written to between P and R, is a true
// difference; the rest is looked at in the next round.
type comparison struct {
	Options
	group string
	rep   Report
}

// Run compares a volume in use with its twin.
func Run(ctx context.Context, o Options) (*Report, error) {
	start := time.Now()
	v := &comparison{Options: o, rep: Report{Volume: o.Volume, Differs: []Span{}, Open: []Span{}}}
	spans, err := []Span{{0, -1}}, error(nil)
	for v.rep.Rounds < rounds && len(spans) > 0 {
		v.rep.Rounds++
		if spans, err = v.round(ctx, spans); err != nil {
			return nil, err
		}
	}
	v.rep.Open = append(v.rep.Open, spans...)
	v.rep.Equal = len(v.rep.Differs)+len(v.rep.Open) == 0
	v.rep.Seconds = time.Since(start).Seconds()
	return &v.rep, nil
}

// round compares the spans and returns what must be looked at again.
func (v *comparison) round(ctx context.Context, spans []Span) (again []Span, err error) {
	l, p, err := v.newest(ctx)
	if err != nil {
		return nil, err
	}
	image, err := l.Image(ctx, p, "")
	if err != nil {
		return nil, err
	}
	defer image.Close()
	dev, err := mount.New(image, mount.Options{CacheBytes: 64 << 20, Description: "twin of " + v.Volume})
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	if spans[0].Bytes < 0 {
		spans = []Span{{0, p.Volume.SizeBytes}}
		if n := v.Device.Size(); n != p.Volume.SizeBytes {
			return nil, fail.New(fail.Invalid, "verify", v.URI,
				fmt.Sprintf("it has %d bytes, volume %s has %d", n, v.Volume, p.Volume.SizeBytes))
		}
	}
	var found []Span
	progress, end := v.Stage("comparing")
	defer end()
	var whole, done int64
	for _, s := range spans {
		whole += s.Bytes
	}
	a, b := make([]byte, chunkBytes), make([]byte, chunkBytes)
	for _, s := range spans {
		for off := s.Offset; off < s.Offset+s.Bytes; off += chunkBytes {
			n := min(chunkBytes, s.Offset+s.Bytes-off)
			if err := dev.ReadAt(ctx, a[:n], off); err != nil {
				return nil, err
			}
			if err := v.read(ctx, b[:n], off); err != nil {
				return nil, err
			}
			v.rep.ComparedBytes += n
			done += n
			progress(done, whole)
			found = appendDiffs(found, a[:n], b[:n], off)
		}
	}
	v.rep.LSN = p.LSN
	if len(found) == 0 {
		return nil, nil
	}
	return v.judge(ctx, p, found)
}

// readTimeout is how long the agent may take for one read of the volume.
const readTimeout = time.Minute

func (v *comparison) read(ctx context.Context, b []byte, off int64) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return v.Device.ReadAt(ctx, b, off)
}

// appendDiffs adds the blocks of 4 KiB in which a and b differ.
func appendDiffs(found []Span, a, b []byte, off int64) []Span {
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
		found = append(found, Span{off + int64(i), int64(end - i)})
	}
	return found
}

// judge waits until the twin has all that was written by now, and takes what differs
// and was not written to since p as a true difference.
func (v *comparison) judge(ctx context.Context, p twin.Point, found []Span) (again []Span, err error) {
	var st api.Status
	if err := v.Agent.Call(ctx, api.VerbStatus, struct{}{}, &st); err != nil {
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
		if err := v.Agent.Call(ctx, api.VerbGroupWait, api.GroupWait{Group: v.group, AfterLSN: max(reached, 1) - 1},
			&wait); err != nil {
			return nil, err
		}
	}
	l, q, err := v.newest(ctx)
	if err != nil {
		return nil, err
	}
	if q.LSN < reached {
		return nil, fail.New(fail.Retry, "verify", "volume "+v.Volume,
			fmt.Sprintf("its twin has no point behind LSN %d just now: a resync has not ended", q.LSN)).
			WithHint("again when pollux status says Replicating")
	}
	written, err := l.Changed(ctx, p.Volume.Stream, p.LSN, q.LSN, "")
	if err != nil {
		return nil, err
	}
	defer written.Close()
	m := &extentmap.Map{Volume: p.Volume.Number, SizeBytes: p.Volume.SizeBytes, Recent: written}
	c := rangeset.New()
	err = m.Each(ctx, true, func(_ int64, extents []extent.Extent) error {
		for i := range extents {
			from := extents[i].Off / 4096 * 4096 // a block that was written to in part may differ all over
			to := min((extents[i].End()+4095)/4096*4096, p.Volume.SizeBytes)
			c.AddNew(from, to-from, func(int64, int64) {})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, d := range found {
		at := d.Offset
		c.AddNew(d.Offset, d.Bytes, func(off, n int64) { // not written to: it differs
			if off > at {
				again = append(again, Span{at, off - at})
			}
			v.rep.Differs = append(v.rep.Differs, Span{off, n})
			at = off + n
		})
		if at < d.Offset+d.Bytes {
			again = append(again, Span{at, d.Offset + d.Bytes - at})
		}
	}
	return again, nil
}

// newest opens the store and finds the volume's newest point.
func (v *comparison) newest(ctx context.Context) (*twin.Log, twin.Point, error) {
	l, err := twin.Open(ctx, v.Store, nil)
	if err != nil {
		return nil, twin.Point{}, err
	}
	p, err := l.PointOf(ctx, v.Volume, "")
	if err == nil {
		v.group = p.Volume.Group
	}
	return l, p, err
}
