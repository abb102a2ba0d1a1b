package hydrate

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// Point names what an image is filled with: a volume of a journal's log at an LSN.
type Point struct {
	Journal   uuid.UUID       `json:"journal"`
	Volume    string          `json:"volume"`
	Number    uint32          `json:"number"` // the volume's in the journal
	Stream    change.StreamID `json:"stream"`
	Epoch     uint64          `json:"epoch"`
	LSN       uint64          `json:"lsn"`
	SizeBytes int64           `json:"size_bytes"`
	// Hash is of the frame in which LSN lies: a log that has another one there went on elsewhere from
	// before it. Unset where that was not known, and by earlier releases.
	Hash change.Hash `json:"hash,omitzero"`
}

// String names the point for people.
func (p *Point) String() string { return fmt.Sprintf("volume %s at LSN %d", p.Volume, p.LSN) }

// PointOf names a point that a log resolved.
func PointOf(ctx context.Context, l *twin.Log, p twin.Point) (Point, error) {
	hash, _, err := l.HashIn(ctx, p.Volume.Stream, p.LSN)
	return Point{Journal: l.Identity.Journal, Volume: p.Volume.Name, Number: p.Volume.Number, Stream: p.Volume.Stream,
		Epoch: p.Epoch, LSN: p.LSN, SizeBytes: p.Volume.SizeBytes, Hash: hash}, err
}

// is reports whether two name the same point.
func (p Point) is(q Point) bool {
	if none := (change.Hash{}); p.Hash == none || q.Hash == none {
		p.Hash, q.Hash = none, none
	}
	return p == q
}

// Image finds the point in a log. dir is for what memory should not hold. Errors:
// fail.NotFound where the log does not have it, or not any more; fail.Refused where the log
// is another journal's.
func (p *Point) Image(ctx context.Context, l *twin.Log, dir string) (*twin.Image, error) {
	refuse := func(kind fail.Kind, why string) error { return fail.New(kind, "hydrate", p.String(), why) }
	if l.Identity.Journal != p.Journal {
		return nil, refuse(fail.Refused, fmt.Sprintf("the log is of journal %s, the point of %s", l.Identity.Journal,
			p.Journal))
	}
	v := l.State.Volumes[p.Volume]
	if v == nil {
		return nil, refuse(fail.NotFound, "the log has no such volume")
	}
	if v.Stream != p.Stream || v.Number != p.Number || v.SizeBytes != p.SizeBytes {
		return nil, refuse(fail.Refused, "the log has another volume of that name")
	}
	found, err := l.Resolve(ctx, v, strconv.FormatUint(p.LSN, 10), clock.Now())
	if err != nil {
		return nil, err
	}
	m, err := l.Image(ctx, found, dir)
	if err != nil {
		return nil, err
	}
	if none, has := (change.Hash{}), m.Hash(); p.Hash != none && has != none && has != p.Hash {
		return nil, errors.Join(refuse(fail.NotFound, "the log has another history there"), m.Close())
	}
	return m, nil
}
