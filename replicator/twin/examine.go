package twin

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
)

// Standing says whether an object counts.
type Standing string

// The standings of an object.
const (
	Valid   Standing = "valid"
	Void    Standing = "void"    // its writer was fenced before
	Beyond  Standing = "beyond"  // behind a position that does not exist (yet)
	Missing Standing = "missing" // it was there once, and is not
	Old     Standing = "old"     // below the catalog's floor: single blocks of it may be needed
	Damaged Standing = "damaged" // Err says how
)

// Object is one object of a log as Examine found it.
type Object struct {
	Position uint64
	Name     string
	Bytes    int64
	Standing Standing
	Index    *segment.Index // nil where it could not be read
	// DeadFrom is the journal index from which on a later fence cut the
	// object's entries off: a dead branch. 0 is none.
	DeadFrom uint64
	Commands []Command
	Streams  []StreamPart
	Err      error

	frames []frameLink // live ones
	absent bool        // it was listed, and is not there
}

// Command is a command, or the document of an identity or a fence (Index 0).
type Command struct {
	Index uint64          `json:"index,omitempty"`
	Kind  string          `json:"kind"`
	Body  json.RawMessage `json:"body"`
	kind  state.Kind
}

// StreamPart is what an object holds of a stream.
type StreamPart struct {
	Stream      change.StreamID  `json:"stream"`
	Frames      int              `json:"frames"`
	Records     int64            `json:"records"`
	Kinds       map[string]int64 `json:"kinds"`
	FirstLSN    uint64           `json:"first_lsn"`
	LastLSN     uint64           `json:"last_lsn"`
	FirstTime   time.Time        `json:"first_time"`
	LastTime    time.Time        `json:"last_time"`
	StoredBytes int64            `json:"stored_bytes"` // of the frames, as they lie there
	PlainBytes  int64            `json:"plain_bytes"`  // of their data
	// Folds of FoldBytes stand for some of the frames, whose bytes were FoldedBytes.
	Folds       int   `json:"folds,omitempty"`
	FoldBytes   int64 `json:"fold_bytes,omitempty"`
	FoldedBytes int64 `json:"folded_bytes,omitempty"`
}

// add joins what follows to p.
func (p *StreamPart) add(o *StreamPart) {
	if p.Frames == 0 {
		p.Stream, p.Kinds, p.FirstLSN, p.FirstTime = o.Stream, map[string]int64{}, o.FirstLSN, o.FirstTime
	}
	p.LastLSN, p.LastTime = o.LastLSN, o.LastTime
	p.Frames += o.Frames
	p.Records += o.Records
	p.StoredBytes += o.StoredBytes
	p.PlainBytes += o.PlainBytes
	p.Folds += o.Folds
	p.FoldBytes += o.FoldBytes
	p.FoldedBytes += o.FoldedBytes
	for k, n := range o.Kinds {
		p.Kinds[k] += n
	}
}

// frameLink is what checking the chain needs of a frame.
type frameLink struct {
	header change.Header
	hash   change.Hash
}

// Totals sum a log up.
type Totals struct {
	Objects     int            `json:"objects"`
	Standings   map[string]int `json:"standings"`
	Types       map[string]int `json:"types"` // of the valid ones
	Bytes       int64          `json:"bytes"`
	LastIndex   uint64         `json:"last_index"`
	Epoch       uint64         `json:"epoch"`
	Commands    int            `json:"commands"`
	Streams     []StreamPart   `json:"streams"`
	Damaged     int            `json:"damaged"` // objects with an error, and gaps
	firstDamage error
}

// Err is a summary of the damage, nil where there is none.
func (t *Totals) Err() error {
	switch {
	case t.Damaged == 0:
		return nil
	case t.Damaged == 1:
		return t.firstDamage
	}
	return fail.Wrap(fail.KindOf(t.firstDamage), "examine", "object log",
		fmt.Errorf("%d objects are damaged or missing; the first: %w", t.Damaged, t.firstDamage))
}

// Examine reads every byte of a log and checks every checksum, the rules of
// fences, the journal index, the chains of hashes, and that the commands apply.
// fn is called for each position in order. Damage is in the object's Err, and
// Examine goes on with the next; only errors that are not of one object, and
// fn's, end it. What garbage collection lets go of meanwhile is left out.
func Examine(ctx context.Context, s objstore.Store, fn func(*Object) error) (*Totals, error) {
	x, objects, err := survey(ctx, s)
	if err != nil {
		return nil, err
	}
	x.standings(objects)
	const together = 4 // objects in memory
	for group := range slices.Chunk(objects, together) {
		if err := parallel(ctx, len(group), func(ctx context.Context, i int) error {
			return x.read(ctx, group[i])
		}); err != nil {
			return nil, err
		}
		for _, o := range group {
			if gone, err := x.gone(ctx, o); gone || err != nil {
				if err != nil {
					return nil, err
				}
				continue
			}
			x.chain(o)
			x.count(o)
			if err := fn(o); err != nil {
				return nil, err
			}
			*o = Object{} // fn has had it; the log may be long
		}
	}
	x.totals.LastIndex, x.totals.Epoch = x.rules.Next-1, x.rules.Token.Epoch
	for _, id := range slices.SortedFunc(maps.Keys(x.parts), func(a, b change.StreamID) int {
		return cmp.Compare(a.String(), b.String())
	}) {
		x.totals.Streams = append(x.totals.Streams, *x.parts[id])
	}
	return &x.totals, ctx.Err()
}

func (x *examiner) count(o *Object) {
	t := &x.totals
	t.Standings[string(o.Standing)]++
	if o.Err != nil {
		if t.firstDamage == nil {
			t.firstDamage = o.Err
		}
		t.Damaged++
	}
	if o.Standing == Missing {
		return
	}
	t.Objects++
	t.Bytes += o.Bytes
	if o.Standing != Valid {
		return
	}
	t.Types[o.Index.Type.String()]++
	if o.Index.Type != segment.Segment {
		return
	}
	for i := range o.Commands {
		if o.live(o.Commands[i].Index) {
			t.Commands++
		}
	}
	for i := range o.Streams {
		p := x.parts[o.Streams[i].Stream]
		if p == nil {
			p = &StreamPart{}
			x.parts[o.Streams[i].Stream] = p
		}
		p.add(&o.Streams[i])
	}
}
