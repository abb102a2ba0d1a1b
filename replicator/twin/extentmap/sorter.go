package extentmap

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/objlog/rangeset"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
)

// Sorter takes what changed, in the order of the log, and gives it back leaf by leaf,
// newest first. It keeps it in a directory of its own, which is gone when it is
// closed. One goroutine adds; when that is done, any number read.
//
// Keys are volume (4), leaf (8), and the complement of a running number (8), all big
// endian; a value is a run of extents, newest first.
type Sorter struct {
	// Sizes are those of the volumes, by number, that may be asked for: what lies outside
	// of them is not kept, but for a byte that tells of it. Nil: all is kept.
	Sizes map[uint32]int64

	s          scratch
	seq        uint64
	run        []placed
	key, value []byte
	Count      int64 // extents added
}

// placed is an extent on its way into its leaf.
type placed struct {
	volume uint32
	leaf   int64
	order  int
	extent.Extent
}

// NewSorter makes one below dir ("" is the system's place for temporary files).
func NewSorter(dir string) *Sorter { return &Sorter{s: scratch{parent: dir}} }

// Close forgets all of it.
func (s *Sorter) Close() error { return s.s.close() }

// Flush makes all that was added readable. Errors are fail.Full.
func (s *Sorter) Flush() error { return s.s.flush() }

// Object adds the entries of an object for which want returns an LSN, but 0: of each,
// what it has up to that LSN. Errors are fail.Damaged where the tables are, fail.Full,
// and want's.
func (s *Sorter) Object(x *segment.Index,
	want func(e *segment.Entry, t *segment.Table) (through uint64, err error)) error {
	return x.EachTable(func(i int, t *segment.Table) error {
		through, err := want(&x.Entries[i], t)
		if err != nil || through == 0 {
			return err
		}
		s.run = s.run[:0]
		take := func(volume uint32, e extent.Extent) {
			s.Count++
			e.ByLeaf(func(leaf int64, part extent.Extent) {
				s.run = append(s.run, placed{volume, leaf, len(s.run), part})
			})
		}
		if s.leaves(t) > manyLeaves {
			return s.newest(x, i, t, through)
		}
		extent.Of(x, i, t, through, func(volume uint32, e extent.Extent) {
			if s.clip(volume, &e) {
				take(volume, e)
			}
		})
		return s.add()
	})
}

// manyLeaves is how many leaves one frame may touch, some of them again and again, until
// only what is left of its records at its end is looked at. A record of a few bytes can
// stand for 4 GiB of zeros.
const manyLeaves = 1 << 15

// leaves is about how many the records of a table touch.
func (s *Sorter) leaves(t *segment.Table) (n int64) {
	for k := range t.Records {
		r := &t.Records[k]
		e := extent.Extent{Off: r.Off, Len: int64(r.Len)}
		if s.clip(r.Volume, &e) {
			n += e.Len/extent.LeafBytes + 1
		}
	}
	return n
}

// clip cuts off what lies outside of the volume, and reports whether anything is left.
// Of a record that reaches beyond the end one byte stays there, so that whoever reads
// that part of the volume learns of it.
func (s *Sorter) clip(volume uint32, e *extent.Extent) bool {
	if s.Sizes == nil {
		return true
	}
	size, ok := s.Sizes[volume]
	if ok && e.End() > size {
		e.Off = min(e.Off, size)
		e.Len = size + 1 - e.Off
	}
	return ok
}

// newest adds an entry's records, but what later ones of it hide: their parts do not
// overlap then, and together are no more than the volumes.
func (s *Sorter) newest(x *segment.Index, i int, t *segment.Table, through uint64) error {
	type record struct {
		volume uint32
		extent.Extent
	}
	var all []record
	extent.Of(x, i, t, through, func(volume uint32, e extent.Extent) {
		if s.clip(volume, &e) {
			all = append(all, record{volume, e})
		}
	})
	hidden := map[uint32]*rangeset.Set{}
	var err error
	for k := len(all) - 1; k >= 0 && err == nil; k-- {
		r := &all[k]
		c := hidden[r.volume]
		if c == nil {
			c = rangeset.New()
			hidden[r.volume] = c
		}
		c.AddNew(r.Off, r.Len, func(off, n int64) {
			s.Count++
			e := r.Cut(off, n)
			e.ByLeaf(func(leaf int64, part extent.Extent) {
				if s.run = append(s.run, placed{r.volume, leaf, len(s.run), part}); len(s.run) >= manyLeaves &&
					err == nil {
					err = s.add()
					s.run = s.run[:0]
				}
			})
		})
	}
	if err == nil {
		err = s.add()
	}
	return err
}

// add stores the present run.
func (s *Sorter) add() error {
	slices.SortFunc(s.run, func(a, b placed) int {
		return cmp.Or(cmp.Compare(a.volume, b.volume), cmp.Compare(a.leaf, b.leaf), cmp.Compare(b.order, a.order))
	})
	s.seq++
	for from := 0; from < len(s.run); {
		p := &s.run[from]
		to := from
		s.value = s.value[:0]
		for ; to < len(s.run) && s.run[to].volume == p.volume && s.run[to].leaf == p.leaf; to++ {
			s.value = appendExtent(s.value, p.leaf, &s.run[to].Extent)
		}
		s.key = binary.BigEndian.AppendUint64(appendLeafKey(s.key[:0], p.volume, p.leaf), ^s.seq)
		if err := s.s.set(s.key, s.value); err != nil {
			return err
		}
		from = to
	}
	return nil
}

func appendLeafKey(b []byte, volume uint32, leaf int64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(b, volume), uint64(leaf))
}

func appendExtent(b []byte, leaf int64, e *extent.Extent) []byte {
	b = binary.AppendUvarint(b, uint64(e.Off-leaf*extent.LeafBytes))
	b = binary.AppendUvarint(b, uint64(e.Len))
	b = binary.AppendUvarint(b, uint64(e.Block.PlainBytes))
	if e.Zeros() {
		return b
	}
	b = binary.AppendUvarint(b, uint64(e.At))
	b = binary.AppendUvarint(b, uint64(e.Block.Object))
	b = binary.AppendUvarint(b, uint64(e.Block.Offset))
	b = binary.AppendUvarint(b, uint64(e.Block.StoredBytes))
	b = append(b, byte(e.Block.Codec))
	return binary.LittleEndian.AppendUint32(b, e.Block.CRC)
}

// parseExtents undoes appendExtent for a whole value.
func parseExtents(out []extent.Extent, leaf int64, b []byte) ([]extent.Extent, error) {
	bad := false
	next := func() uint64 {
		v, n := binary.Uvarint(b)
		if bad = bad || n <= 0; bad {
			return 0
		}
		b = b[n:]
		return v
	}
	for len(b) > 0 {
		e := extent.Extent{Off: leaf*extent.LeafBytes + int64(next()), Len: int64(next()),
			Block: extent.Block{PlainBytes: uint32(next())}}
		if !e.Zeros() {
			e.At = uint32(next())
			e.Block.Object, e.Block.Offset, e.Block.StoredBytes = objlog.ObjectID(next()), uint32(next()),
				uint32(next())
			if bad = bad || len(b) < 5; !bad {
				e.Block.Codec, e.Block.CRC = change.Codec(b[0]), binary.LittleEndian.Uint32(b[1:])
				b = b[5:]
			}
		}
		if bad {
			return nil, fail.New(fail.Internal, "read map of", fmt.Sprintf("leaf %d", leaf), "a value that cannot be")
		}
		out = append(out, e)
	}
	return out, nil
}

// leaf calls fn with the extents of a leaf, newest first, until it returns false.
func (s *Sorter) leaf(volume uint32, leaf int64, fn func(e *extent.Extent) bool) error {
	var extents []extent.Extent
	return s.s.each(appendLeafKey(nil, volume, leaf), appendLeafKey(nil, volume, leaf+1),
		func(_, value []byte) (bool, error) {
			var err error
			if extents, err = parseExtents(extents[:0], leaf, value); err != nil {
				return false, err
			}
			for i := range extents {
				if !fn(&extents[i]) {
					return false, nil
				}
			}
			return true, nil
		})
}

// next returns the first leaf of a volume at or after one that has anything.
func (s *Sorter) next(volume uint32, from int64) (leaf int64, ok bool, err error) {
	err = s.s.each(appendLeafKey(nil, volume, from), appendLeafKey(nil, volume+1, 0),
		func(key, _ []byte) (bool, error) {
			leaf, ok = int64(binary.BigEndian.Uint64(key[4:])), true
			return false, nil
		})
	return leaf, ok, err
}
