package extentmap

import (
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/seed"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
)

// object is the index of a segment of one frame.
func object(t *testing.T, changes []change.Change) *segment.Index {
	h := change.Header{Stream: uuid.UUID{7}, FirstLSN: 1, FirstTime: 1, LastTime: 1, Epoch: 1, Lease: 1}
	e := change.Encoder{Codec: change.CodecNone}
	b, hash := e.Encode(&h, changes)
	head := segment.Head{Type: segment.Segment, Journal: uuid.UUID{1}, Position: 5, FirstIndex: 1, LastIndex: 1}
	obj, err := segment.Build(head,
		[]segment.Entry{segment.FrameEntryOf(&h, hash)}, nil,
		func(_ int, dst []byte) error { copy(dst, b); return nil })
	if err != nil {
		t.Fatal(err)
	}
	x, err := segment.Parse(obj)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func all(e *segment.Entry, _ *segment.Table) (uint64, error) { return e.LastLSN, nil }

// TestSorterNewest: what a frame leaves is the same in either way.
func TestSorterNewest(t *testing.T) {
	r := rand.New(rand.NewPCG(seed.New(t), 0))
	const size = 100 << 20
	for range 20 {
		var changes []change.Change
		for range 1 + r.IntN(60) {
			off, n := r.Int64N(size), 1+r.Int64N(3000)
			if n = min(n, size-off); r.IntN(3) > 0 {
				b := make([]byte, n)
				changes = append(changes, change.Change{Kind: change.Write, Volume: 1 + r.Uint32N(3), Off: off,
					Len:  uint32(n),
					Data: [][]byte{b}})
				continue
			}
			n = min(r.Int64N(size), size-off-1) + 1
			changes = append(changes, change.Change{Kind: change.Trim, Volume: 1 + r.Uint32N(3), Off: off,
				Len: uint32(n)})
		}
		x := object(t, changes)
		plain, newest := NewSorter(t.TempDir()), NewSorter(t.TempDir())
		plain.Sizes, newest.Sizes = map[uint32]int64{1: size, 2: size}, map[uint32]int64{1: size, 2: size}
		if err := plain.Object(x, all); err != nil {
			t.Fatal(err)
		}
		if err := x.EachTable(func(i int, tb *segment.Table) error {
			return newest.newest(x, i, tb, 1<<40)
		}); err != nil {
			t.Fatal(err)
		}
		for volume := uint32(1); volume <= 3; volume++ {
			for leaf := range int64(size/extent.LeafBytes + 1) {
				var got [2][]extent.Extent
				for i, s := range []*Sorter{plain, newest} {
					if err := s.Flush(); err != nil {
						t.Fatal(err)
					}
					var err error
					if got[i], err = (&Map{Volume: volume, SizeBytes: size, Recent: s}).
						Resolve(t.Context(), leaf, true); err != nil {
						t.Fatal(err)
					}
				}
				if diff := cmp.Diff(got[0], got[1]); diff != "" {
					t.Fatalf("volume %d leaf %d: %s", volume, leaf, diff)
				}
				if volume == 3 && len(got[0]) > 0 {
					t.Fatal("a volume that nobody can ask for is kept")
				}
			}
		}
		_, _ = plain.Close(), newest.Close()
	}
}

// TestSorterBounded: a frame of a few hundred KiB that names 256 TiB of trims takes no more than
// its volume is worth, and who reads beyond the end learns of it.
func TestSorterBounded(t *testing.T) {
	changes := make([]change.Change, change.MaxRecords)
	for i := range changes {
		changes[i] = change.Change{Kind: change.Trim, Volume: 1, Off: int64(i) << 32, Len: 1<<32 - 1}
	}
	x := object(t, changes)
	s := NewSorter(t.TempDir())
	defer s.Close()
	const size = 1 << 40
	s.Sizes = map[uint32]int64{1: size}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := s.Object(x, all); err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
		t.Errorf("%d MiB allocated", n>>20)
	}
	m := &Map{Volume: 1, SizeBytes: size, Recent: s}
	if got, err := m.Resolve(t.Context(), 1000, true); err != nil || len(got) == 0 {
		t.Errorf("a leaf inside: %d extents, %v", len(got), err)
	}
	err := m.Each(t.Context(), true, func(int64, []extent.Extent) error { return nil })
	if !fail.Is(err, fail.Damaged) {
		t.Errorf("records beyond the end: %v", err)
	}
}
