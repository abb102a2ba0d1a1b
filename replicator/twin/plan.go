package twin

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"slices"

	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/objlog/rangeset"
	"github.com/pollux-dr/pollux/replicator/twin/extentmap"
)

// Base is what a target holds already: but for what was written behind LSN Low up to
// High, and for what lies behind Done in the order of places, the volume as it was in
// between.
//
// Garbage collection moves blocks into packs, always to later places: what was not done
// before a move is not done after it. So Done holds where all the packs are known that
// were when it was reached, and no others but later ones. Through another catalog, or
// none, blocks are back where they were.
type Base struct {
	Low   uint64           `json:"low"`
	High  uint64           `json:"high"`
	Done  extent.BlockAddr `json:"done"`
	Moves Moves            `json:"moves"` // of Done
}

// Moves names a set of packs.
type Moves struct {
	Last uint64 `json:"last"` // the highest number
	Sum  string `json:"sum"`  // of all numbers; "" of none
}

// movesUpTo names the packs of a catalog up to a number.
func (l *Log) movesUpTo(last uint64) (m Moves) {
	if l.Catalog == nil {
		return m
	}
	var numbers []uint64
	for i := range l.Catalog.Packs {
		if n := l.Catalog.Packs[i].Number; n <= last {
			numbers = append(numbers, n)
		}
	}
	if len(numbers) == 0 {
		return m
	}
	slices.Sort(numbers)
	sum := sha256.New()
	for _, n := range numbers {
		_ = binary.Write(sum, binary.BigEndian, n) // never fails
	}
	return Moves{numbers[len(numbers)-1], hex.EncodeToString(sum.Sum(nil)[:16])}
}

// under returns the base as it holds through a log's catalog.
func (b *Base) under(l *Log) *Base {
	if b == nil || b.Done == Whole || l.movesUpTo(b.Moves.Last) == b.Moves {
		return b
	}
	out := *b
	out.Done = extent.BlockAddr{}
	return &out
}

// Complete is the base that a complete image is.
func Complete(lsn uint64) *Base { return &Base{Low: lsn, High: lsn, Done: Whole} }

// toward is what is left of a base when a restore to an LSN over it ends in the middle;
// none (nil) is a target of zeros.
func (b *Base) toward(lsn uint64) Base {
	if b == nil {
		return Base{Low: lsn, High: lsn}
	}
	return Base{min(b.Low, lsn), max(b.High, lsn), b.Done, b.Moves}
}

// Whole is the Done of a base that is complete.
var Whole = extent.BlockAddr{Object: ^objlog.ObjectID(0), Offset: ^uint32(0)}

// Plan is the work of a restore. Close it.
type Plan struct {
	Point     Point
	Objects   int
	Bytes     int64 // to be read from the store
	LiveBytes int64 // of data in the volume at the point
	NeedBytes int64 // of them, to be written
	ZeroBytes int64 // to be made zeros
	image     *Image
	ours      bool // the image goes with the plan
	needs     *extentmap.ByBlock
	base      *Base
	want      func(e *extent.Extent) bool // nil: all
	dirty     Dirty                       // of the base
	dir       string
	seen      uint64 // the catalog by which needs was made
	moves     Moves
}

// Left is what the target has if the restore ends at once.
func (pl *Plan) Left() Base {
	b := pl.base.toward(pl.Point.LSN)
	b.Moves = pl.moves
	return b
}

// reached is what the target has when all before a place is written.
func (pl *Plan) reached(p extent.BlockAddr) Base {
	if p == Whole {
		return *Complete(pl.Point.LSN)
	}
	b := pl.Left()
	if b.Done.Before(p) {
		b.Done = p
	}
	return b
}

// again makes what is left into the plan, after an object was not found.
func (pl *Plan) again(ctx context.Context, left *Base, cause error) error {
	if err := pl.image.Refresh(ctx, pl.seen, cause); err != nil {
		return err
	}
	needs := pl.needs
	pl.needs, pl.base = extentmap.NewByBlock(pl.dir), left
	pl.Objects, pl.Bytes, pl.LiveBytes, pl.NeedBytes, pl.ZeroBytes = 0, 0, 0, 0, 0
	return errors.Join(needs.Close(), pl.fill(ctx))
}

// Close forgets the plan.
func (pl *Plan) Close() error {
	err := pl.needs.Close()
	if pl.ours {
		err = errors.Join(err, pl.image.Close())
	}
	return err
}

const (
	// spanBytes is the most that is read at once, and gapBytes what is read in vain
	// rather than to ask twice: a request costs a server about a millisecond of CPU, and
	// a WAN a round trip that eight share. 64 KiB made restores a third slower.
	spanBytes = 8 << 20
	gapBytes  = 256 << 10
)

// Plan finds out what a restore of p, which Resolve returned, needs: of the blocks
// that hold its data, those that a base (nil: the target reads as zeros) has not got.
// dir is for what memory should not hold.
func (l *Log) Plan(ctx context.Context, p Point, base *Base, dir string) (*Plan, error) {
	image, err := l.Image(ctx, p, dir)
	if err != nil {
		return nil, err
	}
	return newPlan(ctx, image, true, base, nil, dir)
}

// catalogNumber is that of the catalog through which blocks are found; 0 is none.
func (l *Log) catalogNumber() uint64 {
	if l.Catalog == nil {
		return 0
	}
	return l.Catalog.Number
}

// Plan is that of all that the image holds.
func (m *Image) Plan(ctx context.Context, dir string) (*Plan, error) {
	return newPlan(ctx, m, false, nil, nil, dir)
}

// PlanOf is that of the extents that are wanted: of what a target lacks, which somebody
// knows better than a Base says.
func (m *Image) PlanOf(ctx context.Context, dir string, want func(e *extent.Extent) bool) (*Plan, error) {
	return newPlan(ctx, m, false, nil, want, dir)
}

func newPlan(ctx context.Context, m *Image, ours bool, base *Base, want func(e *extent.Extent) bool, dir string) (
	*Plan, error) {
	pl := &Plan{Point: m.Point, image: m, ours: ours, needs: extentmap.NewByBlock(dir), base: base, want: want,
		dir: dir}
	if err := pl.fill(ctx); err != nil {
		return pl, errors.Join(err, pl.Close())
	}
	return pl, nil
}

func (pl *Plan) fill(ctx context.Context) (err error) {
	l := pl.image.from()
	pl.seen, pl.moves, pl.base = l.catalogNumber(), l.movesUpTo(^uint64(0)), pl.base.under(l)
	if pl.base == nil {
		err = pl.all(ctx)
	} else {
		err = pl.difference(ctx, pl.base)
	}
	if err == nil {
		err = pl.needs.Flush()
	}
	if err == nil {
		err = pl.measure()
	}
	return err
}

// need takes an extent into the plan, if it is wanted.
func (pl *Plan) need(e *extent.Extent) error {
	if pl.want != nil && !pl.want(e) {
		return nil
	}
	return pl.needs.Add(e)
}

// all plans for a target of zeros.
func (pl *Plan) all(ctx context.Context) error {
	return pl.image.Map.Each(ctx, false, func(_ int64, extents []extent.Extent) error {
		for i := range extents {
			pl.LiveBytes += extents[i].Len
			if err := pl.need(&extents[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// difference plans for a target that holds the volume at another LSN, or a part of it:
// what was written between the two points, and what the base had not got to.
func (pl *Plan) difference(ctx context.Context, base *Base) error {
	p, m := pl.Point, pl.image.Map
	between, err := pl.image.from().Changed(ctx, p.Volume.Stream, min(base.Low, p.LSN), max(base.High, p.LSN), pl.dir)
	if err != nil {
		return err
	}
	defer between.Close()
	touched := &extentmap.Map{Volume: m.Volume, SizeBytes: m.SizeBytes, Recent: between}
	for leaf := int64(0); ; leaf++ {
		a, aok, err := m.Next(ctx, leaf)
		if err != nil {
			return err
		}
		b, bok, err := touched.Next(ctx, leaf)
		if err != nil {
			return err
		}
		c, cok := pl.dirty.next(leaf)
		if !aok && !bok && !cok {
			return nil
		}
		leaf = math.MaxInt64
		for _, next := range []struct {
			leaf int64
			ok   bool
		}{{a, aok}, {b, bok}, {c, cok}} {
			if next.ok {
				leaf = min(leaf, next.leaf)
			}
		}
		have, err := m.Resolve(ctx, leaf, false)
		if err != nil {
			return err
		}
		wrote, err := touched.Resolve(ctx, leaf, true)
		if err == nil {
			err = pl.leaf(have, append(wrote, pl.dirty.leaves[leaf]...), base)
		}
		if err != nil {
			return err
		}
	}
}

// leaf takes what is needed of a leaf: the data that it has now where something was
// written between, zeros where there was and is nothing now, and what the base is
// behind with.
func (pl *Plan) leaf(have, wrote []extent.Extent, base *Base) error {
	between := rangeset.New() // what was written between, less what is taken
	for i := range wrote {
		between.AddNew(wrote[i].Off, wrote[i].Len, func(int64, int64) {})
	}
	untouched := func(e *extent.Extent, fn func(off, n int64)) { between.AddNew(e.Off, e.Len, fn) }
	var err error
	add := func(e extent.Extent) {
		if err == nil {
			err = pl.need(&e)
		}
	}
	data := rangeset.New() // what has data now
	for i := range have {
		e := &have[i]
		pl.LiveBytes += e.Len
		data.AddNew(e.Off, e.Len, func(int64, int64) {})
		at := e.Off
		untouched(e, func(off, n int64) { // the runs between these were written
			if off > at {
				add(e.Cut(at, off-at))
			}
			if !e.Addr().Before(base.Done) {
				add(e.Cut(off, n))
			}
			at = off + n
		})
		if at < e.End() {
			add(e.Cut(at, e.End()-at))
		}
	}
	for i := range wrote {
		data.AddNew(wrote[i].Off, wrote[i].Len, func(off, n int64) { add(extent.Extent{Off: off, Len: n}) })
	}
	return err
}

// measure adds up what will be read.
func (pl *Plan) measure() error {
	last := ^objlog.ObjectID(0)
	var s span
	err := pl.needs.Each(func(e *extent.Extent) error {
		if e.Zeros() {
			pl.ZeroBytes += e.Len
			return nil
		}
		pl.NeedBytes += e.Len
		if e.Block.Object != last {
			last = e.Block.Object
			pl.Objects++
		}
		if !s.add(e.Block, spanBytes, gapBytes) {
			pl.Bytes += s.hi - s.lo
			s = span{}
			s.add(e.Block, spanBytes, gapBytes)
		}
		return nil
	})
	pl.Bytes += s.hi - s.lo
	return err
}
