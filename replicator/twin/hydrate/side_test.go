package hydrate

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/golden"
	"github.com/pollux-dr/pollux/internal/seed"
)

var sampleHead = Head{Point: Point{Journal: uuid.MustParse("10000000-0000-4000-8000-00000000000a"), Volume: "disk1",
	Number: 3, Stream: uuid.MustParse("20000000-0000-4000-8000-00000000000b"), Epoch: 2, LSN: 4711, SizeBytes: 1 << 30,
	Hash: change.Hash{7, 0xe4}},
	PageBytes: pageBytes, ID: "30000000-0000-4000-8000-00000000000c"}

func sample() []byte {
	b, err := encodeHead(&sampleHead)
	if err != nil {
		panic(err)
	}
	b = append(b, encodeRecord(1, []run{{0, 1}, {5, 300}, {70000, 2}})...)
	return append(b, encodeRecord(2, []run{{1, 4}, {1<<18 - 1, 1}})...)
}

// TestGoldenSide: what an earlier build wrote is read, and written today.
func TestGoldenSide(t *testing.T) {
	old := sampleHead // before a point had a hash
	old.Hash = change.Hash{}
	kept := map[string][]byte{"side": golden.Kept(t, "side", nil), "side-hash": golden.Same(t, "side-hash", sample())}
	for name, want := range map[string]Head{"side": old, "side-hash": sampleHead} {
		c, err := Decode(kept[name])
		if err != nil {
			t.Fatal(err)
		}
		here := []PageRun{{0, 305}, {70000, 2}, {1<<18 - 1, 1}}
		if c.Head != want || c.Records != 2 || !slices.Equal(c.Here, here) {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

// TestCutSide: what a power cut leaves of the last record is left out; what is damaged before
// it is damage.
func TestCutSide(t *testing.T) {
	whole := sample()
	head, err := encodeHead(&sampleHead)
	if err != nil {
		t.Fatal(err)
	}
	first, second := len(head), len(head)+sectorBytes
	for n := second; n < len(whole); n += 7 {
		for _, rest := range [][]byte{nil, make([]byte, 3*sectorBytes)} {
			c, err := Decode(append(bytes.Clone(whole[:n]), rest...))
			if err != nil || c.Records > 2 || c.Records == 2 && n < second+20 {
				t.Fatalf("cut at %d: %d records, %v", n, c.Records, err)
			}
		}
	}
	for at := 0; at < second; at++ {
		b := bytes.Clone(whole)
		b[at] ^= 0x10
		c, err := Decode(b)
		if err == nil && c.Records == 2 { // padding
			continue
		}
		if !fail.Is(err, fail.Damaged) && !fail.Is(err, fail.Unsupported) {
			t.Fatalf("byte %d (records from %d on): %d records, %v", at, first, c.Records, err)
		}
	}
}

// TestSideModel appends random runs, with failures and restarts, and compares with a model.
func TestSideModel(t *testing.T) {
	r := rand.New(rand.NewPCG(seed.New(t), 0))
	fs := vfs.NewMem()
	head, err := encodeHead(&sampleHead)
	if err == nil {
		err = atomicfile.WriteFile(fs, "s", head)
	}
	if err != nil {
		t.Fatal(err)
	}
	s, p, err := openSide(fs, "s")
	if err != nil {
		t.Fatal(err)
	}
	model := map[int64]bool{}
	for range 300 {
		var runs []run
		for range 1 + r.IntN(40) {
			at := run{r.Int64N(p.total - 9), 1 + r.Int64N(8)}
			runs = append(runs, at)
			for i := range at.n {
				model[at.first+i] = true
			}
		}
		if err := s.append(runs); err != nil {
			t.Fatal(err)
		}
		if r.IntN(20) == 0 {
			s.least = -compactSlack // now
		}
		if r.IntN(30) == 0 {
			s.close()
			if s, p, err = openSide(fs, "s"); err != nil {
				t.Fatal(err)
			}
			here := int64(0)
			for i := range p.total {
				if p.has(i) != model[i] {
					t.Fatalf("page %d: %v, want %v", i, p.has(i), model[i])
				}
				if p.has(i) {
					here++
				}
			}
			if here != p.here.Load() {
				t.Fatalf("%d pages are here, it counts %d", here, p.here.Load())
			}
		}
	}
	s.close()
}

// FuzzSide: no file makes the decoder panic, or say of a page outside the volume that it is here.
func FuzzSide(f *testing.F) {
	f.Add(sample())
	f.Add(sample()[:700])
	f.Add([]byte("PLXH"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, append(sample()[:sectorBytes*2], b...)} {
			c, err := Decode(b)
			if err != nil {
				continue
			}
			for _, r := range c.Here {
				if r.First < 0 || r.Pages <= 0 || r.First+r.Pages > pageCount(c.SizeBytes) {
					t.Fatalf("%+v of a volume of %d bytes", r, c.SizeBytes)
				}
			}
		}
	})
}
