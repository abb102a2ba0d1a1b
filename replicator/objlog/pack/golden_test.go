package pack

import (
	"bytes"
	"hash/crc32"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/golden"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
)

// goldenPlain are the plain bytes of a block that compresses and of one that does not.
func goldenPlain() [][]byte {
	tight := make([]byte, 100)
	for i := range tight {
		tight[i] = byte(i*i*7 + i>>2)
	}
	return [][]byte{bytes.Repeat([]byte("pollux"), 2000), tight}
}

var goldenPieces = []Piece{
	{Object: 3, Offset: 500, At: 0, Len: 512, Block: 0, NewAt: 4096},
	{Object: 9, Offset: 128, At: 4096, Len: 4096, Block: 0, NewAt: 0},
	{Object: objlog.InPack(2 << 31), Offset: 48, At: 9000, Len: 100, Block: 1, NewAt: 0},
}

// TestGoldenPack: the pack of an earlier build says what it said.
func TestGoldenPack(t *testing.T) {
	const number = 5<<31 + 7
	obj := golden.Kept(t, "pack", func() []byte {
		b := &Builder{Number: number, Journal: uuid.UUID{1}}
		for _, plain := range goldenPlain() {
			b.Block(plain, crc32.Checksum(plain, castagnoli))
		}
		for i := range goldenPieces {
			b.Piece(goldenPieces[len(goldenPieces)-1-i])
		}
		return b.Finish()
	})
	x, err := Check(obj, number)
	if err != nil {
		t.Fatal(err)
	}
	if NumberOf(obj) != number || x.Journal != (uuid.UUID{1}) {
		t.Errorf("number %d of journal %s", NumberOf(obj), x.Journal)
	}
	if diff := cmp.Diff(goldenPieces, x.Pieces); diff != "" {
		t.Errorf("its pieces mean something else: %s", diff)
	}
	for i, plain := range goldenPlain() {
		b := x.Blocks[i]
		got := make([]byte, b.PlainBytes)
		err := change.Decompress(b.Codec, got, obj[b.Offset:][:b.StoredBytes])
		if err != nil || !bytes.Equal(got, plain) || b.Object != objlog.InPack(number) || b.CRC != crc32.Checksum(plain,
			castagnoli) {
			t.Errorf("block %d is another one: %+v, %v", i, b, err)
		}
	}
	old := extent.Extent{Off: 77, Len: 50, At: 9050, Block: extent.Block{Object: objlog.InPack(2 << 31), Offset: 48,
		PlainBytes: 65536}}
	if e, ok := x.Find(&old); !ok || e.At != 50 || e.Block != x.Blocks[1] {
		t.Errorf("an extent that was moved is found at %+v, %v", e, ok)
	}
}
