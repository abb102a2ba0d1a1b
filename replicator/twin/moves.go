package twin

import (
	"container/list"
	"context"
	"fmt"
	"sync"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/objlog/pack"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

const (
	// cachedPacks is how many packs' tables are in memory.
	cachedPacks   = 32
	packTailBytes = 256 << 10
)

// moves knows which objects' blocks garbage collection moved into packs.
type moves struct {
	store objstore.Store
	mu    sync.Mutex
	to    map[objlog.ObjectID]catalog.Pack // by the object that the blocks were in
	cache map[uint64]*list.Element
	order list.List // of *pack.Index, the one used last in front
}

func newMoves(s objstore.Store, c *catalog.Catalog) *moves {
	m := &moves{store: s, cache: map[uint64]*list.Element{}}
	m.take(c)
	return m
}

func (m *moves) take(c *catalog.Catalog) {
	m.to = map[objlog.ObjectID]catalog.Pack{}
	if c == nil {
		return
	}
	for _, p := range c.Packs {
		for _, old := range p.Moved {
			m.to[old] = p // the newest counts
		}
	}
}

// follow puts extents to where their blocks are now.
func (m *moves) follow(ctx context.Context, extents []extent.Extent) error {
	for i := range extents {
		e := &extents[i]
		for steps := 0; !e.Zeros(); steps++ {
			m.mu.Lock()
			p, moved := m.to[e.Block.Object]
			m.mu.Unlock()
			if !moved {
				break
			}
			x, err := m.index(ctx, &p)
			if err != nil {
				return err
			}
			next, ok := x.Find(e)
			if !ok || steps > 64 {
				return fail.New(fail.Damaged, "find",
					fmt.Sprintf("%s/%s at byte %d", m.store.URL(), e.Block.Object.Name(), e.Block.Offset),
					fmt.Sprintf("the block was moved, and %s does not have it", pack.Name(p.Number)))
			}
			*e = next
		}
	}
	return nil
}

// index returns a pack's tables.
func (m *moves) index(ctx context.Context, p *catalog.Pack) (*pack.Index, error) {
	m.mu.Lock()
	if e := m.cache[p.Number]; e != nil {
		m.order.MoveToFront(e)
		m.mu.Unlock()
		return e.Value.(*pack.Index), nil
	}
	m.mu.Unlock()
	var x *pack.Index
	err := objstore.Reread(func() (err error) {
		x, err = m.read(ctx, p)
		return err
	})
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cache[p.Number] == nil {
		m.cache[p.Number] = m.order.PushFront(x)
	}
	for m.order.Len() > cachedPacks {
		delete(m.cache, m.order.Remove(m.order.Back()).(*pack.Index).Number)
	}
	return x, nil
}

func (m *moves) read(ctx context.Context, p *catalog.Pack) (*pack.Index, error) {
	name := pack.Name(p.Number)
	tail, err := m.store.Read(ctx, name, -packTailBytes, -1, nil)
	if err != nil {
		return nil, err
	}
	need, err := pack.Tail(tail, p.Bytes)
	if err == nil && need > int64(len(tail)) {
		if tail, err = m.store.Read(ctx, name, -need, -1, nil); err != nil {
			return nil, err
		}
	}
	var x *pack.Index
	if err == nil {
		x, err = pack.Parse(tail, p.Bytes, p.Number)
	}
	return x, fail.At("read", m.store.URL()+"/"+name, err)
}

// Moved puts extents to where garbage collection moved their blocks.
func (l *Log) Moved(ctx context.Context, extents []extent.Extent) error {
	return l.moves.follow(ctx, extents)
}

// Fetch reads a block of the log or of a pack, and checks it.
func (l *Log) Fetch(ctx context.Context, blocks []extent.Block, fn func(b *extent.Block, plain []byte) error) error {
	return (&Image{log: l}).Blocks(ctx, blocks, fn)
}
