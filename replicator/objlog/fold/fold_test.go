package fold

import (
	"bytes"
	"context"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/seed"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
)

const volumeBytes = 40*4096 + 700

// run is a run of frames and what it makes of some volumes.
type run struct {
	stream change.StreamID
	at     change.Point
	frames [][]byte
	images map[uint32][]byte
	codec  change.Codec
}

func newRun(codec change.Codec) *run {
	return &run{stream: uuid.MustParse("aaaaaaaa-0000-0000-0000-000000000001"),
		at:     change.Point{LSN: 41, Hash: change.Hash{4, 2}},
		images: map[uint32][]byte{1: make([]byte, volumeBytes), 7: make([]byte, volumeBytes)}, codec: codec}
}

func (r *run) frame(changes ...change.Change) {
	h := change.Header{Stream: r.stream, FirstLSN: r.at.LSN + 1, Prev: r.at.Hash, FirstTime: int64(r.at.LSN),
		LastTime: int64(r.at.LSN) + 1}
	e := change.Encoder{Codec: r.codec}
	b, hash := e.Encode(&h, changes)
	r.frames, r.at = append(r.frames, bytes.Clone(b)), change.Point{LSN: h.LastLSN, Hash: hash}
	for i := range changes {
		if c := &changes[i]; c.Kind != change.Mark {
			img := r.images[c.Volume][c.Off:][:c.Len]
			clear(img)
			copy(img, bytes.Join(c.Data, nil))
		}
	}
}

func (r *run) fetch(i int, buf []byte) ([]byte, error) { return append(buf, r.frames[i]...), nil }

// random makes frames of all shapes: tiny and unaligned records, some of many
// blocks, zeros and trims, compressible and not.
func (r *run) random(rnd *rand.Rand, frames int) {
	for range frames {
		var changes []change.Change
		for range 1 + rnd.IntN(6) {
			c := change.Change{Kind: change.Write, Volume: []uint32{1, 7}[rnd.IntN(2)], Off: rnd.Int64N(volumeBytes)}
			n := 1 + rnd.Int64N(volumeBytes-c.Off)
			if rnd.IntN(3) > 0 {
				n = min(n, 1+rnd.Int64N(9000))
			}
			if rnd.IntN(2) == 0 {
				c.Off &^= 4095
			}
			c.Len = uint32(n)
			switch rnd.IntN(6) {
			case 0:
				c.Kind = change.Zero
			case 1:
				c.Kind = change.Trim
			default:
				data := bytes.Repeat([]byte{byte(rnd.Uint32())}, int(n))
				if rnd.IntN(2) == 0 {
					for i := range data {
						data[i] = byte(rnd.Uint32())
					}
				}
				c.Data = [][]byte{data[:n/3], data[n/3:]}
			}
			changes = append(changes, c)
		}
		r.frame(changes...)
	}
}

// check reads a fold and holds it against the run.
func (r *run) check(t *testing.T, b []byte, before map[uint32][]byte) segment.Fold {
	t.Helper()
	var f segment.Fold
	if err := f.Reset(b); err != nil {
		t.Fatal(err)
	}
	if f.FirstLSN != 42 || f.LastLSN != r.at.LSN || f.Last != r.at.Hash || f.Prev != (change.Hash{4, 2}) ||
		int(f.Frames) != len(r.frames) {
		t.Fatalf("header %+v", f.FoldHeader)
	}
	seen := map[uint32][]bool{1: make([]bool, volumeBytes), 7: make([]bool, volumeBytes)}
	for i := range f.Parts() {
		extents, _, err := f.Part(i, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range extents {
			for k := e.Off; k < e.Off+e.Len; k++ {
				if seen[e.Volume][k] {
					t.Fatalf("byte %d of volume %d twice", k, e.Volume)
				}
				seen[e.Volume][k] = true
			}
			clear(before[e.Volume][e.Off:][:e.Len])
			copy(before[e.Volume][e.Off:], e.Data)
		}
	}
	for v, img := range r.images {
		if !bytes.Equal(img, before[v]) {
			t.Fatalf("volume %d differs", v)
		}
	}
	k := 0
	f.Headers(func(h change.Header, hash change.Hash) {
		want, wantHash, _ := change.ParseHeader(r.frames[k])
		if h != want || hash != wantHash {
			t.Fatalf("frame %d has another header", k)
		}
		k++
	})
	return f
}

func dirty(rnd *rand.Rand) map[uint32][]byte {
	m := map[uint32][]byte{1: make([]byte, volumeBytes), 7: make([]byte, volumeBytes)}
	for _, v := range []uint32{1, 7} {
		for i := range m[v] {
			m[v][i] = byte(rnd.Uint32())
		}
	}
	return m
}

// TestModel: a fold makes of any image what its frames make of it.
func TestModel(t *testing.T) {
	seed := seed.New(t)
	for i := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, i))
		r := newRun([]change.Codec{change.CodecNone, change.CodecS2}[rnd.IntN(2)])
		before := dirty(rnd)
		for v := range r.images {
			copy(r.images[v], before[v])
		}
		r.random(rnd, 1+rnd.IntN(30))
		b, h, err := Frames(t.Context(), nil, len(r.frames), change.Effort(rnd.IntN(2)), r.fetch)
		if err != nil || h.Bytes() != int64(len(b)) {
			t.Fatal(h, err)
		}
		r.check(t, b, before)
	}
}

// TestShrinks: what is overwritten is not carried.
func TestShrinks(t *testing.T) {
	r := newRun(change.CodecS2)
	data := make([]byte, 8*4096)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	for range 50 {
		r.frame(change.Change{Kind: change.Write, Volume: 1, Len: uint32(len(data)), Data: [][]byte{data}})
	}
	b, _, err := Frames(t.Context(), []byte("before"), len(r.frames), change.Quick, r.fetch)
	if err != nil || string(b[:6]) != "before" {
		t.Fatal(err)
	}
	f := r.check(t, b[6:], map[uint32][]byte{1: make([]byte, volumeBytes), 7: make([]byte, volumeBytes)})
	if len(b) > len(data)+50*60+1000 || len(f.Records) != 1 || f.PlainBytes != int64(len(data)) {
		t.Errorf("%d bytes, %d records for %d live ones", len(b), len(f.Records), len(data))
	}
	var last segment.Fold
	r.frame(change.Change{Kind: change.Trim, Volume: 1, Len: 1 << 15})
	if b, _, err = Frames(t.Context(), nil, len(r.frames), change.Quick, r.fetch); err != nil || last.Reset(b) != nil ||
		last.PlainBytes != 0 || last.Parts() != 1 {
		t.Errorf("all trimmed: %v, %+v", err, last.FoldHeader)
	}
}

// TestRefuses: what does not follow, is damaged, or must keep its points.
func TestRefuses(t *testing.T) {
	write := func(v uint32) change.Change {
		return change.Change{Kind: change.Write, Volume: v, Len: 70000,
			Data: [][]byte{bytes.Repeat([]byte{9, byte(v), 1}, 25000)[:70000]}}
	}
	for name, tt := range map[string]struct {
		kind fail.Kind
		do   func(r *run)
	}{
		"none": {fail.Invalid, func(r *run) { r.frames = nil }},
		"a mark": {fail.Invalid, func(r *run) {
			r.frame(change.Change{Kind: change.Mark, Data: [][]byte{[]byte("b")}})
		}},
		"a gap":      {fail.Damaged, func(r *run) { r.frames = slices.Delete(r.frames, 1, 2) }},
		"order":      {fail.Damaged, func(r *run) { slices.Reverse(r.frames) }},
		"a flip":     {fail.Damaged, func(r *run) { r.frames[1][250] ^= 1 }},
		"cut short":  {fail.Damaged, func(r *run) { r.frames[2] = r.frames[2][:200] }},
		"two stream": {fail.Invalid, func(r *run) { r.stream[3]++; r.frame(write(1)) }},
	} {
		r := newRun(change.CodecS2)
		for range 3 {
			r.frame(write(1), write(7))
		}
		tt.do(r)
		if _, _, err := Frames(t.Context(), nil, len(r.frames), change.Quick, r.fetch); !fail.Is(err, tt.kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSourceChanges: the second fetch is checked as the first was, and a block
// whose bytes do not make up its checksum goes nowhere.
func TestSourceChanges(t *testing.T) {
	r := newRun(change.CodecNone)
	r.frame(change.Change{Kind: change.Write, Volume: 1, Len: 4096, Data: [][]byte{make([]byte, 4096)}})
	other := newRun(change.CodecNone)
	other.frame(change.Change{Kind: change.Write, Volume: 7, Len: 4096, Data: [][]byte{make([]byte, 4096)}})
	other.frame(change.Change{Kind: change.Write, Volume: 7, Len: 4096, Data: [][]byte{make([]byte, 4096)}})
	calls := 0
	_, _, err := Frames(t.Context(), nil, 1, change.Quick, func(_ int, buf []byte) ([]byte, error) {
		if calls++; calls == 2 {
			return other.fetch(1, buf)
		}
		return r.fetch(0, buf)
	})
	if !fail.Is(err, fail.Damaged) || calls != 2 {
		t.Errorf("after %d calls: %v", calls, err)
	}
	// A frame whose block checksum is wrong although its digest is right: the
	// bytes changed before they were encoded.
	data := bytes.Repeat([]byte("x"), 4096)
	var p packer
	if sum := p.take(data, 0, []span{{100, 200}, {300, 4096}}); sum != crc32.Checksum(data, castagnoli) {
		t.Errorf("sum %08x of the pieces", sum)
	}
	if want := crc32.Checksum(append(bytes.Clone(data[100:200]), data[300:]...), castagnoli); p.sum != want {
		t.Errorf("sum %08x of what is kept, want %08x", p.sum, want)
	}
}

func TestCombine(t *testing.T) {
	data := make([]byte, 100000)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	for range 500 {
		n := rand.IntN(len(data))
		k := rand.IntN(n + 1)
		a, b := crc32.Checksum(data[:k], castagnoli), crc32.Checksum(data[k:n], castagnoli)
		if got, want := CombineCRC(a, b, n-k), crc32.Checksum(data[:n], castagnoli); got != want {
			t.Fatalf("%d and %d bytes: %08x, want %08x", k, n-k, got, want)
		}
	}
}

// BenchmarkFrames folds 4 KiB writes, of which a third is live in the end.
func BenchmarkFrames(b *testing.B) {
	r := newRun(change.CodecS2)
	rnd := rand.New(rand.NewPCG(1, 1))
	r.images[1] = make([]byte, 8<<20)
	total := 0
	for range 400 {
		var changes []change.Change
		for range 16 {
			text := bytes.Repeat([]byte{byte(rnd.Uint32()), byte(rnd.Uint32()), 3, 4, 5, 6, 7, 8}, 256)
			for range 300 {
				text[rnd.IntN(len(text))] = byte(rnd.Uint32())
			}
			changes = append(changes, change.Change{Kind: change.Write, Volume: 1, Off: rnd.Int64N(2048) * 4096,
				Len: 2048, Data: [][]byte{text}})
		}
		r.frame(changes...)
		total += len(r.frames[len(r.frames)-1])
	}
	b.SetBytes(int64(total))
	for b.Loop() {
		if _, _, err := Frames(b.Context(), nil, len(r.frames), change.Quick, r.fetch); err != nil {
			b.Fatal(err)
		}
	}
}

// TestManyRecords: a run of too many records is refused before it costs memory, and
// one that ends is stopped.
func TestManyRecords(t *testing.T) {
	r := newRun(change.CodecNone)
	var changes []change.Change
	for i := range int64(60000) {
		changes = append(changes, change.Change{Kind: change.Zero, Volume: 3, Off: i * 4096, Len: 512})
	}
	r.images[3] = make([]byte, 60000*4096)
	for range 5 {
		r.frame(changes...)
	}
	if _, _, err := Frames(t.Context(), nil, len(r.frames), change.Quick, r.fetch); !fail.Is(err, fail.Invalid) {
		t.Errorf("too many records: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := Frames(ctx, nil, 1, change.Quick, r.fetch); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
}
