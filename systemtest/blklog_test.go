package systemtest

import (
	"encoding/binary"
	"fmt"
	"os"

	"github.com/zeebo/xxh3"
)

// blkEntry is one entry of a log in the format of the kernel's dm-log-writes,
// as QEMU's blklogwrites driver writes it.
type blkEntry struct {
	off   int64
	n     int64
	flush bool
	data  []byte // nil: the range is discarded, or nothing is written
}

const (
	blkLogMagic   = 0x6a736677736872
	blkLogFlush   = 1 << 0
	blkLogDiscard = 1 << 2
	blkLogSector  = 512
)

// readBlkLog parses the whole file: the number of entries in its first sector is
// only that of the last flush.
func readBlkLog(path string) ([]blkEntry, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	if len(b) < blkLogSector || le.Uint64(b) != blkLogMagic || le.Uint64(b[8:]) != 1 ||
		le.Uint32(b[24:]) != blkLogSector {
		return nil, fmt.Errorf("%s is not a write log", path)
	}
	var out []blkEntry
	for pos := int64(blkLogSector); pos+blkLogSector <= int64(len(b)); {
		sector, sectors, flags := le.Uint64(b[pos:]), le.Uint64(b[pos+8:]), le.Uint64(b[pos+16:])
		pos += blkLogSector
		e := blkEntry{off: int64(sector) * blkLogSector, n: int64(sectors) * blkLogSector,
			flush: flags&blkLogFlush != 0}
		if flags&blkLogDiscard == 0 && e.n > 0 {
			if pos+e.n > int64(len(b)) {
				return nil, fmt.Errorf("%s: entry %d reaches beyond its end", path, len(out))
			}
			e.data = b[pos : pos+e.n]
			pos += e.n
		}
		out = append(out, e)
	}
	return out, nil
}

func (e *blkEntry) apply(img []byte) {
	part := img[e.off : e.off+e.n]
	if e.data == nil {
		clear(part)
		return
	}
	copy(part, e.data)
}

// fingerprint is the XOR over all sectors of a hash of content and place, so
// that a write changes it at the cost of the sectors that it touches.
func fingerprint(img []byte, off, n int64) (sum uint64) {
	for pos := off; pos < off+n; pos += blkLogSector {
		sum ^= xxh3.HashSeed(img[pos:pos+blkLogSector], uint64(pos))
	}
	return sum
}

// prefixes maps the fingerprint of every prefix of a log to the longest one that
// has it.
func prefixes(log []blkEntry, size int64) map[uint64]int {
	img := make([]byte, size)
	sum := fingerprint(img, 0, size)
	out := map[uint64]int{sum: 0}
	for i := range log {
		e := &log[i]
		sum ^= fingerprint(img, e.off, e.n)
		e.apply(img)
		sum ^= fingerprint(img, e.off, e.n)
		out[sum] = i + 1
	}
	return out
}
