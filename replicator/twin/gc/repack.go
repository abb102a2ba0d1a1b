package gc

import (
	"cmp"
	"context"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/objlog/fold"
	"github.com/pollux-dr/pollux/replicator/objlog/pack"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	// packBytes is the size at which a pack is closed.
	packBytes = 32 << 20
	// fetchTogether is how many plain bytes of old blocks are in memory at once.
	fetchTogether = 16 << 20
)

func union(runs []run) (out []run) {
	slices.SortFunc(runs, func(a, b run) int { return cmp.Compare(a.at, b.at) })
	for _, r := range runs {
		if k := len(out) - 1; k >= 0 && r.at <= out[k].end {
			out[k].end = max(out[k].end, r.end)
			continue
		}
		out = append(out, r)
	}
	return out
}

// packer moves what is needed of sparse objects into packs.
type packer struct {
	w      *writer
	c      *catalog.Catalog // that is being made
	b      *pack.Builder
	moved  []objlog.ObjectID // into the pack that is being built
	fill   []byte
	sum    uint32
	made   int
	bytes  int64
	pieces []pack.Piece // of the block that is being filled, their block not yet known
}

// repack moves the blocks of the objects for which sparse says so.
func (p *packer) repack(ctx context.Context, r *refs, sparse map[objlog.ObjectID]bool) error {
	var batch []*liveBlock
	size := 0
	flush := func() error {
		defer func() { batch, size = nil, 0 }()
		return p.move(ctx, batch)
	}
	last := objlog.ObjectID(0)
	err := r.each(func(b *liveBlock) error {
		if !sparse[b.Object] {
			return nil
		}
		if b.Object != last && (size >= fetchTogether || p.size() >= packBytes) { // an object's pieces lie in one pack
			if err := flush(); err != nil {
				return err
			}
			if p.size() >= packBytes {
				if err := p.close(ctx); err != nil {
					return err
				}
			}
		}
		last = b.Object
		batch, size = append(batch, &liveBlock{b.Block, b.volume, slices.Clone(b.runs)}), size+int(b.PlainBytes)
		return nil
	})
	if err == nil {
		err = flush()
	}
	if err == nil {
		err = p.close(ctx)
	}
	return err
}

func (p *packer) size() int {
	if p.b == nil {
		return 0
	}
	return p.b.Bytes()
}

// move takes what is needed of some blocks, as many at once as memory allows.
func (p *packer) move(ctx context.Context, batch []*liveBlock) error {
	for len(batch) > 0 {
		n, size := 0, 0
		for n < len(batch) && size < fetchTogether {
			size += int(batch[n].PlainBytes)
			n++
		}
		if err := p.moveTogether(ctx, batch[:n]); err != nil {
			return err
		}
		batch = batch[n:]
	}
	return nil
}

// moveTogether goes volume by volume: who reads one finds its bytes together.
func (p *packer) moveTogether(ctx context.Context, batch []*liveBlock) error {
	blocks, plains := make([]extent.Block, len(batch)), make(map[extent.BlockAddr][]byte, len(batch))
	for i, b := range batch {
		blocks[i] = b.Block
	}
	var mu sync.Mutex
	err := p.w.log.Fetch(ctx, blocks, func(b *extent.Block, plain []byte) error {
		mu.Lock()
		defer mu.Unlock()
		plains[b.Addr()] = plain
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortStableFunc(batch, func(a, b *liveBlock) int { return cmp.Compare(a.volume, b.volume) })
	for i, b := range batch {
		if i > 0 && b.volume != batch[i-1].volume {
			p.flush()
		}
		if err := p.take(b, plains[b.Addr()]); err != nil {
			return err
		}
	}
	p.flush()
	return nil
}

// packNumber is above those of all packs of earlier catalogs: a restore that goes on
// behind a place must find behind it what was moved meanwhile. Of two runs that make the
// same catalog one is in vain, and its packs are garbage.
func packNumber(c *catalog.Catalog) uint64 { return c.Number<<31 | rand.Uint64N(1<<31) }

// LastPacked is when the newest pack for a catalog was made, by the store's clock; zero where
// there is none. While that catalog is not there, a collection may be at work on it.
func LastPacked(ctx context.Context, s objstore.Store, number uint64) (last time.Time, err error) {
	err = s.List(ctx, "pack/", pack.Name(number<<31-1), func(i objstore.Info) error {
		if i.Modified.After(last) {
			last = i.Modified
		}
		return nil
	})
	return last, err
}

// take copies a block's runs. The checksums of its parts must make up the block's: what
// is copied is what was summed beside the write.
func (p *packer) take(b *liveBlock, plain []byte) error {
	if p.b == nil {
		p.b = &pack.Builder{Number: packNumber(p.c), Journal: p.c.Journal}
	}
	if !slices.Contains(p.moved, b.Object) { // few: a pack's worth
		p.moved = append(p.moved, b.Object)
	}
	sum, pos := uint32(0), uint32(0)
	part := func(end uint32) uint32 {
		c := crc32.Checksum(plain[pos:end], castagnoli)
		sum = fold.CombineCRC(sum, c, int(end-pos))
		return c
	}
	for _, r := range b.runs {
		part(r.at)
		// a run is never cut in two: an extent is found in one piece
		if pos = r.at; len(p.fill)+int(r.end-r.at) > change.BlockBytes {
			p.flush()
		}
		c := part(r.end)
		p.pieces = append(p.pieces, pack.Piece{Object: b.Object, Offset: b.Offset, At: r.at, Len: r.end - r.at,
			NewAt: uint32(len(p.fill))})
		p.fill = append(p.fill, plain[r.at:r.end]...)
		p.sum = fold.CombineCRC(p.sum, c, int(r.end-r.at))
		pos = r.end
	}
	part(uint32(len(plain)))
	if sum != b.CRC {
		return fail.New(fail.Damaged, "move", fmt.Sprintf("block at byte %d", b.Offset),
			"the checksums of its parts do not make up its own")
	}
	return nil
}

// flush ends the block that is being filled.
func (p *packer) flush() {
	if len(p.fill) == 0 {
		return
	}
	k := p.b.Block(p.fill, p.sum)
	for _, x := range p.pieces {
		x.Block = k
		p.b.Piece(x)
	}
	p.pieces, p.fill, p.sum = p.pieces[:0], p.fill[:0], 0
}

// close stores the pack that is being built.
func (p *packer) close(ctx context.Context) error {
	if p.b == nil {
		return nil
	}
	p.flush()
	body := p.b.Finish()
	if err := p.w.store.Create(ctx, pack.Name(p.b.Number), body); err != nil {
		return err
	}
	p.c.Packs = append(p.c.Packs, catalog.Pack{Number: p.b.Number, Bytes: int64(len(body)), Moved: p.moved})
	p.made++
	p.bytes += int64(len(body))
	p.b, p.moved = nil, nil
	return nil
}
