package extentmap

import (
	"cmp"
	"container/list"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/flight"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/objlog/rangeset"
)

const (
	// defaultCacheBytes bounds the leaves that a Map keeps.
	defaultCacheBytes = 64 << 20
	// leafBytes and extentBytes are what one of them takes, about.
	leafBytes, extentBytes = 512, 64
)

// Map is where the bytes of a volume are at a point: what changed lately over layers,
// the newest first. Several goroutines may use it.
type Map struct {
	Volume    uint32
	SizeBytes int64
	Recent    *Sorter         // may be nil
	Layers    []*extent.Layer // newest first; those behind a whole one do not count
	// Moved puts extents to where their blocks were moved; nil: none were.
	Moved func(ctx context.Context, extents []extent.Extent) error

	mu     sync.Mutex
	cached map[int64]*list.Element
	order  list.List // of leaves, the one used last in front
	bytes  int64
	limit  int64 // of bytes; 0: defaultCacheBytes
	age    int   // how often the sources were replaced
	flight flight.Group[leafAge, []extent.Extent]
}

// leafAge names a leaf as some sources have it.
type leafAge struct {
	leaf int64
	age  int
}

// leafOf is what the cache holds.
type leafOf struct {
	leaf    int64
	extents []extent.Extent
}

// Leaf returns the data of a leaf: extents in order that do not overlap. What lies
// between them is zeros. The result is shared, and must not be changed.
func (m *Map) Leaf(ctx context.Context, leaf int64) ([]extent.Extent, error) {
	if out, ok := m.cachedLeaf(leaf); ok {
		return out, nil
	}
	m.mu.Lock()
	age := m.age
	m.mu.Unlock()
	return m.flight.Do(ctx, leafAge{leaf, age}, func() ([]extent.Extent, error) {
		out, err := m.Resolve(ctx, leaf, false)
		if err == nil {
			m.remember(leaf, age, out)
		}
		return out, err
	})
}

func (m *Map) cachedLeaf(leaf int64) ([]extent.Extent, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.cached[leaf]
	if e == nil {
		return nil, false
	}
	m.order.MoveToFront(e)
	return e.Value.(*leafOf).extents, true
}

func (m *Map) remember(leaf int64, age int, extents []extent.Extent) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if age != m.age {
		return // of sources that were replaced meanwhile
	}
	if m.cached == nil {
		m.cached = map[int64]*list.Element{}
	}
	if m.cached[leaf] != nil {
		return
	}
	m.cached[leaf] = m.order.PushFront(&leafOf{leaf, extents})
	m.bytes += leafBytes + extentBytes*int64(len(extents))
	m.trim()
}

// Limit bounds what the map keeps of the leaves that were asked for, in bytes of memory;
// the one asked for last stays.
func (m *Map) Limit(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.limit = bytes
	m.trim()
}

func (m *Map) trim() {
	limit := m.limit
	if limit == 0 {
		limit = defaultCacheBytes
	}
	for m.bytes > limit && m.order.Len() > 1 {
		old := m.order.Remove(m.order.Back()).(*leafOf)
		delete(m.cached, old.leaf)
		m.bytes -= leafBytes + extentBytes*int64(len(old.extents))
	}
}

// Resolve works a leaf out, past the cache. With zeros, what became zeros is there
// too, as it must be in a layer that others lie below.
func (m *Map) Resolve(ctx context.Context, leaf int64, zeros bool) ([]extent.Extent, error) {
	var out []extent.Extent
	var outside error
	c := rangeset.New()
	take := func(e *extent.Extent) bool {
		if e.End() > m.SizeBytes {
			outside = fail.New(fail.Damaged, "map", fmt.Sprintf("volume %d", m.Volume),
				fmt.Sprintf("a record of %d bytes at %d lies outside its %d bytes", e.Len, e.Off, m.SizeBytes))
			return false
		}
		c.AddNew(e.Off, e.Len, func(off, n int64) {
			if zeros || !e.Zeros() {
				out = append(out, e.Cut(off, n))
			}
		})
		return true
	}
	recent, layers, moved := m.sources()
	if recent != nil {
		if err := recent.leaf(m.Volume, leaf, take); err != nil {
			return nil, err
		}
	}
	for _, l := range layers {
		extents, err := l.Leaf(ctx, leaf)
		if err != nil {
			return nil, err
		}
		for i := range extents {
			if !take(&extents[i]) {
				break
			}
		}
		if l.Whole || outside != nil {
			break
		}
	}
	if outside != nil {
		return nil, outside
	}
	slices.SortFunc(out, func(a, b extent.Extent) int { return cmp.Compare(a.Off, b.Off) })
	if moved != nil {
		if err := moved(ctx, out); err != nil {
			return nil, err
		}
	}
	return join(out), nil
}

// Replace takes another map's sources, of the same volume and point.
func (m *Map) Replace(other *Map) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.Recent, m.Layers, m.Moved = other.Recent, other.Layers, other.Moved
	m.cached, m.bytes = nil, 0
	m.age++
	m.order.Init()
}

func (m *Map) sources() (*Sorter, []*extent.Layer, func(context.Context, []extent.Extent) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.Recent, m.Layers, m.Moved
}

// join makes one of neighbours that lie one behind the other in the same block, or
// are both zeros.
func join(in []extent.Extent) []extent.Extent {
	out := in[:0]
	for _, e := range in {
		if k := len(out) - 1; k >= 0 && out[k].End() == e.Off && out[k].Block == e.Block &&
			(e.Zeros() || out[k].At+uint32(out[k].Len) == e.At) {
			out[k].Len += e.Len
			continue
		}
		out = append(out, e)
	}
	return out
}

// Each resolves one leaf after another, past the cache, and calls fn with those that
// have anything. An error of fn ends it.
func (m *Map) Each(ctx context.Context, zeros bool, fn func(leaf int64, extents []extent.Extent) error) error {
	for leaf := int64(0); ; leaf++ {
		next, ok, err := m.Next(ctx, leaf)
		if err != nil || !ok {
			return err
		}
		leaf = next
		extents, err := m.Resolve(ctx, leaf, zeros)
		if err == nil && len(extents) > 0 {
			err = fn(leaf, extents)
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}

// Next returns the first leaf at or after one that may have data.
func (m *Map) Next(ctx context.Context, from int64) (leaf int64, ok bool, err error) {
	least := func(l int64, found bool, e error) {
		if err == nil {
			err = e
		}
		if found && (!ok || l < leaf) {
			leaf, ok = l, true
		}
	}
	recent, layers, _ := m.sources()
	if recent != nil {
		least(recent.next(m.Volume, from))
	}
	for _, l := range layers {
		least(l.Next(ctx, from))
		if l.Whole {
			break
		}
	}
	return leaf, ok && err == nil, err
}
