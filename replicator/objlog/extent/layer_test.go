package extent

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// randomLeaf has extents in order, with gaps and zeros.
func randomLeaf(r *rand.Rand, leaf int64, n int) (out []Extent) {
	blocks := make([]Block, 1+n/3)
	for i := range blocks {
		blocks[i] = Block{Object: objlog.InLog(r.Uint64N(1 << 40)), Offset: r.Uint32(),
			StoredBytes: 1 + r.Uint32N(4000), PlainBytes: change.BlockBytes, CRC: r.Uint32(), Codec: change.CodecS2}
	}
	at := leaf * LeafBytes
	for range n {
		e := Extent{Off: at + r.Int64N(3)*512, Len: 1 + r.Int64N(8192)}
		if r.IntN(6) > 0 {
			e.Block = blocks[r.IntN(len(blocks))]
			e.At = r.Uint32N(change.BlockBytes - 8192)
		}
		if e.End() > (leaf+1)*LeafBytes {
			break
		}
		out, at = append(out, e), e.End()
	}
	return out
}

// testLayer builds a layer of some leaves, in parts of any size.
func testLayer(t testing.TB, r *rand.Rand, leaves map[int64][]Extent, order []int64) (*Layer, map[string][]byte) {
	objects := map[string][]byte{}
	s, err := objstore.Open(t.Context(), "file://"+t.TempDir(), objstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	b := &MapBuilder{Head: MapHead{Whole: true, Volume: 3, Journal: uuid.UUID{1}, Stream: uuid.UUID{2}, From: 1, To: 9,
		LastWrite: 77}, Put: func(ctx context.Context, p *MapObject, body []byte) error {
		p.Name = fmt.Sprintf("map/%d", len(objects))
		objects[p.Name] = bytes.Clone(body)
		return s.Create(ctx, p.Name, body)
	}}
	for _, leaf := range order {
		if err := b.Add(t.Context(), leaf, leaves[leaf]); err != nil {
			t.Fatal(err)
		}
		if r.IntN(3) == 0 {
			if err := b.Finish(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := b.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	return OpenLayer(s, true, b.Objects), objects
}

func TestLayer(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	leaves, order := map[int64][]Extent{}, []int64{0, 1, 5, 6, 100, 4000}
	for _, leaf := range order {
		leaves[leaf] = randomLeaf(r, leaf, 1+r.IntN(300))
	}
	y, objects := testLayer(t, r, leaves, order)
	for _, leaf := range []int64{0, 1, 2, 5, 6, 7, 100, 101, 4000, 9999} {
		got, err := y.Leaf(t.Context(), leaf)
		if diff := cmp.Diff(leaves[leaf], got); err != nil || diff != "" {
			t.Fatalf("leaf %d: %v %s", leaf, err, diff)
		}
		want, ok := int64(0), false
		for _, l := range order {
			if l >= leaf && !ok {
				want, ok = l, true
			}
		}
		if next, found, err := y.Next(t.Context(), leaf); err != nil || found != ok || next != want {
			t.Errorf("next at %d: %d %v %v, want %d", leaf, next, found, err, want)
		}
	}
	for name, obj := range objects { // every byte is covered by a checksum
		for range 400 {
			b := bytes.Clone(obj)
			off := r.IntN(len(b))
			b[off] ^= 1 << r.IntN(8)
			if _, err := WalkMap(b, func(int64, []Extent) error { return nil }); !fail.Is(err, fail.Damaged) {
				t.Fatalf("%s: byte %d flipped: %v", name, off, err)
			}
			cut := obj[:r.IntN(len(obj))]
			if _, err := WalkMap(cut, func(int64, []Extent) error { return nil }); !fail.Is(err, fail.Damaged) {
				t.Fatalf("%s cut to %d bytes: %v", name, len(cut), err)
			}
		}
	}
}

// TestLeafTooMany: what could not be read back is not written.
func TestLeafTooMany(t *testing.T) {
	extents := make([]Extent, maxLeafExtents+1)
	for i := range extents {
		extents[i] = Extent{Off: int64(2 * i), Len: 1}
	}
	b := &MapBuilder{Put: func(context.Context, *MapObject, []byte) error { return nil }}
	if err := b.Add(t.Context(), 0, extents); !fail.Is(err, fail.Unsupported) || fail.HintOf(err) == "" {
		t.Errorf("%v", err)
	}
	if err := b.Add(t.Context(), 0, extents[:100]); err != nil {
		t.Error(err)
	}
}

// FuzzLayer: no object makes a reader panic, or believe what no writer writes.
func FuzzLayer(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 3))
	_, objects := testLayer(f, r, map[int64][]Extent{0: randomLeaf(r, 0, 20), 3: randomLeaf(r, 3, 5)}, []int64{0, 3})
	for _, b := range objects {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = WalkMap(b, func(leaf int64, extents []Extent) error {
			end := leaf * LeafBytes
			for i := range extents {
				if extents[i].Off < end || extents[i].End() > (leaf+1)*LeafBytes {
					t.Fatalf("extent %+v in leaf %d", extents[i], leaf)
				}
				end = extents[i].End()
			}
			return nil
		})
		if out, err := decodeLeaf(b, 2); err == nil {
			if again, err := decodeLeaf(encodeLeaf(nil, 2, out), 2); err != nil || len(again) != len(out) {
				t.Fatal(err)
			}
		}
	})
}
