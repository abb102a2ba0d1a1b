package wal

import (
	"bytes"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// FuzzSegment feeds arbitrary bytes after a good header to recovery: it must not
// panic, and what it takes for an entry must encode to the same batch again.
func FuzzSegment(f *testing.F) {
	h := segmentHeader{sequence: 1, salt: 42, base: 1, front: 1}
	block := make([]byte, segmentHeaderBytes)
	chain := encodeSegmentHeader(block, h)
	b1, crc := encodeBatch(nil, batchHeader{salt: 42, offsetBytes: 4096, chain: chain, first: 1, front: 1},
		parts{bodies: [][]byte{[]byte("one"), payload(1, 5000)}})
	b2, _ := encodeBatch(nil, batchHeader{salt: 42, offsetBytes: 4096 + uint32(len(b1)), chain: crc, first: 3,
		synced: 2, front: 2}, parts{bodies: [][]byte{[]byte("three")}})
	f.Add([]byte{}, uint16(0), byte(0))
	f.Add(append(bytes.Clone(b1), b2...), uint16(70), byte(1))
	f.Add(b1, uint16(8), byte(0))
	f.Add(b1[:len(b1)-100], uint16(0), byte(0)) // cut off in the padding
	f.Add(b1[:5000], uint16(0), byte(0))
	f.Fuzz(func(t *testing.T, body []byte, at uint16, flip byte) {
		if int(at) < len(body) {
			body = bytes.Clone(body)
			body[at] ^= flip
		}
		file := vfs.NewMemFile(append(bytes.Clone(block), body...))
		for _, verify := range []bool{true, false} {
			sc, err := newScan(file, h, chain, verify)
			must(t, err)
			prev := chain
			err = sc.run(func(b *batch) error {
				if !verify {
					return nil
				}
				again, crc := encodeBatch(nil, batchHeader{flags: b.flags, salt: b.salt, offsetBytes: b.offsetBytes,
					chain: prev, first: b.first, synced: b.synced, front: b.front}, parts{bodies: b.entries})
				n := batchHeaderBytes + int(b.payloadBytes)
				if crc != b.crc || !bytes.Equal(again[:n], body[sc.off-segmentHeaderBytes:][:n]) {
					t.Fatalf("batch at %d does not encode to itself", sc.off)
				}
				prev = crc
				return nil
			})
			must(t, err)
			_, _, err = sc.laterBatch()
			must(t, err)
		}
	})
}

// FuzzHeaders: the decoders take nothing that would not encode to the same.
func FuzzHeaders(f *testing.F) {
	block := make([]byte, segmentHeaderBytes)
	encodeSegmentHeader(block, segmentHeader{sequence: 3, salt: 1, base: 9, front: 4, prevSequence: 2, prevSalt: 8})
	f.Add(block)
	b, _ := encodeBatch(nil, batchHeader{first: 1, front: 1}, parts{bodies: [][]byte{[]byte("x")}})
	f.Add(b)
	f.Add(b[64:80])
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, _, err := decodeSegmentHeader(b); err == nil {
			again := make([]byte, segmentHeaderBytes)
			encodeSegmentHeader(again, h)
			if h2, _, err := decodeSegmentHeader(again); err != nil || h2 != h {
				t.Fatal(h, h2, err)
			}
		}
		_, _ = decodeBatchHeader(b)
		if e, err := decodeEntry(b, 7, 9); err == nil && len(e)+entryHeaderBytes > len(b) {
			t.Fatal("entry is longer than its bytes")
		}
	})
}
