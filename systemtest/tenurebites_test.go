package systemtest

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// of is the operation on another register.
func (o regOp) of(reg int) regOp {
	o.reg = reg
	return o
}

// TestTenureBites: the checker takes what may be, and refuses each kind of what may not.
func TestTenureBites(t *testing.T) {
	// A history in a few letters: w and r are a write and a read of register 0 that were answered, u
	// a write without an answer, f a flush.
	w := func(value uint32, call, ret int64) regOp {
		return regOp{kind: regWrite, value: value, call: call, ret: ret}
	}
	r := func(value uint32, call, ret int64) regOp {
		return regOp{kind: regRead, value: value, call: call, ret: ret}
	}
	u := func(value uint32, call int64) regOp {
		return regOp{kind: regWrite, value: value, call: call, unknown: true}
	}
	f := func(call, ret int64) regOp { return regOp{kind: regFlush, call: call, ret: ret} }
	at := func(lsn uint64, values ...uint32) (p point) { // of the first registers
		p.lsn = lsn
		copy(p.regs[:], values)
		return p
	}
	const end = 1000
	planned, local := (*tenure).allAnswered, func(*tenure) int64 { return 0 }
	remote := func(x *tenure) int64 { return x.allFlushed(0) }
	for _, c := range []struct {
		name  string
		ops   []regOp
		next  point
		kept  func(*tenure) int64 // by which promise
		last  *point
		wrong bool
	}{
		{name: "all is kept", ops: []regOp{w(1, 1, 2), w(2, 3, 4), r(2, 5, 6)}, next: at(2, 2), kept: planned},
		{name: "a write is lost", ops: []regOp{w(1, 1, 2), w(2, 3, 4)}, next: at(1, 1), kept: planned, wrong: true},
		{name: "a write is lost that was read, and not answered", ops: []regOp{u(1, 1), r(1, 2, 3)}, next: at(0, 0),
			kept: planned, wrong: true},
		{name: "two writes at once, the first is the last", ops: []regOp{w(1, 1, 4), w(2, 2, 3), r(1, 5, 6)},
			next: at(2, 1), kept: planned},
		{name: "a stale read", ops: []regOp{w(1, 1, 2), w(2, 3, 4), r(1, 5, 6)}, next: at(2, 2), kept: planned,
			wrong: true},
		{name: "a read goes back", ops: []regOp{w(1, 1, 2), w(2, 3, 9), r(2, 4, 5), r(1, 6, 7)}, next: at(2, 2),
			kept: planned, wrong: true},
		{name: "a value that nobody has written", ops: []regOp{w(1, 1, 2), r(7, 3, 4)}, next: at(1, 1), kept: planned,
			wrong: true},
		{name: "an unanswered write was carried out", ops: []regOp{w(1, 1, 2), u(2, 3)}, next: at(2, 2), kept: planned},
		{name: "an unanswered write was not", ops: []regOp{w(1, 1, 2), u(2, 3)}, next: at(1, 1), kept: planned},
		{name: "an unanswered write comes, and goes", ops: []regOp{w(1, 1, 2), u(2, 3), r(2, 4, 5), r(1, 6, 7)},
			next: at(2, 1), kept: planned, wrong: true},
		{name: "a hand-over's mark", ops: []regOp{w(1, 1, 2), {kind: regMark, call: 3, unknown: true}}, next: at(2, 1),
			kept: planned},
		{name: "no mark", ops: []regOp{w(1, 1, 2), {kind: regMark, call: 3, unknown: true}}, next: at(1, 1),
			kept: planned},
		{name: "an LSN too many", ops: []regOp{w(1, 1, 2), w(2, 3, 4)}, next: at(3, 2), kept: planned, wrong: true},

		{name: "local: a suffix is lost", ops: []regOp{w(1, 1, 2), w(2, 3, 4).of(1), f(5, 6)}, next: at(1, 1),
			kept: local},
		{name: "local: all is lost", ops: []regOp{w(1, 1, 2), w(2, 3, 4).of(1)}, next: at(0), kept: local},
		{name: "local: one in the middle is lost", ops: []regOp{w(1, 1, 2), w(2, 3, 4).of(1)}, next: at(1, 0, 2),
			kept: local, wrong: true},
		{name: "local: more is lost than was reported", ops: []regOp{w(1, 1, 2), w(2, 3, 4).of(1)}, next: at(2, 1),
			kept: local, wrong: true},
		{name: "local: less is lost than was reported", ops: []regOp{w(1, 1, 2), w(2, 3, 4).of(1)}, next: at(1, 1, 2),
			kept: local, wrong: true},
		{name: "local: what is lost is with the former seat", ops: []regOp{w(1, 1, 2), w(2, 3, 4)}, next: at(1, 1),
			kept: local, last: &point{2, [registers]uint32{2}}},
		{name: "local: the former seat has lost it, too", ops: []regOp{w(1, 1, 2), w(2, 3, 4)}, next: at(1, 1),
			kept: local, last: &point{1, [registers]uint32{1}}, wrong: true},
		{name: "local: a read sees what is lost", ops: []regOp{w(1, 1, 2), w(2, 3, 4), r(2, 5, 6)}, next: at(1, 1),
			kept: local},

		{name: "remote: behind the flush", ops: []regOp{w(1, 1, 2), f(3, 4), w(2, 5, 6)}, next: at(1, 1), kept: remote},
		{name: "remote: flushed, and lost", ops: []regOp{w(1, 1, 2), w(2, 3, 4), f(5, 6)}, next: at(1, 1),
			kept: remote, wrong: true},
		{name: "remote: written while it was flushed, and lost", ops: []regOp{w(1, 1, 2), w(2, 3, 5), f(4, 6)},
			next: at(1, 1), kept: remote},
	} {
		x := &tenure{ops: c.ops, next: c.next, nextBy: end, last: c.last, lastBy: end}
		x.nextFrom, x.lastFrom = c.kept(x), x.allAnswered()
		if err := x.check(); (err != nil) != c.wrong {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for reg, value := range []uint32{1, 2} { // a write that was lost is back at the next seat
		x := &tenure{from: at(1, 1), ops: []regOp{r(value, 1, 2), w(3, 3, 4)}, next: at(2, 3), nextBy: end}
		if err := x.check(); (err != nil) != (reg == 1) {
			t.Errorf("resurrected: %v", err)
		}
	}
}

// TestTenureRandom: what a volume that is right answers to many clients at once is taken, and
// refused as soon as one answer is another.
func TestTenureRandom(t *testing.T) {
	rnd := newRand(t)
	for range 30 {
		x := imagined(rnd)
		if err := x.check(); err != nil {
			t.Fatalf("what is right is refused: %v", err)
		}
		for what, spoil := range spoilers {
			y := *x
			y.ops = append([]regOp{}, x.ops...)
			if spoil(&y, rnd) && y.check() == nil {
				t.Errorf("it is taken: %s", what)
			}
		}
	}
}

// imagined is the history of a volume that is right. Each request takes effect at one moment of it.
func imagined(rnd *rand.Rand) *tenure {
	x := &tenure{}
	now, t := point{}, int64(1)
	free := [4]int64{}
	cut := 100 + rnd.IntN(200)
	for i := range 300 {
		o := regOp{kind: regKind(rnd.IntN(4)), client: rnd.IntN(len(free)), reg: rnd.IntN(registers)}
		t += 1 + rnd.Int64N(10)
		o.call = max(free[o.client]+1, t-rnd.Int64N(20))
		t = max(t, o.call)
		o.ret = t + rnd.Int64N(20)
		free[o.client] = o.ret
		switch o.kind {
		case regWrite:
			now.lsn++
			o.value = uint32(i + 1)
			now.regs[o.reg] = o.value
		case regRead:
			o.value = now.regs[o.reg]
		case regLSN:
			o.lsn = now.lsn
		}
		x.ops = append(x.ops, o)
		if i == cut {
			x.next, x.nextFrom, x.nextBy = now, 0, 1<<40
		}
	}
	x.last = &point{now.lsn, now.regs}
	x.lastFrom, x.lastBy = x.allAnswered(), 1<<40
	return x
}

// spoilers make one thing of a history wrong; false is that there is no such thing in it.
var spoilers = map[string]func(x *tenure, rnd *rand.Rand) bool{
	"a read of another value": func(x *tenure, rnd *rand.Rand) bool {
		o := x.some(regRead, rnd)
		o.value += 1000
		return true
	},
	"a read of what was overwritten before": func(x *tenure, rnd *rand.Rand) bool {
		for range 100 {
			o := x.some(regRead, rnd)
			if old, ok := x.stale(o); ok {
				o.value = old
				return true
			}
		}
		return false
	},
	"the seat has lost all of a register": func(x *tenure, rnd *rand.Rand) bool {
		reg, last := rnd.IntN(registers), *x.last
		was := last.regs[reg]
		last.regs[reg], x.last = 0, &last
		return was != 0
	},
	"the seat has lost its newest": func(x *tenure, _ *rand.Rand) bool {
		x.last = &point{x.last.lsn - 1, x.last.regs}
		return true
	},
	"the point has LSNs too many": func(x *tenure, _ *rand.Rand) bool { x.next.lsn += 5; return true },
	"an LSN that was not yet there": func(x *tenure, rnd *rand.Rand) bool {
		x.some(regLSN, rnd).lsn += 10
		return true
	},
}

// some picks an operation.
func (x *tenure) some(kind regKind, rnd *rand.Rand) *regOp {
	for {
		if o := &x.ops[rnd.IntN(len(x.ops))]; o.kind == kind {
			return o
		}
	}
}

// stale is a value of a read's register that was surely overwritten before the read began.
func (x *tenure) stale(read *regOp) (uint32, bool) {
	for i := range x.ops {
		old := &x.ops[i]
		for k := range x.ops {
			over := &x.ops[k]
			if old.kind == regWrite && over.kind == regWrite && old.reg == read.reg && over.reg == read.reg &&
				old.ret < over.call && over.ret < read.call {
				return old.value, true
			}
		}
	}
	return 0, false
}

func (p point) String() string { return fmt.Sprintf("LSN %d %v", p.lsn, p.regs) }
