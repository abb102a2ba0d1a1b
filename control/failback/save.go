package failback

import (
	"context"
	"errors"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/agent/backing"
	"github.com/pollux-dr/pollux/control/failback/record"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/twin/branch"
)

// save makes the branch: the contents of all that this host wrote behind the point to which its
// volumes go back. Until it is durable and was read again, no backing is touched.
func (r *run) save(ctx context.Context) error {
	if r.rec.Saved {
		return nil
	}
	idle, err := agent.ReadIdle(vfs.Default, r.agentDir())
	if err != nil {
		return err
	}
	defer idle.Close()
	b, err := branch.Load(r.conf.State, r.rec.ID)
	if fail.Is(err, fail.NotFound) {
		if b, err = r.makeBranch(ctx, idle); err == nil {
			err = r.stepped("extents")
		}
		if err == nil {
			err = b.Save(r.conf.State)
		}
	}
	if err != nil {
		return err
	}
	for i := range b.Volumes {
		if err := b.Check(r.conf.State, &b.Volumes[i]); err != nil {
			return err
		}
	}
	r.rec.Saved = true
	return r.saveRecord()
}

// makeBranch writes the files of a branch, and all but its record.
func (r *run) makeBranch(ctx context.Context, idle *agent.Idle) (*branch.Branch, error) {
	rec := r.rec
	b := &branch.Branch{ID: rec.ID, Created: rec.Began, Journal: rec.Journal, Epoch: rec.Epoch, Site: rec.Site,
		Agent: rec.Agent, Successor: rec.Successor, Volumes: []branch.Volume{}}
	if err := branch.Make(r.conf.State, rec.ID); err != nil {
		return nil, err
	}
	beyond := map[change.StreamID]*agent.Beyond{}
	for i := range rec.Streams {
		s := &rec.Streams[i]
		s.End = idle.End(s.ID) // with what was in memory alone when this was decided
		line := branch.Stream{ID: s.ID, Group: s.Group, Point: s.Point, Base: s.Base, End: s.End}
		if !s.Compare {
			w, err := idle.Beyond(s.ID, s.Base)
			if err != nil {
				return nil, err
			}
			beyond[s.ID], line.From, line.To = w, w.From, w.To
		}
		b.Streams = append(b.Streams, line)
	}
	rec.ComparedBytes, rec.ReadBytes = 0, 0
	for i := range rec.Volumes {
		if err := r.saveVolume(ctx, b, &rec.Volumes[i], beyond[rec.Volumes[i].Stream]); err != nil {
			return nil, fail.At("save", "volume "+rec.Volumes[i].Name, err)
		}
	}
	return b, nil
}

// saveVolume writes what a volume has behind the base to the branch; w is nil where that is to be
// found out by comparing.
func (r *run) saveVolume(ctx context.Context, b *branch.Branch, v *record.Volume, w *agent.Beyond) (err error) {
	back, err := backing.Open(v.Backing, v.SizeBytes)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, back.Close()) }()
	var extents []agent.Extent
	if w != nil {
		extents = w.Extents[v.Number]
	} else if extents, err = r.compare(ctx, v, back); err != nil {
		return err
	}
	if len(extents) == 0 {
		return nil
	}
	line := branch.Volume{Name: v.Name, Number: v.Number, Group: v.Group, Stream: v.Stream, SizeBytes: v.SizeBytes,
		Backing: v.Backing, Compared: w == nil}
	tell, end := r.Stage("saving " + v.Name)
	defer end()
	total, done := int64(0), int64(0)
	for _, e := range extents {
		total += e.Len
	}
	err = b.WriteVolume(r.conf.State, &line, func(w *branch.Writer) error {
		for _, e := range extents {
			if err := copyExtent(ctx, back, w, e); err != nil {
				return err
			}
			done += e.Len
			if tell != nil {
				tell(done, total)
			}
		}
		return nil
	})
	b.Volumes = append(b.Volumes, line)
	return err
}

// copyExtent copies an extent of a backing to a branch: zeros as such, where a piece is nothing else.
func copyExtent(ctx context.Context, back backing.Backing, w *branch.Writer, e agent.Extent) error {
	buf := make([]byte, min(e.Len, branch.MaxExtentBytes))
	for off, end := e.Off, e.Off+e.Len; off < end; {
		p := buf[:min(end-off, branch.MaxExtentBytes)]
		if err := back.ReadAt(p, off); err != nil {
			return err
		}
		data := p
		if allZeros(p) {
			data = nil
		}
		if err := w.Add(off, int64(len(p)), data); err != nil {
			return err
		}
		off += int64(len(p))
		if err := ctx.Err(); err != nil {
			return fail.Wrap(fail.Retry, "save", "branch", err)
		}
	}
	return nil
}

func allZeros(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}
