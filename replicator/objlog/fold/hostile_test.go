package fold

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"testing"

	"github.com/zeebo/xxh3"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// TestHostileBlock: a frame whose checksums are right and whose block table is not.
func TestHostileBlock(t *testing.T) {
	for _, claim := range []uint32{0, 1, 4095, 65536, 65537, 1 << 20, ^uint32(0)} {
		h := change.Header{FirstLSN: 1, FirstTime: 1, LastTime: 1, Epoch: 1, Lease: 1}
		var e change.Encoder
		data := bytes.Repeat([]byte{1}, 4096)
		b, _ := e.Encode(&h, []change.Change{{Kind: change.Write, Volume: 1, Len: 4096, Data: [][]byte{data}},
			{Kind: change.Write, Volume: 1, Off: 81920, Len: 4096, Data: [][]byte{data}}})
		binary.LittleEndian.PutUint32(b[change.HeaderBytes+2*change.RecordTableBytes+4:], claim)
		digest := xxh3.Hash128(b[change.HeaderBytes:]).Bytes()
		copy(b[120:], digest[:])
		binary.LittleEndian.PutUint32(b[156:], crc32.Checksum(b[:156], castagnoli))
		_, _, err := Frames(context.Background(), nil, 1, change.Quick, func(_ int, buf []byte) ([]byte, error) {
			return append(buf, b...), nil
		})
		if !fail.Is(err, fail.Damaged) {
			t.Errorf("a block that claims %d bytes: %v", claim, err)
		}
	}
}
