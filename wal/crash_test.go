package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/fail"
)

// state is what may legitimately be found on disk.
type state struct {
	first   uint64            // as truncated; may be found lower
	acked   uint64            // Sync returned for it: must be there
	written uint64            // Append returned for it: there unless the power failed
	max     uint64            // nothing beyond may be there
	content map[uint64][]byte // by index; never changed, only replaced
}

func (s state) clone() state {
	c := make(map[uint64][]byte, len(s.content))
	for k, v := range s.content {
		c[k] = v
	}
	s.content = c
	return s
}

// check compares a log that was just opened with the state.
func (s state) check(l *Log, powerCut bool) error {
	first, last := l.First(), l.Last()
	if last < s.acked || last > s.max || !powerCut && last < s.written {
		return fmt.Errorf("log ends with %d; acked %d, written %d, at most %d", last, s.acked, s.written, s.max)
	}
	if first > s.first || first > last+1 || first == 0 {
		return fmt.Errorf("log begins with %d and ends with %d; truncated to begin with %d", first, last, s.first)
	}
	if l.Durable() != last {
		return fmt.Errorf("after Open %d entries are durable of %d", l.Durable(), last)
	}
	var buf []byte
	for i := first; i <= last; i++ {
		b, err := l.Read(i, buf)
		if err != nil {
			return err
		}
		if !bytes.Equal(b, s.content[i]) {
			return fmt.Errorf("entry %d is %.8q, should be %.8q", i, b, s.content[i])
		}
		buf = b
	}
	return nil
}

// crasher runs a script on a log and cuts the power after every operation.
type crasher struct {
	t          testing.TB
	rng        *rand.Rand
	mem        *vfs.MemFS
	fs         *testFS
	salt       func(uint64) uint64
	skip       func() func(fileOp) bool // tells which syncs do nothing; made anew for each file system
	states     []state                  // any of these may be found now
	background bool                     // the log under test preallocates; power is cut between calls only
	ops        int
	deep       int // recoveries in which the power is cut again
	opens      int
	firstBad   error
	serial     uint64
}

func newCrasher(t testing.TB, seed uint64, skip func() func(fileOp) bool) *crasher {
	c := &crasher{
		t: t, rng: rand.New(rand.NewPCG(seed, 1)), mem: vfs.NewCrashableMem(), salt: seededSalt(seed), skip: skip,
		states: []state{{first: 1, content: map[uint64][]byte{}}},
	}
	c.fs = newTestFS(c.mem)
	c.fs.skip = c.newSkip()
	c.fs.after = func(op fileOp) {
		c.ops++
		c.cut(fmt.Sprintf("op %d (%s %s at %d, %d bytes)", c.ops, op.kind, op.path, op.off, op.n))
	}
	return c
}

func (c *crasher) newSkip() func(fileOp) bool {
	if c.skip == nil {
		return nil
	}
	return c.skip()
}

func (c *crasher) bad(where string, err error) {
	if c.firstBad == nil {
		c.firstBad = fmt.Errorf("%s: %w", where, err)
	}
}

// cut simulates the ends that may follow the present moment.
func (c *crasher) cut(where string) {
	if c.firstBad != nil {
		return
	}
	for _, percent := range []int{0, 50, 100} {
		clone := c.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: c.rng})
		c.verify(fmt.Sprintf("%s, power cut with %d%% kept", where, percent), clone, true)
	}
	if _, err := c.mem.Stat(testDir); err == nil && !c.background {
		c.verify(where+", killed", copyFS(c.t, c.mem, testDir), false)
	}
}

// verify opens the log in mem, cutting the power at each step of that too, then
// checks it and goes on with it.
func (c *crasher) verify(where string, mem *vfs.MemFS, powerCut bool) {
	fs := newTestFS(mem)
	fs.skip = c.newSkip()
	var again []*vfs.MemFS
	fs.after = func(fileOp) {
		percent := []int{0, 50, 100}[c.rng.IntN(3)]
		again = append(again, mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: c.rng}))
	}
	l := c.open(where, fs, powerCut)
	if l == nil {
		return
	}
	got := state{first: l.First(), acked: l.Last(), written: l.Last(), max: l.Last(), content: map[uint64][]byte{}}
	for i := l.First(); i <= l.Last(); i++ {
		b, err := l.Read(i, nil)
		if err != nil {
			c.bad(where, err)
		}
		got.content[i] = b
	}
	fs.after = nil
	c.goOn(where, l, got, mem)
	for i, m := range again {
		c.deep++
		if l := c.open(fmt.Sprintf("%s, again at step %d of recovery", where, i+1), newTestFS(m), powerCut); l != nil {
			_ = l.Close()
		}
	}
}

// open opens and checks; nil means that it found something bad.
func (c *crasher) open(where string, fs vfs.FS, powerCut bool) *Log {
	c.opens++
	l, err := Open(c.options(fs))
	if err != nil {
		c.bad(where, err)
		return nil
	}
	var errs []error
	for _, s := range c.states {
		err := s.check(l, powerCut)
		if err == nil {
			return l
		}
		errs = append(errs, err)
	}
	c.bad(where, errors.Join(errs...))
	_ = l.Close()
	return nil
}

// goOn appends to a recovered log, then cuts the power with nothing unsynced
// kept: all of what was recovered must be there, and what came after.
func (c *crasher) goOn(where string, l *Log, got state, mem *vfs.MemFS) {
	where += ", gone on"
	for range 2 {
		e := payload(1e7+got.max, 4000)
		last, err := l.Append(e)
		if err == nil {
			err = l.Sync(context.Background(), last)
		}
		if err != nil {
			c.bad(where, err)
		}
		got.content[last], got.acked, got.max = e, last, last
	}
	crashed := mem.CrashClone(vfs.CrashCloneCfg{})
	_ = l.Close()
	l2, err := Open(c.options(crashed))
	if err != nil {
		c.bad(where, err)
		return
	}
	if err := got.check(l2, true); err != nil {
		c.bad(where, err)
	}
	_ = l2.Close()
}

func (c *crasher) options(fs vfs.FS) Options {
	return Options{FS: fs, Dir: testDir, SegmentBytes: 32 << 10, Salt: c.salt}
}

// script runs steps operations, chosen by the seed.
func (c *crasher) script(steps int) {
	opt := c.options(c.fs)
	if c.background {
		opt.PreallocateInBackground, c.fs.after = true, nil
	}
	l, err := Open(opt)
	if err != nil {
		c.bad("open", err)
		return
	}
	for i := range steps {
		if c.firstBad != nil {
			break
		}
		if c.background {
			c.cut(fmt.Sprintf("before step %d", i))
		}
		now := c.states[0].clone()
		switch n := c.rng.IntN(100); {
		case n < 45:
			now = c.append(l, now)
		case n < 70:
			err = l.Sync(context.Background(), now.written)
			now.acked = now.written
		case n < 80 && now.written >= now.first:
			now.first += c.rng.Uint64N(now.written + 2 - now.first)
			c.states = []state{now, c.states[0]}
			err = l.TruncateFront(now.first)
		case n < 90 && now.written >= now.first:
			last := now.first - 1 + c.rng.Uint64N(now.written+2-now.first)
			c.states = []state{now, now.cutTo(last)}
			err = l.TruncateBack(last)
			now = now.cutTo(last)
		case n < 93:
			next := 1 + c.rng.Uint64N(now.written+20)
			after := state{first: next, acked: next - 1, written: next - 1, max: next - 1, content: map[uint64][]byte{}}
			c.states = []state{now, after}
			err = l.Reset(next)
			now = after
		case n < 98:
			err = l.Close()
			if err == nil {
				now.acked = now.written
				c.states = []state{now}
				l, err = Open(opt)
			}
			if err == nil {
				now.first = l.First()
			}
		}
		if err != nil {
			c.bad("script", err)
			break
		}
		c.states = []state{now}
	}
	if l != nil {
		_ = l.Close()
	}
}

func (s state) cutTo(last uint64) state {
	s = s.clone()
	if last == s.written {
		return s // nothing to do, so nothing is synced either
	}
	for i := range s.content {
		if i > last {
			delete(s.content, i)
		}
	}
	s.acked, s.written, s.max = last, last, last // TruncateBack syncs what it keeps
	return s
}

func (c *crasher) append(l *Log, now state) state {
	var entries [][]byte
	for range 1 + c.rng.IntN(4) {
		c.serial++
		size := []int{8, 100, 3000, 4096, 9000}[c.rng.IntN(5)]
		entries = append(entries, payload(c.serial, size))
		now.max++
		now.content[now.max] = entries[len(entries)-1]
	}
	c.states = []state{now}
	last, err := l.Append(entries...)
	if err != nil || last != now.max {
		c.bad("append", fmt.Errorf("last %d, want %d: %w", last, now.max, err))
	}
	now.written = now.max
	return now
}

func TestCrashAfterEveryOperation(t *testing.T) {
	t.Parallel()
	seeds := 5 // POLLUX_WAL_SEEDS asks for more
	if testing.Short() {
		seeds = 1
	}
	if n, err := strconv.Atoi(os.Getenv("POLLUX_WAL_SEEDS")); err == nil {
		seeds = n
	}
	for seed := range uint64(seeds) {
		c := newCrasher(t, seed, nil)
		c.script(80)
		if c.firstBad != nil {
			t.Fatalf("seed %d: %v", seed, c.firstBad)
		}
		if c.ops < 50 || c.deep == 0 {
			t.Fatalf("seed %d: only %d operations and %d cuts during recovery", seed, c.ops, c.deep)
		}
		t.Logf("seed %d: %d operations, %d opens, %d cuts during recovery", seed, c.ops, c.opens, c.deep)
	}
}

// TestCrashBesideBackgroundWork cuts the power at moments when recycling and
// preallocation may be anywhere.
func TestCrashBesideBackgroundWork(t *testing.T) {
	t.Parallel()
	seeds := uint64(4)
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		c := newCrasher(t, 1000+seed, nil)
		c.background = true
		c.script(60)
		if c.firstBad != nil {
			t.Fatalf("seed %d: %v", 1000+seed, c.firstBad)
		}
	}
}

// TestCrashTestSeesMissingSyncs proves the test above: without any one kind of
// sync it must find a violation.
func TestCrashTestSeesMissingSyncs(t *testing.T) {
	t.Parallel()
	plain := func(f func(fileOp) bool) func() func(fileOp) bool {
		return func() func(fileOp) bool { return f }
	}
	// dirAfter skips the directory sync that follows such a change of names.
	dirAfter := func(match func(fileOp) bool) func() func(fileOp) bool {
		return func() func(fileOp) bool {
			matched := false
			return func(op fileOp) bool {
				skip := matched && op.kind == "syncdir"
				matched = match(op)
				return skip
			}
		}
	}
	classes := map[string]func() func(fileOp) bool{
		"segment data": plain(func(op fileOp) bool {
			return op.kind == "sync" && !isSpareOp(op)
		}),
		"segment header": plain(func(op fileOp) bool {
			return op.kind == "sync" && isSpareOp(op) && !op.body
		}),
		"recovery rewrite": plain(func(op fileOp) bool {
			return op.kind == "sync" && isSpareOp(op) && op.body
		}),
		"directory": plain(func(op fileOp) bool {
			return op.kind == "syncdir" && op.path == testDir
		}),
		"parent directory": plain(func(op fileOp) bool {
			return op.kind == "syncdir" && op.path != testDir
		}),
		"directory, after a segment was created": dirAfter(func(op fileOp) bool {
			return op.kind == "rename" && isSpareOp(op)
		}),
		"directory, after a segment was recycled": dirAfter(func(op fileOp) bool {
			return op.kind == "rename" && !isSpareOp(op)
		}),
	}
	for name, skip := range classes {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(20) {
				c := newCrasher(t, seed, skip)
				c.script(80)
				if c.firstBad != nil {
					t.Logf("seed %d: found: %v", seed, c.firstBad)
					return
				}
			}
			t.Fatal("no violation found in 20 runs without this sync")
		})
	}
}

func TestMissingSegment(t *testing.T) {
	// A crash alone never looks like damage: in TestCrashAfterEveryOperation every
	// Open must succeed. A lost middle segment does.
	mem := vfs.NewCrashableMem()
	l := openTest(t, Options{FS: mem})
	for i := range 30 {
		_, err := l.Append(payload(uint64(i), 4000))
		must(t, err)
	}
	if l.Stats().Segments < 3 {
		t.Fatal("too few segments")
	}
	must(t, l.Close())
	must(t, mem.Remove(mem.PathJoin(testDir, segmentName(2))))
	_, err := Open(withDefaults(Options{FS: mem}))
	wantKind(t, err, fail.Damaged, nil)
}
