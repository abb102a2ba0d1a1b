package failback

import (
	"context"
	"fmt"
	"strconv"

	"github.com/pollux-dr/pollux/control/failback/record"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/objlog/rangeset"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/branch"
	"github.com/pollux-dr/pollux/replicator/twin/extentmap"
)

// BaseImage is the image of what a branch's volume lies over, in its journal's log. dir is for what
// memory should not hold. Errors: fail.NotFound where the log does not keep that point any more.
func BaseImage(ctx context.Context, l *twin.Log, b *branch.Branch, v *branch.Volume, dir string) (*twin.Image, error) {
	p, err := basePoint(ctx, l, b, v)
	if err != nil {
		return nil, err
	}
	return l.Image(ctx, p, dir)
}

func basePoint(ctx context.Context, l *twin.Log, b *branch.Branch, v *branch.Volume) (p twin.Point, err error) {
	base := b.Base(v)
	if l.Identity.Journal != b.Journal {
		return p, fail.New(fail.Refused, "open branch", b.ID, fmt.Sprintf("the log is of journal %s, and it of %s",
			l.Identity.Journal, b.Journal))
	}
	there, err := l.Volume(v.Name)
	if err != nil {
		return p, err
	}
	if there.Number != v.Number || there.Stream != v.Stream {
		return p, fail.New(fail.NotFound, "open branch", b.ID, "the log has another volume of the name "+v.Name+" now")
	}
	hash, known, err := l.HashAt(ctx, v.Stream, base.LSN)
	if err == nil && known && hash != base.Hash {
		err = fail.New(fail.Damaged, "open branch", b.ID, fmt.Sprintf("the log has another history at LSN %d",
			base.LSN))
	}
	if err != nil {
		return p, err
	}
	return l.Resolve(ctx, there, strconv.FormatUint(base.LSN, 10), there.Created)
}

// Diff is how a branch's volume and the log went apart.
type Diff struct {
	Volume   string `json:"volume"`
	BaseLSN  uint64 `json:"base_lsn"`
	Compared bool   `json:"compared,omitempty"` // its extents are what differed, and not what was written
	branch.Totals
	// NewestLSN is the log's newest point. ChangedBytes were written behind the base up to there, and
	// BothBytes are those of them that the branch has, too: whoever wants the branch's back has to choose.
	NewestLSN    uint64 `json:"newest_lsn"`
	ChangedBytes int64  `json:"changed_bytes"`
	BothBytes    int64  `json:"both_bytes"`
	// Both are the ranges of those, the first of them.
	Both []Span `json:"both"`
}

// Span is a range of a volume.
type Span struct {
	Offset int64 `json:"offset"`
	Bytes  int64 `json:"bytes"`
}

// maxSpans bounds the ranges in a Diff.
const maxSpans = 1000

// Differences compares what a branch has of a volume with what the log has since its base, by where
// was written, not by content.
func Differences(ctx context.Context, l *twin.Log, state string, b *branch.Branch, v *branch.Volume) (_ *Diff,
	err error) {
	p, err := basePoint(ctx, l, b, v)
	if err != nil {
		return nil, err
	}
	end, err := l.Resolve(ctx, p.Volume, "", p.Volume.Created)
	if err != nil {
		return nil, err
	}
	d := &Diff{Volume: v.Name, BaseLSN: p.LSN, Compared: v.Compared, Totals: v.Totals, NewestLSN: end.LSN,
		Both: []Span{}}
	wrote, err := l.Changed(ctx, v.Stream, p.LSN, end.LSN, "")
	if err != nil {
		return nil, err
	}
	defer wrote.Close()
	changed := rangeset.New()
	m := &extentmap.Map{Volume: v.Number, SizeBytes: v.SizeBytes, Recent: wrote}
	err = m.Each(ctx, true, func(_ int64, extents []extent.Extent) error {
		for i := range extents {
			changed.AddNew(extents[i].Off, extents[i].Len, func(_, n int64) { d.ChangedBytes += n })
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = b.Each(state, v, func(e branch.Extent) error {
		at := e.Off
		changed.AddNew(e.Off, e.Len, func(off, n int64) { // what lies between these was changed there, too
			d.both(at, off-at)
			at = off + n
		})
		d.both(at, e.Off+e.Len-at)
		return nil
	})
	return d, err
}

func (d *Diff) both(off, n int64) {
	if n <= 0 {
		return
	}
	d.BothBytes += n
	k := len(d.Both) - 1
	switch {
	case k >= 0 && d.Both[k].Offset+d.Both[k].Bytes == off:
		d.Both[k].Bytes += n
	case k+1 < maxSpans:
		d.Both = append(d.Both, Span{off, n})
	}
}

// Remove deletes a branch, and what lies in it of the former agent's state. Errors: fail.NotFound;
// fail.Refused where a failback needs it that is not done.
func Remove(state, id string, dryRun bool) error {
	if _, err := branch.Load(state, id); err != nil && !fail.Is(err, fail.Damaged) {
		return err
	}
	r, err := record.Load(state)
	if err != nil {
		return err
	}
	if r != nil && r.ID == id && r.Done.IsZero() {
		return fail.New(fail.Refused, "remove branch", id, "a failback that was cut short needs it").
			WithHint("repeat that first: pollux failback")
	}
	if dryRun {
		return nil
	}
	return branch.Remove(state, id)
}
