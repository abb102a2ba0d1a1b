package mount

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/pollux-dr/pollux/replicator/extent"
)

const (
	// pageBytes is the unit of what is here and what is not.
	pageBytes = 4096
	leafPages = extent.LeafBytes / pageBytes
	words     = leafPages / 64
)

type bitmap [words]uint64

func (b *bitmap) has(i int64) bool { return b[i/64]&(1<<(i%64)) != 0 }
func (b *bitmap) set(i int64)      { b[i/64] |= 1 << (i % 64) }

// leaf is what is here of 32 MiB of the volume. mu is held for reading while the file
// is read, and for writing while it or the bitmaps change.
type leaf struct {
	mu    sync.RWMutex
	have  bitmap
	dirty *bitmap // pages that the client wrote; nil: none
	data  bitmap  // clean pages that take room in the file
	used  atomic.Int64
	pins  atomic.Int32 // requests that are at it: nothing is dropped meanwhile
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

func (l *leaf) isDirty(i int64) bool { return l.dirty != nil && l.dirty.has(i) }

func (l *leaf) setDirty(i int64) {
	if l.dirty == nil {
		l.dirty = new(bitmap)
	}
	l.dirty.set(i)
	l.have.set(i)
}

// clean counts the pages that could be dropped.
func (l *leaf) clean() (n int64) {
	for i := range l.data {
		n += int64(bits.OnesCount64(l.data[i]))
	}
	return n
}
