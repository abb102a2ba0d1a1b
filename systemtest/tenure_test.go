package systemtest

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// registers is how many blocks of a volume the clients read and write, each of them a register.
const registers = 8

// point is what a volume holds at an LSN: the value of each register. No two writes have the same
// value; 0 is what nobody has written.
type point struct {
	lsn  uint64
	regs [registers]uint32
}

type regKind int

const (
	regRead regKind = iota
	regWrite
	regFlush
	regLSN  // asks the seat for its newest LSN
	regMark // a hand-over's, which takes an LSN and changes nothing; nobody is told of it
)

// regOp is a request and its answer. Times are of one clock, in nanoseconds.
type regOp struct {
	kind      regKind
	client    int
	reg       int
	value     uint32 // written or read
	lsn       uint64 // of a regLSN
	call, ret int64
	unknown   bool // no answer came: it may have happened, until its seat was left
}

// tenure is what clients saw at one seat, from the point at which it began, and where the journal
// went on from: the same seat after a restart, or another.
type tenure struct {
	from point
	ops  []regOp
	// next is the point from which the journal went on. It is one of this seat's: nothing before it
	// is missing in it, and nothing behind it is there.
	next point
	// nextFrom: what was answered before must be in next.
	nextFrom, nextBy int64
	// last, if not nil, is what this seat was left with, seen afterwards.
	last             *point
	lastFrom, lastBy int64
}

// allAnswered is right behind the newest answer: all that was answered precedes what is seen later.
func (x *tenure) allAnswered() (at int64) {
	for i := range x.ops {
		if !x.ops[i].unknown {
			at = max(at, x.ops[i].ret+1) // porcupine takes what ends and begins at once for concurrent
		}
	}
	return at
}

// allFlushed is the newest moment of which a flush, sent since and answered, promises that all that
// was answered before is kept.
func (x *tenure) allFlushed(since int64) (at int64) {
	for i := range x.ops {
		if o := &x.ops[i]; o.kind == regFlush && !o.unknown && o.call >= since {
			at = max(at, o.call)
		}
	}
	return at
}

// whole is the input of an operation that sees the whole volume and its LSN; one is that of a read
// or write of the only register in a history.
type whole struct{}

// history is what porcupine takes. A point is a read of everything at once. A write without an
// answer never ends: it has taken effect somewhere, or behind everything that was seen.
func (x *tenure) history() []porcupine.Operation {
	var out []porcupine.Operation
	for i := range x.ops {
		o := &x.ops[i]
		switch {
		case o.kind == regFlush || o.unknown && o.kind != regWrite && o.kind != regMark:
			continue
		case o.unknown:
			out = append(out, porcupine.Operation{ClientId: o.client, Input: o, Output: o, Call: o.call,
				Return: math.MaxInt64})
		default:
			out = append(out, porcupine.Operation{ClientId: o.client, Input: o, Output: o, Call: o.call, Return: o.ret})
		}
	}
	out = append(out, porcupine.Operation{ClientId: observer, Input: whole{}, Output: x.next, Call: x.nextFrom,
		Return: x.nextBy})
	if x.last != nil {
		out = append(out, porcupine.Operation{ClientId: observer, Input: whole{}, Output: *x.last, Call: x.lastFrom,
			Return: x.lastBy})
	}
	return out
}

const observer = 99 // the client that sees points

// volumeModel is a volume whose every write takes the next LSN.
func volumeModel(from point) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return from },
		Step: func(s, in, out any) (bool, any) {
			now := s.(point)
			if _, ok := in.(whole); ok {
				return now == out.(point), now
			}
			switch o := in.(*regOp); o.kind {
			case regWrite:
				now.lsn++
				now.regs[o.reg] = o.value
				return true, now
			case regMark:
				now.lsn++
				return true, now
			case regLSN:
				return now.lsn == o.lsn, now
			default:
				return now.regs[o.reg] == o.value, now
			}
		},
		Hash: func(s any) (h uint64) {
			for _, v := range s.(point).regs {
				h = (h ^ uint64(v)) * 0x100000001b3
			}
			return h
		},
		DescribeOperation: func(in, out any) string { return describeOp(in, out) },
		DescribeState:     func(s any) string { return fmt.Sprint(s.(point)) },
	}
}

// registerModel is one register of it.
func registerModel(from point, reg int) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return from.regs[reg] },
		Step: func(s, in, out any) (bool, any) {
			if _, ok := in.(whole); ok {
				return s.(uint32) == out.(point).regs[reg], s
			}
			if o := in.(*regOp); o.kind == regWrite {
				return true, o.value
			} else {
				return s.(uint32) == o.value, s
			}
		},
		DescribeOperation: func(in, out any) string { return describeOp(in, out) },
	}
}

func describeOp(in, out any) string {
	o, ok := in.(*regOp)
	switch {
	case !ok:
		return fmt.Sprintf("all is %v", out)
	case o.kind == regWrite && o.unknown:
		return fmt.Sprintf("write %d=%d, no answer", o.reg, o.value)
	case o.kind == regWrite:
		return fmt.Sprintf("write %d=%d", o.reg, o.value)
	case o.kind == regMark:
		return "a hand-over's mark"
	case o.kind == regLSN:
		return fmt.Sprintf("LSN is %d", o.lsn)
	default:
		return fmt.Sprintf("read %d=%d", o.reg, o.value)
	}
}

// undecided bounds one check.
const undecided = 2 * time.Minute

// check says what contradicts the model: each register by itself, and then all of them, the LSNs
// and the points together.
func (x *tenure) check() error {
	all := x.history()
	for reg := range registers {
		var of []porcupine.Operation
		for _, o := range all {
			if r, ok := o.Input.(*regOp); !ok || r.kind < regLSN && r.reg == reg {
				of = append(of, o)
			}
		}
		if err := linearizable(registerModel(x.from, reg), of); err != nil {
			return fmt.Errorf("register %d, which was %d: %w", reg, x.from.regs[reg], err)
		}
	}
	if err := linearizable(volumeModel(x.from), all); err != nil {
		return fmt.Errorf("the volume, each register of which alone is right, from %v: %w", x.from, err)
	}
	return nil
}

func linearizable(m porcupine.Model, ops []porcupine.Operation) error {
	switch porcupine.CheckOperationsTimeout(m, ops, undecided) {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("it is not known after %v whether %d operations fit", undecided, len(ops))
	default:
		_, info := porcupine.CheckOperationsVerbose(m, ops, undecided)
		return fmt.Errorf("no order fits:\n%s", stuck(m, &info, ops))
	}
}

// stuck shows the end of the longest order that fits, and what does not fit behind it.
func stuck(m porcupine.Model, info *porcupine.LinearizationInfo, ops []porcupine.Operation) string {
	var best []int
	for _, p := range info.PartialLinearizations()[0] {
		if len(p) > len(best) {
			best = p
		}
	}
	var b strings.Builder
	line := func(how string, o *porcupine.Operation) {
		end := "-"
		if o.Return != math.MaxInt64 {
			end = fmt.Sprintf("%.6f", float64(o.Return)/1e9)
		}
		fmt.Fprintf(&b, "  %s %.6f to %s, client %d: %s\n", how, float64(o.Call)/1e9, end, o.ClientId,
			describeOp(o.Input, o.Output))
	}
	now := m.Init()
	for _, i := range best {
		_, now = m.Step(now, ops[i].Input, ops[i].Output)
	}
	for _, i := range best[max(0, len(best)-12):] {
		line("fits", &ops[i])
	}
	fmt.Fprintf(&b, "  and all is %v\n", now)
	var left []porcupine.Operation
	for i := range ops {
		if !slices.Contains(best, i) {
			left = append(left, ops[i])
		}
	}
	slices.SortFunc(left, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	for i := range left[:min(8, len(left))] {
		line("left", &left[i])
	}
	return b.String()
}
