package agent

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"github.com/pollux-dr/pollux/agent/arena"
	"github.com/pollux-dr/pollux/agent/backing"
	"github.com/pollux-dr/pollux/agent/overlay"
	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// Volume is a protected block device. It implements block.Device.
type Volume struct {
	conf    VolumeConf
	s       *stream
	overlay *overlay.Overlay
	back    backing.Backing

	syncMu  sync.Mutex // one initial sync at a time
	removed bool       // removed; guarded by s.mu
	absent  bool       // its backing could not be opened at the start
}

var _ block.Device = (*Volume)(nil)

// Info describes the volume to front ends.
func (v *Volume) Info() block.Info { return InfoOf(v.conf.Name, v.conf.Group, v.conf.SizeBytes) }

// InfoOf is the Info of a volume that an agent serves.
func InfoOf(name, group string, sizeBytes int64) block.Info {
	return block.Info{SizeBytes: sizeBytes, MinBlockBytes: 1, PrefBlockBytes: 4096,
		Description: "Pollux volume " + name + " of group " + group}
}

func (v *Volume) check(op string, off, n int64) error {
	if off < 0 || n < 0 || off > v.conf.SizeBytes-n {
		return fail.New(fail.Invalid, op, v.conf.Name,
			fmt.Sprintf("bytes %d to %d lie outside its %d bytes", off, off+n, v.conf.SizeBytes))
	}
	return nil
}

// ReadAt fills p from the overlay and, where that holds nothing, the backing.
func (v *Volume) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := v.check("read", off, int64(len(p))); err != nil {
		return err
	}
	if err := v.unparked(ctx); err != nil {
		return err
	}
	var few [8]overlay.Range
	missing := v.overlay.Read(p, off, few[:0])
	if len(missing) == 0 {
		return nil
	}
	if err := v.s.rlockBackings(ctx); err != nil {
		return err
	}
	defer v.s.backings.mu.RUnlock()
	for _, r := range missing {
		if err := v.back.ReadAt(p[r.Off-off:r.Off-off+r.Len], r.Off); err != nil {
			return err
		}
	}
	return nil
}

// buffer is arena memory on loan to a front end.
type buffer struct {
	v      *Volume
	buf    arena.Buf
	pieces [][]byte
	recs   []rec // scratch of Write
}

var buffers = sync.Pool{New: func() any { return new(buffer) }}

func (b *buffer) Pieces() [][]byte { return b.pieces }

func (b *buffer) Release() {
	b.v.s.a.mem.ReleaseBuf(b.buf)
	b.recycle()
}

func (b *buffer) recycle() {
	b.v = nil
	clear(b.recs)
	b.recs = b.recs[:0]
	buffers.Put(b)
}

// Prepare returns arena memory, waiting while there is none.
func (v *Volume) Prepare(ctx context.Context, n int) (block.Buffer, error) {
	if n <= 0 || n > block.MaxWriteBytes {
		return nil, fail.New(fail.Invalid, "write", v.conf.Name, fmt.Sprintf("%d bytes at once", n))
	}
	if err := v.s.admit(ctx); err != nil {
		return nil, err
	}
	buf, err := v.s.a.mem.Alloc(ctx, n)
	if err != nil {
		return nil, fail.Wrap(fail.Retry, "write", v.conf.Name, err)
	}
	b := buffers.Get().(*buffer)
	b.v, b.buf = v, buf
	b.pieces = v.s.a.mem.Pieces(b.pieces[:0], buf)
	return b, nil
}

// Write acknowledges the buffer's bytes at off.
func (v *Volume) Write(ctx context.Context, bb block.Buffer, off int64, fua bool) error {
	b, ok := bb.(*buffer)
	if !ok || b.v != v {
		return fail.New(fail.Internal, "write", v.conf.Name, "a buffer of another device")
	}
	if err := v.check("write", off, int64(b.buf.Len)); err != nil {
		b.Release()
		return err
	}
	b.split(off)
	return v.submit(ctx, b.recs, fua, b.recycle)
}

// split turns the buffer into records: what is zeros becomes a zero record and
// gives its memory back; a large write is looked at chunk by chunk.
func (b *buffer) split(off int64) {
	addr, done := b.buf.Addr, 0
	for i, p := range b.pieces {
		zero := allZero(p)
		k := len(b.recs) - 1
		switch {
		case k >= 0 && zero && b.recs[k].Kind == change.Zero:
			b.recs[k].Len += uint32(len(p))
		case k >= 0 && !zero && b.recs[k].Kind == change.Write:
			b.recs[k].Len += uint32(len(p))
			b.recs[k].Buf.Len += len(p)
		default:
			r := rec{vol: b.v, Entry: arena.Entry{Kind: change.Zero, Volume: b.v.conf.Number,
				Off: off + int64(done), Len: uint32(len(p))}}
			if !zero {
				r.Kind = change.Write
				r.Buf = arena.Buf{Addr: addr, Len: len(p)}
			}
			b.recs = append(b.recs, r)
		}
		done += len(p)
		if i+1 < len(b.pieces) {
			next := b.v.s.a.mem.Next(addr)
			if zero {
				b.v.s.a.mem.ReleaseBuf(arena.Buf{Addr: addr, Len: len(p)})
			}
			addr = next
		} else if zero {
			b.v.s.a.mem.ReleaseBuf(arena.Buf{Addr: addr, Len: len(p)})
		}
	}
}

var zeroBlock [arena.ChunkBytes]byte

func allZero(p []byte) bool {
	return p[0] == 0 && p[len(p)-1] == 0 && bytes.Equal(p, zeroBlock[:len(p)])
}

// submit takes slots for recs, acknowledges them, and with fua makes them
// durable. done is called when recs are no longer needed.
func (v *Volume) submit(ctx context.Context, recs []rec, fua bool, done func()) error {
	mem := v.s.a.mem
	for i := range recs {
		slot, err := mem.AllocSlot(ctx)
		if err != nil {
			for k := range recs {
				if k < i {
					mem.Free([]arena.Item{{Slot: recs[k].slot, Buf: recs[k].Buf}})
				} else {
					mem.ReleaseBuf(recs[k].Buf)
				}
			}
			done()
			return fail.Wrap(fail.Retry, "write", v.conf.Name, err)
		}
		recs[i].slot = slot
	}
	lsn, err := v.s.submit(recs)
	for err == errHeld {
		if err = v.s.released(ctx); err == nil {
			lsn, err = v.s.submit(recs)
		}
	}
	if err != nil {
		for _, r := range recs {
			mem.Free([]arena.Item{{Slot: r.slot, Buf: r.Buf}})
		}
		done()
		return err
	}
	large := int64(recs[len(recs)-1].Len) > overlay.WideBytes
	done()
	if large { // it needs no memory, the want of which slows other writers, and the backing takes long
		if err := v.s.flushTo(ctx, lsn); err != nil {
			return err
		}
		if err := v.s.await(ctx, func() bool { return v.s.apply.applied.LSN >= lsn }); err != nil {
			return err
		}
	}
	if fua {
		return v.s.awaitAck(ctx, lsn)
	}
	return nil
}

// Zero makes the range zeros.
func (v *Volume) Zero(ctx context.Context, off, n int64, noHole, fua bool) error {
	kind := change.Trim
	if noHole {
		kind = change.Zero
	}
	return v.blank(ctx, "zero", kind, off, n, fua)
}

// Trim discards the range; it reads as zeros from now on.
func (v *Volume) Trim(ctx context.Context, off, n int64, fua bool) error {
	return v.blank(ctx, "trim", change.Trim, off, n, fua)
}

func (v *Volume) blank(ctx context.Context, op string, kind change.Kind, off, n int64, fua bool) error {
	if err := v.check(op, off, n); err != nil {
		return err
	}
	if err := v.s.admit(ctx); err != nil {
		return err
	}
	for n > 0 {
		k := min(n, maxZeroBytes)
		r := []rec{{vol: v, Entry: arena.Entry{Kind: kind, Volume: v.conf.Number, Off: off, Len: uint32(k)}}}
		if err := v.submit(ctx, r, fua, func() {}); err != nil {
			return err
		}
		off, n = off+k, n-k
	}
	return nil
}

// Flush makes every acknowledged write of the group as safe as its policy says.
func (v *Volume) Flush(ctx context.Context) error { return v.s.awaitAck(ctx, v.s.lastLSN()) }

// Extents merges what the overlay holds with the backing's allocation.
func (v *Volume) Extents(ctx context.Context, off, n int64) ([]block.Extent, error) {
	if err := v.check("describe", off, n); err != nil {
		return nil, err
	}
	n = min(n, 256<<20)
	data := v.overlay.Blocks(off, n) // before the backing, as with reads
	if err := v.s.rlockBackings(ctx); err != nil {
		return nil, err
	}
	defer v.s.backings.mu.RUnlock()
	for pos := off; pos < off+n; {
		start, k, err := v.back.Data(pos)
		if err != nil {
			return nil, err
		}
		if k == 0 || start >= off+n {
			break
		}
		data = append(data, overlay.Range{Off: start, Len: k})
		pos = start + k
	}
	return mergeExtents(off, n, data), nil
}

// mergeExtents turns ranges that hold data into a gapless description.
func mergeExtents(off, n int64, data []overlay.Range) []block.Extent {
	overlay.Sort(data)
	var out []block.Extent
	add := func(bytes int64, hole bool) {
		if bytes <= 0 {
			return
		}
		if k := len(out) - 1; k >= 0 && out[k].Hole == hole {
			out[k].Bytes += bytes
			return
		}
		out = append(out, block.Extent{Bytes: bytes, Hole: hole, Zero: hole})
	}
	pos, end := off, off+n
	for _, r := range data {
		start, stop := max(r.Off, pos), min(r.Off+r.Len, end)
		if start >= stop {
			continue
		}
		add(start-pos, true)
		add(stop-start, false)
		pos = stop
	}
	add(end-pos, true)
	return out
}
