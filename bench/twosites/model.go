package twosites

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// op is one request in the order in which it was sent, which is the order of
// LSNs: one connection, no FUA. Contents come from the pool, so that an op needs
// no copy of them.
type op struct {
	off   int64
	len   int32
	pool  int32 // where in the pool the bytes begin; <0: zeros
	mark  bool
	acked time.Time
}

// Model knows what a volume, alone in its group, holds at every LSN.
type Model struct {
	Size int64
	// Base is the LSN behind which the model knows what was written; 0: all. Else there is nothing
	// to compare with.
	Base uint64

	pool   []byte
	rnd    *rand.Rand
	mu     sync.Mutex
	bytes  int64
	ops    []op
	prefix int // up to here all are acknowledged
}

// NewModel is of a volume of zeros that nobody has written to, and that gets bytes of a pool.
func NewModel(size int64, seed uint64, pool []byte) *Model {
	return &Model{Size: size, pool: pool, rnd: rand.New(rand.NewPCG(seed, seed^0x9e3779b97f4a7c15))}
}

// Fork is the model of the volume as it goes on from an LSN elsewhere. The one that it is made from
// keeps what was written behind that, and is written to no more.
func (m *Model) Fork(lsn uint64) *Model {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.count(lsn)
	return &Model{Size: m.Size, Base: m.Base, pool: m.pool, rnd: m.rnd, bytes: m.bytes,
		ops: slices.Clone(m.ops[:n]), prefix: min(m.prefix, n)}
}

// count is how many of the ops are at or before an LSN.
func (m *Model) count(lsn uint64) int { return int(min(max(lsn, m.Base)-m.Base, uint64(len(m.ops)))) }

func (m *Model) lsn(count int) uint64 { return m.Base + uint64(count) }

// add notes a request and returns its LSN.
func (m *Model) add(o op) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ops = append(m.ops, o)
	if o.pool >= 0 && !o.mark {
		m.bytes += int64(o.len)
	}
	return m.lsn(len(m.ops))
}

func (m *Model) ack(lsn uint64) {
	now := time.Now()
	m.mu.Lock()
	m.ops[m.count(lsn)-1].acked = now
	m.mu.Unlock()
}

// Mark notes a bookmark, and returns its LSN.
func (m *Model) Mark() uint64 {
	lsn := m.add(op{mark: true})
	m.ack(lsn)
	return lsn
}

// Sent is the LSN of the last request that was sent.
func (m *Model) Sent() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lsn(len(m.ops))
}

// Acked is the highest LSN that was acknowledged.
func (m *Model) Acked() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := len(m.ops); i > 0; i-- {
		if !m.ops[i-1].acked.IsZero() {
			return m.lsn(i)
		}
	}
	return m.Base
}

// covered is the LSN up to which all is acknowledged: what a flush that is sent now covers.
func (m *Model) covered() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.prefix < len(m.ops) && !m.ops[m.prefix].acked.IsZero() {
		m.prefix++
	}
	return m.lsn(m.prefix)
}

// Written are the bytes of all writes.
func (m *Model) Written() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bytes
}

// Writes is how many requests there were that write or trim.
func (m *Model) Writes() (n uint64) {
	for i := range m.ops {
		if !m.ops[i].mark {
			n++
		}
	}
	return n
}

// BlockBytes is the unit in which changes are counted.
const BlockBytes = 4096

// Changed marks the blocks that requests behind one LSN, up to another, have changed.
func (m *Model) Changed(after, upTo uint64, blocks map[int64]bool) {
	for i := m.count(after); i < m.count(upTo); i++ {
		if o := &m.ops[i]; !o.mark {
			for b := o.off / BlockBytes; b*BlockBytes < o.off+int64(o.len); b++ {
				blocks[b] = true
			}
		}
	}
}

// Loss is what was acknowledged and is not in the image at lsn: writes, and the
// age, at a time, of the oldest of them.
func (m *Model) Loss(lsn uint64, at time.Time) (writes uint64, seconds float64) {
	for i := m.count(lsn); i < len(m.ops); i++ {
		o := &m.ops[i]
		if o.mark || o.acked.IsZero() {
			continue
		}
		if writes == 0 {
			seconds = at.Sub(o.acked).Seconds()
		}
		writes++
	}
	return writes, max(0, seconds)
}

// newest says for each sector which op, counted from 1, wrote it last at an LSN; 0: none.
func (m *Model) newest(lsn uint64) []int32 {
	out := make([]int32, (m.Size+sectorBytes-1)/sectorBytes)
	for i := range m.ops[:m.count(lsn)] {
		if o := &m.ops[i]; !o.mark {
			for s := o.off / sectorBytes; s < (o.off+int64(o.len))/sectorBytes; s++ {
				out[s] = int32(i + 1)
			}
		}
	}
	return out
}

// fill makes what the volume holds in p, which begins at a sector.
func (m *Model) fill(newest []int32, p []byte, off int64) {
	for i := 0; i < len(p); i += sectorBytes {
		at := off + int64(i)
		p := p[i : i+sectorBytes]
		n := newest[at/sectorBytes]
		if n == 0 || m.ops[n-1].pool < 0 {
			clear(p)
			continue
		}
		o := &m.ops[n-1]
		copy(p, m.pool[int64(o.pool)+at-o.off:])
	}
}

// CompareFile compares the image in a file with the model at an LSN. Errors: fail.Damaged where a
// byte differs.
func (m *Model) CompareFile(ctx context.Context, path string, lsn uint64) error {
	f, err := os.Open(path)
	if err != nil {
		return fail.Wrap(fail.NotFound, "open", path, err)
	}
	defer f.Close()
	return m.Compare(ctx, path, f, lsn)
}

// Compare compares all of an image with the model at an LSN. Errors: fail.Damaged where a byte
// differs.
func (m *Model) Compare(ctx context.Context, name string, got io.ReaderAt, lsn uint64) error {
	newest := m.newest(lsn)
	a, b := make([]byte, compareBytes), make([]byte, compareBytes)
	for off := int64(0); off < m.Size && ctx.Err() == nil; off += compareBytes {
		n := int(min(compareBytes, m.Size-off))
		m.fill(newest, a[:n], off)
		if _, err := got.ReadAt(b[:n], off); err != nil {
			return fail.At("compare", name, err)
		}
		if !bytes.Equal(a[:n], b[:n]) {
			i := 0
			for a[i] == b[i] {
				i++
			}
			return fail.New(fail.Damaged, "compare", name, fmt.Sprintf("it differs from the model at LSN %d in byte %d",
				lsn, off+int64(i)))
		}
	}
	return ctx.Err()
}

const (
	compareBytes = 1 << 20
	sectorBytes  = 512 // requests begin and end at one
)
