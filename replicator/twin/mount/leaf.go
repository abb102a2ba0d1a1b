package mount

import (
	"container/list"
	"encoding/binary"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/pollux-dr/pollux/replicator/objlog/extent"
)

const (
	// pageBytes is the unit of what is here and what is not.
	pageBytes = 4096
	leafPages = extent.LeafBytes / pageBytes
	words     = leafPages / 64
	// leafMemoryBytes is what a leaf takes at most while it is in memory.
	leafMemoryBytes = 3*8*words + 256
	// leafStateBytes is its room in the file of states.
	leafStateBytes = 3 * 8 * words
)

type bitmap [words]uint64

func (b *bitmap) has(i int64) bool { return b[i/64]&(1<<(i%64)) != 0 }
func (b *bitmap) set(i int64)      { b[i/64] |= 1 << (i % 64) }
func (b *bitmap) unset(i int64)    { b[i/64] &^= 1 << (i % 64) }

func (b *bitmap) count() (n int32) {
	for _, w := range b {
		n += int32(bits.OnesCount64(w))
	}
	return n
}

// leaf is what is here of 32 MiB of the volume. mu is held for reading while the file
// is read, and for writing while it or the bitmaps change.
type leaf struct {
	number int64
	mu     sync.RWMutex
	have   bitmap
	dirty  bitmap       // pages that the client wrote
	data   bitmap       // clean pages that take room in the file
	clean  atomic.Int32 // how many those are
	saved  bool         // the file of states knows something of it

	// Of the device's list, and under its lock.
	pins  int // requests that are at it: it stays in memory meanwhile
	place *list.Element
}

// missing returns the first page of [from, to) that is not here, and how many follow
// it that are not either.
func (l *leaf) missing(from, to int64) (first, n int64) {
	for first = from; first < to && l.have.has(first); first++ {
	}
	for n = 0; first+n < to && !l.have.has(first+n); n++ {
	}
	return first, n
}

func (l *leaf) setDirty(i int64) {
	l.dirty.set(i)
	l.have.set(i)
}

// encode appends the leaf's state.
func (l *leaf) encode(dst []byte) []byte {
	for _, b := range []*bitmap{&l.have, &l.dirty, &l.data} {
		for _, w := range b {
			dst = binary.LittleEndian.AppendUint64(dst, w)
		}
	}
	return dst
}

// decode takes a state, which is zeros where none was saved.
func (l *leaf) decode(state []byte) {
	for _, b := range []*bitmap{&l.have, &l.dirty, &l.data} {
		for i := range b {
			b[i] = binary.LittleEndian.Uint64(state)
			l.saved = l.saved || b[i] != 0
			state = state[8:]
		}
	}
	l.clean.Store(l.data.count())
}
