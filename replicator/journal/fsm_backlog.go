package journal

import "sort"

// backlog counts the bytes of the frames that are not yet in every target, to
// about a stepBytes.
type backlog struct {
	total, dropped int64
	marks          []backlogMark
}

// backlogMark says how many bytes the frames up to index had, of all that were counted.
type backlogMark struct {
	index uint64
	total int64
}

const stepBytes = 1 << 20

// add counts a frame of n bytes under its index.
func (b *backlog) add(index uint64, n int64) {
	b.total += n
	if k := len(b.marks) - 1; k > 0 && b.total-b.marks[k-1].total < stepBytes {
		b.marks[k] = backlogMark{index, b.total}
		return
	}
	b.marks = append(b.marks, backlogMark{index, b.total})
}

// drop forgets the frames below floor.
func (b *backlog) drop(floor uint64) {
	n := 0
	for n < len(b.marks) && b.marks[n].index < floor {
		b.dropped = b.marks[n].total
		n++
	}
	b.marks = append(b.marks[:0], b.marks[n:]...)
}

// bytes is the bytes of all frames that were not dropped.
func (b *backlog) bytes() int64 { return b.total - b.dropped }

// after is the bytes of the frames after index.
func (b *backlog) after(index uint64) int64 {
	n := sort.Search(len(b.marks), func(i int) bool { return b.marks[i].index > index })
	if n == 0 {
		return b.total - b.dropped
	}
	return b.total - b.marks[n-1].total
}
