package overlay

import (
	"bytes"
	"context"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/pollux-dr/pollux/agent/arena"
)

// TestAgainstModel inserts writes and zeros of any alignment, removes prefixes
// of them as the applier would, and compares every read with a plain image.
func TestAgainstModel(t *testing.T) {
	const size = 3 << 20
	for seed := range uint64(20) {
		mem, _, _, err := arena.Open(arena.Options{Path: filepath.Join(t.TempDir(), "arena"),
			Bytes: 16 << 20, Owner: "t"})
		if err != nil {
			t.Fatal(err)
		}
		rnd := rand.New(rand.NewPCG(seed, 1))
		o := New(mem)
		backing, image := make([]byte, size), make([]byte, size)
		type write struct {
			lsn    uint64
			off, n int64
			data   []byte
		}
		var log []write
		applied := 0
		for lsn := uint64(1); lsn < 400; lsn++ {
			n := int64(1 + rnd.IntN(9000))
			off := rnd.Int64N(96<<10 - n)
			if rnd.IntN(8) == 0 {
				off = rnd.Int64N(size - n)
			}
			if rnd.IntN(2) == 0 {
				off, n = off&^4095, min((n+4095)&^4095, size-off&^4095)
			}
			w := write{lsn: lsn, off: off, n: n, data: make([]byte, n)}
			var buf arena.Buf
			if rnd.IntN(4) > 0 {
				for i := range w.data {
					w.data[i] = byte(rnd.Uint32())
				}
				if buf, err = mem.Alloc(context.Background(), int(n)); err != nil {
					t.Fatal(err)
				}
				rest := w.data
				for _, p := range mem.Pieces(nil, buf) {
					rest = rest[copy(p, rest):]
				}
			} else if rnd.IntN(8) == 0 {
				w.n = WideBytes + 1 + rnd.Int64N(size-WideBytes)
				w.off = rnd.Int64N(size - w.n + 1)
				w.data = make([]byte, w.n)
			}
			o.Insert(lsn, w.off, w.n, buf)
			copy(image[w.off:], w.data)
			log = append(log, w)
			for rnd.IntN(3) == 0 && applied < len(log) {
				a := log[applied]
				copy(backing[a.off:], a.data)
				o.Remove(a.lsn, a.off, a.n)
				applied++
			}
			got := make([]byte, 1+rnd.IntN(20000))
			at := rnd.Int64N(96 << 10)
			if rnd.IntN(4) == 0 {
				at = rnd.Int64N(size - int64(len(got)))
			}
			for _, r := range o.Read(got, at, nil) {
				copy(got[r.Off-at:r.Off-at+r.Len], backing[r.Off:])
			}
			if !bytes.Equal(got, image[at:at+int64(len(got))]) {
				t.Fatalf("seed %d: read at %d of %d bytes differs after LSN %d", seed, at, len(got), lsn)
			}
		}
		for _, a := range log[applied:] {
			o.Remove(a.lsn, a.off, a.n)
		}
		if o.Len() != 0 || len(o.wide) != 0 {
			t.Errorf("seed %d: %d blocks and %d wide zeros stay after everything was removed",
				seed, o.Len(), len(o.wide))
		}
		_ = mem.Close()
	}
}
