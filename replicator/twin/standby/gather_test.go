package standby

import (
	"bytes"
	"cmp"
	"context"
	"math/rand/v2"
	"testing"

	"github.com/pollux-dr/pollux/internal/seed"
	"github.com/pollux-dr/pollux/replicator/state"
)

// plainFile is an image in memory that counts calls.
type plainFile struct {
	b            []byte
	writes, zero int
	data         int64
	before       func()
}

func (f *plainFile) WriteAt(p []byte, off int64) (int, error) {
	return len(p), f.WriteVector([][]byte{p}, off)
}

func (f *plainFile) WriteVector(parts [][]byte, off int64) error {
	f.writes++
	for _, p := range parts {
		off += int64(copy(f.b[off:], p))
		f.data += int64(len(p))
	}
	if f.before != nil {
		f.before()
	}
	return nil
}

func (f *plainFile) Zero(off, n int64) error {
	f.zero++
	clear(f.b[off : off+n])
	return nil
}

func (f *plainFile) Sync() error  { return nil }
func (f *plainFile) Close() error { return nil }

// TestGather: what was gathered leaves an image as each change one after another does, and writes no byte
// twice.
func TestGather(t *testing.T) {
	r := rand.New(rand.NewPCG(seed.New(t), 1))
	g := gather{limit: gatherBytes}
	for range 200 {
		const size = 64 << 10
		want := make([]byte, size)
		for i := range want {
			want[i] = byte(r.Uint32())
		}
		f := &plainFile{b: bytes.Clone(want)}
		unit := []int64{1, 512, 4096}[r.IntN(3)]
		for range r.IntN(60) {
			n := unit * (1 + r.Int64N(8))
			off := r.Int64N((size-n)/unit) * unit
			if r.IntN(5) == 0 {
				clear(want[off : off+n])
				g.add("v", off, n, nil)
				continue
			}
			data := g.memory(int(n))
			for i := range data {
				data[i] = byte(r.Uint32())
			}
			copy(want[off:], data)
			g.add("v", off, n, data)
		}
		n, err := g.write(t.Context(), "v", f)
		if err != nil || !bytes.Equal(f.b, want) || n != f.data || n > size {
			t.Fatalf("%v; %d bytes written, %d said; differs at %d", err, f.data, n, differ(f.b, want))
		}
		g.reset()
	}
}

// TestGatherCalls: neighbours go together, in whatever order they came; what would be too much for one
// call does not; and a run that is stopped stops.
func TestGatherCalls(t *testing.T) {
	g := gather{limit: gatherBytes}
	const pages = 2*maxVector + 5
	for _, i := range rand.Perm(pages) {
		g.add("v", int64(i)*4096, 4096, g.memory(4096))
	}
	f := &plainFile{b: make([]byte, (pages+4)*4096)}
	g.add("v", pages*4096, 4096, nil)
	g.add("v", (pages+1)*4096, 4096, nil)
	n, err := g.write(t.Context(), "v", f)
	if err != nil || n != pages*4096 || f.writes != 3 || f.zero != 1 {
		t.Errorf("%d bytes with %d writes, and %d zeroed: %v", n, f.writes, f.zero, err)
	}
	ctx, stop := context.WithCancel(t.Context())
	f.before = stop
	if n, err := g.write(ctx, "v", f); n != maxVector*4096 || err == nil {
		t.Errorf("stopped: %d bytes, %v", n, err)
	}
}

// TestMemory: memory that was given is nobody else's until reset.
func TestMemory(t *testing.T) {
	g := gather{limit: gatherBytes}
	slabs := 0
	for range 3 {
		var all [][]byte
		for i := range 60 {
			b := g.memory(1<<20 + i)
			all = append(all, b)
			for k := 0; k < len(b); k += 4096 {
				b[k] = byte(i)
			}
		}
		for i, b := range all {
			for k := 0; k < len(b); k += 4096 {
				if b[k] != byte(i) {
					t.Fatalf("piece %d was changed", i)
				}
			}
		}
		if slabs = cmp.Or(slabs, len(g.slabs)); len(g.slabs) != slabs {
			t.Errorf("%d slabs, %d the first time", len(g.slabs), slabs)
		}
		g.reset()
	}
}

// TestGatherOfOthers: what is decompressed for volumes that nobody wants takes memory as well, and no more than
// what is wanted may.
func TestGatherOfOthers(t *testing.T) {
	r := newRig(t)
	r.log.Volume("a", rigVolume)
	r.log.Volume("b", rigVolume)
	r.log.Frame(r.page(0, 'x'))
	r.log.Segment()
	r.limit = 64 << 10
	r.o.Want = func(*state.State) []Volume { return []Volume{{Name: "a", Path: "/images/a"}} }
	r.open()
	r.must(r.settle())
	r.newest(1)
	for range 8 {
		for i := range int64(64) {
			r.log.Frame(r.log.Write("b", 4096*i, bytes.Repeat([]byte{byte(i)}, 4096)))
		}
		r.log.Segment()
	}
	r.must(r.settle())
	r.newest(1)
	kept := 0
	for _, s := range r.s.gathered.slabs {
		kept += len(s)
	}
	if kept > 8*int(r.limit) {
		t.Errorf("%d bytes are kept at a limit of %d", kept, r.limit)
	}
}
