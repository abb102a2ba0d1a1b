package systemtest

import (
	"encoding/binary"
	"math/rand/v2"
	"sort"

	"github.com/pollux-dr/pollux/internal/nbdclient"
)

// chunkBytes is the unit in which the agent looks for zeros in a large write:
// each run of chunks of one kind becomes a record. maxWriteBytes is the most
// that it takes at once.
const (
	chunkBytes    = 64 << 10
	maxWriteBytes = 1 << 20
)

type opKind int

const (
	opWrite opKind = iota
	opZero
	opTrim
	opMark // a bookmark: takes an LSN, changes nothing
)

// op is one request. Its payload follows from seed, so that a history is small.
type op struct {
	kind  opKind
	off   int64
	n     int
	seed  uint64
	zeros uint64 // bit i: chunk i of the payload is zeros
	flags nbdclient.Flags
}

// part is what one record of a request changes: bytes [from, to) of it.
type part struct{ from, to int }

// pool is where payloads are copied from: one half does not compress, one does.
var pool = func() []byte {
	b := make([]byte, 8<<20)
	r := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < len(b)/2; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
	for i := len(b) / 2; i < len(b); i++ {
		b[i] = "all work and no play "[i%21]
	}
	return b
}()

// fill writes the payload into b, which has n bytes. Every 512 bytes are
// stamped, so that no two requests write the same.
func (o *op) fill(b []byte) []byte {
	b = b[:o.n]
	if o.kind != opWrite {
		clear(b)
		return b
	}
	copy(b, pool[o.seed%uint64(len(pool)-len(b)):])
	for i := 0; i+16 <= len(b); i += 512 {
		binary.LittleEndian.PutUint64(b[i:], o.seed|1)
		binary.LittleEndian.PutUint64(b[i+8:], uint64(i))
	}
	b[0] |= 1 // a short one is not zeros by accident
	for c := 0; c*chunkBytes < len(b); c++ {
		if o.zeros&(1<<c) != 0 {
			clear(b[c*chunkBytes : min(len(b), (c+1)*chunkBytes)])
		}
	}
	return b
}

// parts are the records that the request becomes, in order.
func (o *op) parts() []part {
	if o.kind != opWrite || o.n < chunkBytes {
		return []part{{0, o.n}}
	}
	var out []part
	for c := 0; c*chunkBytes < o.n; c++ {
		from, to := c*chunkBytes, min(o.n, (c+1)*chunkBytes)
		if k := len(out) - 1; k >= 0 && from%maxWriteBytes != 0 && o.zeros>>c&1 == o.zeros>>(c-1)&1 {
			out[k].to = to
			continue
		}
		out = append(out, part{from, to})
	}
	return out
}

// randomOp makes a request somewhere in [base, base+size).
func randomOp(r *rand.Rand, base, size int64) op {
	o := op{seed: r.Uint64()}
	limit := 16 << 10
	switch p := r.IntN(100); {
	case p < 25:
		limit = 256 << 10
	case p < 27:
		limit = 2 << 20
	}
	o.n = 512 + r.IntN(int(min(int64(limit), size))-511)
	o.off = base + r.Int64N(size-int64(o.n)+1)
	if r.IntN(4) > 0 { // most are aligned
		o.off &^= 511
		o.n &^= 511
	}
	o.off = max(o.off, base)
	switch p := r.IntN(100); {
	case p < 6:
		o.kind = opZero
	case p < 12:
		o.kind = opTrim
	case p < 16:
		o.zeros = ^uint64(0)
	case p < 30:
		o.zeros = r.Uint64()
	}
	if r.IntN(12) == 0 {
		o.flags |= nbdclient.FUA
	}
	if o.kind == opZero && r.IntN(2) == 0 {
		o.flags |= nbdclient.NoHole
	}
	return o
}

// largeTrim zeroes or trims megabytes.
func largeTrim(r *rand.Rand, size int64) op {
	o := op{kind: opZero + opKind(r.IntN(2)), n: 1<<20 + 512*r.IntN(int(size-1<<20)/512)}
	o.off = 512 * r.Int64N((size-int64(o.n))/512+1)
	return o
}

// step is an op that was carried out, or as much of it as survived a crash.
type step struct {
	op
	first   uint64 // LSN
	records int    // of its parts, how many
}

// history is what was acknowledged, in order.
type history struct {
	size  int64
	lsn   uint64 // of the newest
	image []byte // at lsn
	steps []step
	saved []saved
	buf   []byte
}

// saved is an image now and then, so that older ones are had without replaying
// everything.
type saved struct {
	steps int
	lsn   uint64
	image []byte
}

func newHistory(size int64, lsn uint64) *history {
	return &history{size: size, lsn: lsn, image: make([]byte, size), buf: make([]byte, max(size, 2<<20+512))}
}

// add applies the first records of an op.
func (h *history) add(o op, records int) {
	st := step{op: o, first: h.lsn + 1, records: records}
	h.apply(h.image, &st, h.lsn+uint64(records))
	h.lsn += uint64(records)
	h.steps = append(h.steps, st)
}

// apply changes img by the records of st up to lsn.
func (h *history) apply(img []byte, st *step, lsn uint64) {
	if st.kind == opMark {
		return
	}
	b := st.fill(h.buf)
	for i, p := range st.parts()[:st.records] {
		if st.first+uint64(i) <= lsn {
			copy(img[st.off+int64(p.from):], b[p.from:p.to])
		}
	}
}

// save remembers the present image.
func (h *history) save() {
	h.saved = append(h.saved, saved{len(h.steps), h.lsn, append([]byte(nil), h.image...)})
}

// at returns the image at an LSN.
func (h *history) at(lsn uint64) []byte {
	img, from := make([]byte, h.size), 0
	k := sort.Search(len(h.saved), func(i int) bool { return h.saved[i].lsn > lsn })
	if k > 0 {
		copy(img, h.saved[k-1].image)
		from = h.saved[k-1].steps
	}
	for i := from; i < len(h.steps) && h.steps[i].first <= lsn; i++ {
		h.apply(img, &h.steps[i], lsn)
	}
	return img
}
