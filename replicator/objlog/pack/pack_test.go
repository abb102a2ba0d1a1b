package pack

import (
	"bytes"
	"hash/crc32"
	"math/rand/v2"
	"testing"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
)

func sample() []byte {
	b := &Builder{Number: 5, Journal: uuid.UUID{1}}
	plain := bytes.Repeat([]byte("pollux"), 2000)
	k := b.Block(plain, crc32.Checksum(plain, castagnoli))
	b.Piece(Piece{Object: 9, Offset: 128, At: 4096, Len: 4096, Block: k, NewAt: 0})
	b.Piece(Piece{Object: 3, Offset: 500, At: 0, Len: 512, Block: k, NewAt: 4096})
	random := make([]byte, 3000)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	k = b.Block(random, crc32.Checksum(random, castagnoli))
	b.Piece(Piece{Object: 9, Offset: 128, At: 9000, Len: 3000, Block: k, NewAt: 0})
	return b.Finish()
}

func TestPack(t *testing.T) {
	obj := sample()
	x, err := Check(obj, 5)
	if err != nil || len(x.Blocks) != 2 || len(x.Pieces) != 3 || x.Journal != (uuid.UUID{1}) {
		t.Fatalf("%+v, %v", x, err)
	}
	find := func(object objlog.ObjectID, offset, at uint32, n int64) (extent.Extent, bool) {
		return x.Find(&extent.Extent{Off: 77, Len: n, At: at,
			Block: extent.Block{Object: object, Offset: offset, PlainBytes: 65536}})
	}
	if e, ok := find(9, 128, 5000, 100); !ok || e.Block != x.Blocks[0] || e.At != 904 || e.Off != 77 || e.Len != 100 {
		t.Errorf("%+v, %v", e, ok)
	}
	if e, ok := find(9, 128, 9000, 3000); !ok || e.Block != x.Blocks[1] || e.At != 0 {
		t.Errorf("%+v, %v", e, ok)
	}
	for _, miss := range [][3]uint32{{9, 128, 0}, {9, 128, 8191}, {9, 129, 4096}, {8, 128, 4096}, {3, 500, 500}} {
		if e, ok := find(objlog.InLog(uint64(miss[0])), miss[1], miss[2], 100); ok {
			t.Errorf("%v is found: %+v", miss, e)
		}
	}
	if _, err := Check(obj, 6); !fail.Is(err, fail.Damaged) {
		t.Errorf("another number: %v", err)
	}
	for off := range obj {
		for bit := range 8 {
			b := bytes.Clone(obj)
			b[off] ^= 1 << bit
			if _, err := Check(b, 5); !fail.Is(err, fail.Damaged) {
				t.Fatalf("bit %d of byte %d flipped: %v", bit, off, err)
			}
		}
		if _, err := Check(obj[:off], 5); !fail.Is(err, fail.Damaged) {
			t.Fatalf("%d bytes: %v", off, err)
		}
	}
}

func FuzzCheck(f *testing.F) {
	f.Add(sample())
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := Check(b, 5); err == nil {
			for i := range x.Pieces {
				p := &x.Pieces[i]
				if e, ok := x.Find(&extent.Extent{Len: 1, At: p.At,
					Block: extent.Block{Object: p.Object, Offset: p.Offset}}); !ok || e.At != p.NewAt {
					t.Fatalf("piece %d is not found: %+v", i, e)
				}
			}
		}
	})
}
