package agent

import (
	"context"
	"math/rand/v2"
	"sort"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pollux-dr/pollux/internal/fail"
)

// TestChanged compares the change map with a model, at LSNs whose records are in
// the WAL, in sealed frames or in the open one.
func TestChanged(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const size = 8<<20 + 512
	a, dev := openForTest(t, 16<<20, size)
	rnd := rand.New(rand.NewPCG(3, 3))
	type write struct{ off, n int64 }
	var writes []write
	step := func() {
		w := write{off: rnd.Int64N(size), n: 1 + rnd.Int64N(20000)}
		w.n = min(w.n, size-w.off)
		if rnd.IntN(4) == 0 {
			if err := dev.Trim(ctx, w.off, w.n, false); err != nil {
				t.Fatal(err)
			}
		} else {
			data := make([]byte, w.n)
			for i := range data {
				data[i] = 1
			}
			writeDevice(t, dev, data, w.off)
		}
		writes = append(writes, w)
	}
	model := func(after int) (out []Extent, total int64) {
		dirty := make([]bool, (size+4095)/4096)
		for _, w := range writes[after:] {
			for b := w.off / 4096; b <= (w.off+w.n-1)/4096; b++ {
				dirty[b] = true
			}
		}
		for b, d := range dirty {
			if !d {
				continue
			}
			off := int64(b) * 4096
			n := min(4096, size-off)
			total += n
			if k := len(out) - 1; k >= 0 && out[k].Off+out[k].Len == off {
				out[k].Len += n
			} else {
				out = append(out, Extent{off, n})
			}
		}
		return out, total
	}
	for i := range 120 {
		step()
		if i%17 == 0 {
			if err := dev.Flush(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if i%10 != 9 {
			continue
		}
		after := uint64(rnd.IntN(i + 2))
		got, err := a.Changed(ctx, "v", &after)
		if err != nil {
			t.Fatal(err)
		}
		want, total := model(int(after))
		if diff := cmp.Diff(want, got.Extents); diff != "" || got.Bytes != total || got.Last != uint64(i+1) {
			t.Fatalf("after LSN %d of %d: %d bytes, want %d; -want +got\n%s", after, i+1, got.Bytes, total, diff)
		}
	}
	all, err := a.Changed(ctx, "v", nil) // no target has anything
	if _, total := model(0); err != nil || all.Bytes != total || all.After != 0 {
		t.Errorf("without a target: %d bytes after %d, want %d; %v", all.Bytes, all.After, total, err)
	}
	if _, err := a.Changed(ctx, "other", nil); !fail.Is(err, fail.NotFound) {
		t.Errorf("of a volume that is not there: %v", err)
	}
}

func TestDirtyMapIsBounded(t *testing.T) {
	for _, size := range []int64{1, 4096, 32 << 30, 32<<30 + 1, 1 << 40, 1 << 50} {
		m := newDirtyMap(size)
		if len(m.words) > maxGranules/64+1 {
			t.Errorf("%d bytes need %d words", size, len(m.words))
		}
		v := VolumeConf{Number: 1, SizeBytes: size}
		m.note(&v, 2, 1, 1, 0, size-1, 1)
		if ext, n := m.extents(size); len(ext) != 1 || ext[0].Off+ext[0].Len != size || n > m.granule {
			t.Errorf("%d bytes: the last byte gives %v", size, ext)
		}
	}
}

// TestDirtyMapCoarsens: an answer of too many extents is rounded outward.
func TestDirtyMapCoarsens(t *testing.T) {
	const size = 1 << 30
	m := newDirtyMap(size)
	v := VolumeConf{Number: 1, SizeBytes: size}
	rnd := rand.New(rand.NewPCG(5, 5))
	var offs []int64
	for range 60_000 {
		off := rnd.Int64N(size)
		offs = append(offs, off)
		m.note(&v, 2, 1, 1, 0, off, 1)
	}
	for step := range 4 {
		ext, _ := m.extents(size)
		if len(ext) != m.runs() {
			t.Fatalf("after %d steps: %d extents, %d runs", step, len(ext), m.runs())
		}
		for _, off := range offs {
			i := sort.Search(len(ext), func(i int) bool { return ext[i].Off+ext[i].Len > off })
			if i == len(ext) || ext[i].Off > off {
				t.Fatalf("after %d steps: byte %d is missing", step, off)
			}
		}
		m.coarsen()
	}
	if _, total := m.extents(size); total > 60_000*m.granule {
		t.Errorf("%d bytes with a granule of %d", total, m.granule)
	}
}
