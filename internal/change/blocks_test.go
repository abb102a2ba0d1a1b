package change

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pollux-dr/pollux/internal/fail"
)

// pages are writes of so many bytes, one after another or apart.
func pages(count, size int, apart int64) (out []Change) {
	for i := range count {
		out = append(out, Change{Kind: Write, Volume: 1, Off: int64(i) * (int64(size) + apart), Len: uint32(size),
			Data: [][]byte{testBytes(uint64(i), size)}})
	}
	return out
}

// TestBlockBytes: what is scattered gets small blocks, what is contiguous large ones.
func TestBlockBytes(t *testing.T) {
	elsewhere := pages(2, 4096, 0)
	elsewhere[1].Volume = 2
	for name, tt := range map[string]struct {
		changes []Change
		want    uint32
	}{
		"scattered 512":  {pages(40, 512, 4096), 4096},
		"scattered 4k":   {pages(40, 4096, 4096), 4096},
		"scattered 8k":   {pages(40, 8192, 4096), 8192},
		"scattered 12k":  {pages(40, 12288, 4096), 16384},
		"scattered 1m":   {pages(2, 1<<20, 4096), 65536},
		"contiguous 4k":  {pages(40, 4096, 0), 65536},
		"contiguous few": {pages(5, 4096, 0), 32768},
		"two volumes":    {elsewhere, 4096},
		"one":            {pages(1, 4096, 0), 4096},
		"no data":        {[]Change{{Kind: Trim, Volume: 1, Len: 1 << 20}}, 4096},
	} {
		b := encode(CodecS2, tt.changes)
		h, _, err := ParseHeader(b)
		if err != nil || h.BlockBytes != tt.want {
			t.Errorf("%s: blocks of %d bytes, %v", name, h.BlockBytes, err)
		}
	}
}

// TestBlocksRandom: frames of any writes hold them, in tables that agree with the frame.
func TestBlocksRandom(t *testing.T) {
	for range 300 {
		var changes []Change
		off := int64(0)
		for range 1 + rand.IntN(80) {
			if rand.IntN(3) == 0 {
				off += 1 + rand.Int64N(1<<20)
			}
			n := 1 + rand.IntN(1<<(1+rand.IntN(17)))
			changes = append(changes, Change{Kind: Write, Volume: 1, Off: off, Len: uint32(n),
				Data: [][]byte{testBytes(rand.Uint64(), n)}})
			off += int64(n)
		}
		b := encode(Codec(rand.IntN(2)), changes)
		c, err := decode(b)
		if err != nil {
			t.Fatal(err)
		}
		for i := range changes {
			if !bytes.Equal(c.Data[i], changes[i].Data[0]) {
				t.Fatalf("record %d of %d differs, blocks of %d bytes", i, len(changes), c.Header.BlockBytes)
			}
		}
		f, _ := Parse(b)
		h := f.Header
		records, blocks, err := ParseTables(int(h.Records), int(h.Blocks), h.BlockBytes,
			b[HeaderBytes:HeaderBytes+int(h.TableBytes)])
		if err != nil || len(records) != len(changes) {
			t.Fatal(err)
		}
		for i := range blocks {
			blocks[i].Offset += HeaderBytes + int(h.TableBytes)
		}
		if d := cmp.Diff(blocks, f.BlockTable()); d != "" {
			t.Fatal(d)
		}
	}
}

// TestFrameVersion1: an older build's frames are read, with blocks of 64 KiB.
func TestFrameVersion1(t *testing.T) {
	older := func(changes []Change) []byte {
		b := encode(CodecS2, changes)
		b[4] = 1
		binary.LittleEndian.PutUint32(b[116:], 0)
		reseal(b)
		return b
	}
	changes := pages(40, 4096, 0)
	c, err := decode(older(changes))
	if err != nil || c.Header.BlockBytes != BlockBytes {
		t.Fatal(c.Header, err)
	}
	for i := range changes {
		if !bytes.Equal(c.Data[i], changes[i].Data[0]) {
			t.Fatalf("record %d differs", i)
		}
	}
	if _, err := decode(older(pages(40, 4096, 4096))); !fail.Is(err, fail.Damaged) {
		t.Errorf("small blocks in a frame of version 1: %v", err)
	}
}
