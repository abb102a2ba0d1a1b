package change

import (
	"bytes"
	"testing"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/fail"
)

// frameBehind is a frame of one write that follows a point.
func frameBehind(id StreamID, at Point) (AppendItem, Point) {
	h := Header{Stream: id, FirstLSN: at.LSN + 1, Prev: at.Hash, FirstTime: 1, LastTime: 1}
	var enc Encoder
	b, hash := enc.Encode(&h, []Change{{Kind: Write, Volume: 1, Len: 4096, Data: [][]byte{make([]byte, 4096)}}})
	b = bytes.Clone(b)
	return AppendItem{Header: b[:HeaderBytes], Body: b[HeaderBytes:]}, Point{LSN: h.LastLSN, Hash: hash}
}

// TestFresh: an append is taken from where its stream stands on, as a whole or not.
func TestFresh(t *testing.T) {
	id := uuid.New()
	one, at := frameBehind(id, Point{})
	two, end := frameBehind(id, at)
	other, _ := frameBehind(id, Point{LSN: at.LSN, Hash: Hash{1}})
	foreign, _ := frameBehind(uuid.New(), at)
	for name, c := range map[string]struct {
		items []AppendItem
		from  Point
		fresh int
		end   Point
		kind  fail.Kind // of the error, where fresh is 0 and end zero
	}{
		"both":               {[]AppendItem{one, two}, Point{}, 2, end, 0},
		"the second is new":  {[]AppendItem{one, two}, at, 1, end, 0},
		"none is":            {[]AppendItem{one, two}, end, 0, end, 0},
		"one is missing":     {[]AppendItem{two}, Point{}, 0, Point{}, fail.Retry},
		"another history":    {[]AppendItem{one, other}, Point{}, 0, Point{}, fail.Fenced},
		"another stream":     {[]AppendItem{one, foreign}, Point{}, 0, Point{}, fail.Damaged},
		"the same again":     {[]AppendItem{one, one}, Point{}, 0, Point{}, fail.Fenced},
		"back, and on again": {[]AppendItem{one, two, one}, Point{}, 0, Point{}, fail.Fenced},
	} {
		a := Append{Stream: id, Items: c.items}
		fresh, to, err := a.Fresh(c.from)
		if len(fresh) != c.fresh || c.end != (Point{}) && (err != nil || to != c.end) || c.end == (Point{}) &&
			(!fail.Is(err, c.kind) || to != c.from) {
			t.Errorf("%s: %d frames up to %v, %v", name, len(fresh), to, err)
		}
	}
}

// FuzzAppend: whatever an agent sends as an append, and wherever its stream stands, it is
// refused, or what is taken of it is one unbroken piece of the stream's history.
func FuzzAppend(f *testing.F) {
	id := uuid.New()
	one, at := frameBehind(id, Point{})
	two, end := frameBehind(id, at)
	foreign, _ := frameBehind(uuid.New(), Point{})
	for _, items := range [][]AppendItem{{one}, {one, two}, {two}, {one, foreign}, {one, one}, {two, one}} {
		a := Append{Stream: id, Lease: Lease{Epoch: 1, Number: 1}, Items: items}
		for _, lsn := range []uint64{0, at.LSN, end.LSN} {
			f.Add(bytes.Join(a.Parts(), nil), lsn)
		}
	}
	hashes := map[uint64]Hash{at.LSN: at.Hash, end.LSN: end.Hash}
	f.Fuzz(func(t *testing.T, b []byte, lsn uint64) {
		a, err := ParseAppend(b)
		if err != nil {
			return
		}
		_ = a.Check()
		from := Point{LSN: lsn, Hash: hashes[lsn]}
		fresh, to, err := a.Fresh(from)
		if err != nil {
			if len(fresh) > 0 || to != from {
				t.Fatalf("refused, and %d frames are taken up to %v", len(fresh), to)
			}
			return
		}
		for i := range fresh {
			h, hash, err := ParseHeader(fresh[i].Item.Header)
			if err != nil || h.Stream != a.Stream || h.Follows(from) != nil {
				t.Fatalf("frame %d of %v is taken behind %v: %v", i, h.Stream, from, err)
			}
			from = Point{LSN: h.LastLSN, Hash: hash}
		}
		if from != to {
			t.Fatalf("the stream stands at %v, its frames end at %v", to, from)
		}
	})
}
