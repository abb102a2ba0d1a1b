package extent

import (
	"bytes"
	"context"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/golden"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

var goldenHead = MapHead{
	Whole: true, Volume: 3, Part: 0, Journal: uuid.UUID{1}, Stream: uuid.UUID{2}, From: 11, To: 99,
	LastWrite: 1_795_000_000_000_000_001,
}

// goldenLeaves are extents in a segment's and in a pack's block, and zeros.
func goldenLeaves() map[int64][]Extent {
	in := Block{Object: 7, Offset: 400, StoredBytes: 1000, PlainBytes: 65536, CRC: 0xdeadbeef, Codec: change.CodecS2}
	moved := Block{Object: objlog.InPack(5 << 31), Offset: 48, StoredBytes: 4096, PlainBytes: 4096, CRC: 0xfeedf00d,
		Codec: change.CodecZstd}
	far := int64(1000 * LeafBytes)
	return map[int64][]Extent{
		0:    {{Off: 0, Len: 4096, At: 512, Block: in}, {Off: 4096, Len: 512}, {Off: 8192, Len: 4096, Block: moved}},
		1000: {{Off: far + 512, Len: 1024, At: 8192, Block: in}, {Off: far + LeafBytes - 512, Len: 512, Block: moved}},
	}
}

// goldenMap writes a map's object.
func goldenMap(t *testing.T) (body []byte, part MapObject) {
	b := MapBuilder{Head: goldenHead, Put: func(_ context.Context, p *MapObject, obj []byte) error {
		body, p.Name = bytes.Clone(obj), "map/golden"
		return nil
	}}
	for _, leaf := range []int64{0, 1000} {
		if err := b.Add(t.Context(), leaf, goldenLeaves()[leaf]); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	return body, b.Objects[0]
}

// TestGoldenMap: the map of an earlier build says what it said, whole and leaf by leaf.
func TestGoldenMap(t *testing.T) {
	today, part := goldenMap(t)
	obj := golden.Kept(t, "map", func() []byte { return today })
	got := map[int64][]Extent{}
	head, err := WalkMap(obj, func(leaf int64, extents []Extent) error {
		got[leaf] = slices.Clone(extents)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(goldenHead, head); diff != "" {
		t.Errorf("its head means something else: %s", diff)
	}
	if diff := cmp.Diff(goldenLeaves(), got); diff != "" {
		t.Errorf("it means something else: %s", diff)
	}

	s, err := objstore.Open(t.Context(), "file://"+t.TempDir(), objstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Create(t.Context(), part.Name, obj); err != nil {
		t.Fatal(err)
	}
	part.Bytes = int64(len(obj))
	y := OpenLayer(s, true, []MapObject{part})
	for _, leaf := range []int64{0, 1, 1000} {
		extents, err := y.Leaf(t.Context(), leaf)
		if diff := cmp.Diff(goldenLeaves()[leaf], extents); err != nil || diff != "" {
			t.Errorf("leaf %d: %v %s", leaf, err, diff)
		}
	}
}
