package fold

import (
	"bytes"
	"cmp"
	"context"
	"slices"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/rangeset"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
)

// Fetch returns the bytes of frame i of the run, in buf where it is large enough.
type Fetch func(i int, buf []byte) ([]byte, error)

// Frames folds n frames that follow one another in one stream, and appends the fold
// to dst. Each is fetched twice at most, so that memory is bounded by what is left of
// them. Errors are Fetch's, fail.Damaged for frames that are not what they were or do
// not follow, and fail.Invalid for a run that must not or cannot be folded.
func Frames(ctx context.Context, dst []byte, n int, effort change.Effort, fetch Fetch) (
	[]byte, *segment.FoldHeader, error) {
	f := folder{ctx: ctx, fetch: fetch, out: packer{effort: effort}}
	if n == 0 || n > segment.MaxFoldFrames {
		return dst, nil, fail.New(fail.Invalid, "fold", "frames", "too many or none")
	}
	defer f.out.running.Wait()
	if err := f.survey(n); err != nil {
		return dst, nil, err
	}
	if err := f.findLive(n); err != nil {
		return dst, nil, err
	}
	for i := range n {
		if err := f.take(i); err != nil {
			return dst, nil, err
		}
	}
	blocks := f.out.finish()
	if f.out.total > segment.MaxFoldPlainBytes {
		return dst, nil, errTooMuch
	}
	return segment.EncodeFold(dst, &f.h, f.headers, f.liveRecords, blocks), &f.h, nil
}

// maxRecords bounds memory: of the run, and of what is left of it.
const maxRecords = 1 << 18

var errTooMuch = fail.New(fail.Invalid, "fold", "frames", "too much is left of them, or too many records")

// folder makes one fold.
type folder struct {
	ctx         context.Context
	fetch       Fetch
	h           segment.FoldHeader
	headers     []byte
	records     []source
	live        []piece // of all records, in the order of their data
	first       []int   // per frame, its first in live; one more at the end
	liveRecords []change.Record
	out         packer

	frame change.Frame
	buf   []byte
	plain []byte
}

// source is a record of the run.
type source struct {
	frame  int
	kind   change.Kind
	volume uint32
	off    int64
	length uint32
	data   int // offset in its frame's plain bytes
}

// piece is a run of live bytes of a record.
type piece struct {
	record int
	off    int64
	length int64
}

// survey reads all frames' tables and checks that they follow one another.
func (f *folder) survey(n int) error {
	f.h = segment.FoldHeader{Codec: change.CodecZstd}
	var at change.Point
	for i := range n {
		if err := f.load(i); err != nil {
			return err
		}
		r := &f.frame
		if i == 0 {
			f.h.Stream, f.h.FirstLSN, f.h.FirstTime, f.h.Prev = r.Stream, r.FirstLSN, r.FirstTime, r.Prev
			at = change.Point{LSN: r.FirstLSN - 1, Hash: r.Prev}
		}
		if r.Stream != f.h.Stream {
			return fail.New(fail.Invalid, "fold", "frames", "of two streams")
		}
		if err := r.Follows(at); err != nil {
			return err
		}
		if r.Flags&change.FlagMarks != 0 {
			return fail.New(fail.Invalid, "fold", "frames", "one holds a mark, whose point must stay")
		}
		at = change.Point{LSN: r.LastLSN, Hash: r.Hash}
		f.h.LastLSN, f.h.LastTime, f.h.Last = r.LastLSN, r.LastTime, r.Hash
		f.h.FrameBytes += int64(r.FrameBytes())
		f.h.FramePlainBytes += int64(r.PlainBytes)
		f.headers = append(f.headers, f.buf[:change.HeaderBytes]...)
		if len(f.records)+len(r.Records) > maxRecords {
			return errTooMuch
		}
		for k := range r.Records {
			c := &r.Records[k]
			f.records = append(f.records, source{i, c.Kind, c.Volume, c.Off, c.Len, c.DataOffset()})
		}
	}
	return nil
}

func (f *folder) load(i int) error {
	if err := f.ctx.Err(); err != nil {
		return err
	}
	b, err := f.fetch(i, f.buf[:0])
	if err != nil {
		return err
	}
	f.buf = b
	return f.frame.Reset(b)
}

// findLive finds, newest first, what is live of each record.
func (f *folder) findLive(n int) error {
	newer := map[uint32]*rangeset.Set{}
	for i := len(f.records) - 1; i >= 0; i-- {
		if len(f.live) > maxRecords {
			return errTooMuch
		}
		if err := f.ctx.Err(); err != nil {
			return err
		}
		r := &f.records[i]
		c := newer[r.volume]
		if c == nil {
			c = rangeset.New()
			newer[r.volume] = c
		}
		c.AddNew(r.off, int64(r.length), func(off, n int64) { f.live = append(f.live, piece{i, off, n}) })
	}
	slices.SortFunc(f.live, func(a, b piece) int {
		return cmp.Or(cmp.Compare(a.record, b.record), cmp.Compare(a.off, b.off))
	})
	k := 0
	for frame := range n + 1 {
		for k < len(f.live) && f.records[f.live[k].record].frame < frame {
			k++
		}
		f.first = append(f.first, k)
	}
	return nil
}

// take adds what is live of frame i.
func (f *folder) take(i int) error {
	live := f.live[f.first[i]:f.first[i+1]]
	if len(live) == 0 {
		return nil
	}
	var runs []span
	for _, p := range live {
		r := &f.records[p.record]
		k := change.Record{Kind: r.kind, Volume: r.volume, Off: p.off, Len: uint32(p.length)}
		if r.kind == change.Write {
			k.DataLen = k.Len
			at := r.data + int(p.off-r.off)
			runs = append(runs, span{at, at + int(p.length)})
		}
		f.liveRecords = append(f.liveRecords, k)
	}
	if len(runs) == 0 {
		return nil
	}
	if err := f.load(i); err != nil {
		return err
	}
	if !bytes.Equal(f.buf[:80], f.headers[i*change.HeaderBytes:][:80]) {
		return fail.New(fail.Damaged, "fold", "frame", "another one lies there than a moment ago")
	}
	return f.copyRuns(runs)
}

// span is [from, to) of a frame's plain bytes.
type span struct{ from, to int }

// copyRuns moves the runs, which are in ascending order, to the packer block by
// block. Blocks of which nothing is live are not even opened: the frame's digest
// vouches for them.
func (f *folder) copyRuns(runs []span) error {
	at := 0 // of the block in the plain bytes
	for _, b := range f.frame.BlockTable() {
		end := at + int(b.PlainBytes)
		for len(runs) > 0 && runs[0].to <= at {
			runs = runs[1:]
		}
		if len(runs) == 0 {
			return nil
		}
		if runs[0].from < end {
			if cap(f.plain) < change.BlockBytes {
				f.plain = make([]byte, change.BlockBytes)
			}
			plain := f.plain[:b.PlainBytes]
			if err := f.frame.OpenBlock(b, plain); err != nil {
				return err
			}
			if f.out.take(plain, at, runs) != b.CRC {
				return fail.New(fail.Damaged, "fold", "frame", "block checksum does not match")
			}
		}
		at = end
	}
	return nil
}
