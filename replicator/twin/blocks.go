package twin

import (
	"context"
	"hash/crc32"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// span is a range of an object that is read at once: blocks in order.
type span struct {
	object objlog.ObjectID
	lo, hi int64
	plain  int64 // bytes of its blocks, decompressed
	blocks []extent.Block
	reread bool
}

// maxSpanPlain bounds what a span decompresses to: data can shrink a hundredfold.
const maxSpanPlain = 32 << 20

// add takes the next block, and reports whether it lies near enough to be read along.
func (s *span) add(b extent.Block, maxBytes, maxGap int64) bool {
	off, end := int64(b.Offset), int64(b.Offset)+int64(b.StoredBytes)
	switch {
	case len(s.blocks) == 0:
		s.object, s.lo, s.hi = b.Object, off, end
	case s.blocks[len(s.blocks)-1] == b:
		return true
	case b.Object != s.object || off < s.hi || off-s.hi > maxGap || end-s.lo > maxBytes ||
		s.plain+int64(b.PlainBytes) > maxSpanPlain:
		return false
	}
	s.hi = end
	s.plain += int64(b.PlainBytes)
	s.blocks = append(s.blocks, b)
	return true
}

// fetch reads a span's bytes.
func (l *Log) fetch(ctx context.Context, s *span, buf []byte) (b []byte, err error) {
	err = objstore.Reread(func() error {
		b, err = l.store.Read(ctx, s.object.Name(), s.lo, s.hi-s.lo, buf)
		if err == nil && int64(len(b)) < s.hi-s.lo {
			err = l.damagedObject(s.object, "object cut short at byte %d", s.lo+int64(len(b)))
		}
		return err
	})
	return b, err
}

// open decompresses a block of a fetched span into dst, which is as long as its plain
// bytes, and checks it. A span of which a block is damaged is read once more.
func (l *Log) open(ctx context.Context, s *span, raw []byte, b *extent.Block, dst []byte) error {
	err := l.openNow(s, raw, b, dst)
	if err == nil || s.reread {
		return err
	}
	s.reread = true
	again, err := l.fetch(ctx, s, nil)
	if err != nil {
		return err
	}
	copy(raw, again)
	return l.openNow(s, raw, b, dst)
}

func (l *Log) openNow(s *span, raw []byte, b *extent.Block, dst []byte) error {
	if err := change.Decompress(b.Codec, dst, raw[int64(b.Offset)-s.lo:][:b.StoredBytes]); err != nil {
		return l.damagedObject(s.object, "block at byte %d does not decompress: %v", b.Offset, err)
	}
	if crc32.Checksum(dst, castagnoli) != b.CRC {
		return l.damagedObject(s.object, "block at byte %d: its checksum does not match", b.Offset)
	}
	return nil
}

const (
	mountSpanBytes = 1 << 20
	mountGapBytes  = 16 << 10
	mountFetchers  = 4
)

// Blocks reads blocks, which are in order, each once, and calls fn with each one's
// plain bytes, from several goroutines.
func (m *Image) Blocks(ctx context.Context, blocks []extent.Block, fn func(b *extent.Block, plain []byte) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(mountFetchers)
	l := m.from()
	for len(blocks) > 0 {
		var s span
		n := 0
		for n < len(blocks) && s.add(blocks[n], mountSpanBytes, mountGapBytes) {
			n++
		}
		blocks = blocks[n:]
		g.Go(func() error {
			raw, err := l.fetch(ctx, &s, nil)
			if err != nil {
				return err
			}
			for i := range s.blocks {
				b := &s.blocks[i]
				plain := make([]byte, b.PlainBytes)
				if err := l.open(ctx, &s, raw, b, plain); err != nil {
					return err
				}
				if err := fn(b, plain); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// Assemble reads the parts of extents that lie in [off, off+len(buf)) of the volume into
// buf, each block once. Bytes that no extent has stay as they are. It returns how many plain
// bytes were read for it. Errors: fail.NotFound where garbage collection has moved a block
// (see Current), fail.Damaged.
func (m *Image) Assemble(ctx context.Context, buf []byte, off int64, extents []extent.Extent) (int64, error) {
	byBlock := map[extent.BlockAddr][]*extent.Extent{}
	var blocks []extent.Block
	read := int64(0)
	for i := range extents {
		p := extents[i].Addr()
		if byBlock[p] == nil {
			blocks = append(blocks, extents[i].Block)
			read += int64(extents[i].Block.PlainBytes)
		}
		byBlock[p] = append(byBlock[p], &extents[i])
	}
	slices.SortFunc(blocks, extent.CompareBlocks)
	return read, m.Blocks(ctx, blocks, func(b *extent.Block, plain []byte) error {
		for _, e := range byBlock[b.Addr()] {
			from, to := max(e.Off, off), min(e.End(), off+int64(len(buf)))
			copy(buf[from-off:to-off], plain[int64(e.At)+from-e.Off:])
		}
		return nil
	})
}
