package demo

import (
	"io"
	"math/rand/v2"
	"sync"
	"time"
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

// model knows what the volume holds at every LSN.
type model struct {
	size  int64
	bytes int64
	pool  []byte
	rnd   *rand.Rand
	mu    sync.Mutex
	ops   []op
	ended time.Time
}

// poolBytes is how much of the file tree is kept for overwrites.
const poolBytes = 64 << 20

func newModel(size int64, seed uint64) *model {
	return &model{size: size, rnd: rand.New(rand.NewPCG(seed, seed^0x9e3779b97f4a7c15))}
}

// add notes a request and returns its LSN.
func (m *model) add(o op) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ops = append(m.ops, o)
	if o.pool >= 0 && !o.mark {
		m.bytes += int64(o.len)
	}
	return uint64(len(m.ops))
}

func (m *model) ack(lsn uint64) {
	now := time.Now()
	m.mu.Lock()
	m.ops[lsn-1].acked = now
	m.mu.Unlock()
}

func (m *model) mark() uint64 {
	lsn := m.add(op{mark: true})
	m.ack(lsn)
	return lsn
}

func (m *model) writes() (n uint64) {
	for i := range m.ops {
		if !m.ops[i].mark {
			n++
		}
	}
	return n
}

// replay writes the image at lsn to w, which is all zeros.
func (m *model) replay(w io.WriterAt, lsn uint64) error {
	zeros := make([]byte, maxOpBytes)
	for i := range m.ops[:min(lsn, uint64(len(m.ops)))] {
		o := &m.ops[i]
		if o.mark {
			continue
		}
		p := zeros[:o.len]
		if o.pool >= 0 {
			p = m.pool[o.pool : o.pool+o.len]
		}
		if _, err := w.WriteAt(p, o.off); err != nil {
			return err
		}
	}
	return nil
}

// loss is what was acknowledged and is not in the image at lsn: writes, and the
// age at the loss of the oldest of them.
func (m *model) loss(lsn, acked uint64) (writes uint64, seconds float64) {
	for i := lsn; i < acked; i++ {
		o := &m.ops[i]
		if o.mark || o.acked.IsZero() {
			continue
		}
		if writes == 0 {
			seconds = m.ended.Sub(o.acked).Seconds()
		}
		writes++
	}
	return writes, max(0, seconds)
}
