package uploader

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// branches are logs that are behind, or have a dead branch, in all the ways in which catalogs and
// the ends of objects can lie.
var branches = map[string]func(x *sites){
	"behind": func(x *sites) {
		n := x.write(20)
		x.logA.upTo(n - uint64(x.r.IntN(10)))
		x.logB.upTo(x.write(20))
	},
	"behind, with a catalog": func(x *sites) {
		x.logA.upTo(x.write(20))
		x.collect(x.a, true)
		x.logB.upTo(x.write(20))
	},
	"equal": func(x *sites) {
		n := x.write(30)
		x.logA.upTo(n)
		x.logB.upTo(n)
	},
	"dead": func(x *sites) {
		x.logB.upTo(x.write(20))
		x.logA.upTo(x.dead(10))
	},
	"dead, and longer": func(x *sites) {
		x.logB.upTo(x.write(10))
		n := x.dead(60)
		x.logA.upTo(n / 2)
		x.logA.fence()
		x.logA.upTo(n)
	},
	"dead, and the branch has a catalog": func(x *sites) {
		n := x.write(10)
		x.logA.upTo(n)
		x.collect(x.a, false)
		n = x.write(20)
		x.logB.upTo(n)
		x.logA.upTo(n - 3)
		m := x.dead(40)
		x.logA.upTo(m - 5)
		x.collect(x.a, false)
		x.logA.upTo(m)
	},
	"dead, and only the branch has a catalog": func(x *sites) {
		x.logB.upTo(x.write(20))
		x.logA.upTo(x.dead(40))
		x.collect(x.a, false)
	},
}

// TestBroughtInLine: another target that is behind, or has a dead branch, goes on where the common
// history ends, is filled from the log that was taken, and has the same points with the same bytes.
func TestBroughtInLine(t *testing.T) {
	for name, make := range branches {
		for round := range 3 {
			t.Run(fmt.Sprintf("%s/%d", name, round), func(t *testing.T) {
				t.Parallel()
				x := newSites(t)
				make(x)
				x.failOver()
				up, stop := x.run(x.a)
				x.more(10)
				x.inLine(up)
				x.more(3)
				x.inLine(up)
				stop()
				x.equal(x.store, 1)
				x.equal(x.a, 1)
				for _, target := range x.pair {
					if at := x.j.TargetPoints(target)[x.log.Stream]; at != x.log.Point {
						t.Errorf("target %s has the stream up to %v, want %v", target, at, x.log.Point)
					}
				}
				x.collect(x.a, true)
				x.equal(x.a, x.log.Point.LSN)
			})
		}
	}
}

// TestAnotherTookTheDeadBranch: a third site fenced the log with the dead branch under the same epoch, and
// gave that up. A catalog of it ends under the journal's own epoch, and has none of its moves: what it
// covers is no history, and the target says that it cannot be brought in line.
func TestAnotherTookTheDeadBranch(t *testing.T) {
	t.Parallel()
	x := newSites(t)
	x.logB.upTo(x.write(20))
	x.logA.upTo(x.dead(15))
	x.logA.taken()
	x.collect(x.a, false)
	x.failOver()
	x.more(40) // beyond the branch's end
	x.fenced = true
	up, stop := x.run(x.a)
	defer stop()
	for deadline := time.Now().Add(time.Minute); !up.Status().Fenced; time.Sleep(time.Millisecond) {
		if a := x.j.Target("a"); a.LetGo == nil || time.Now().After(deadline) {
			t.Fatalf("it is brought in line: %+v, %+v", a, up.Status())
		}
	}
	if err := up.Status().Err; fail.HintOf(err) == "" {
		t.Errorf("%v without a hint", err)
	}
}

// TestBroughtInLineThroughCrashes: the process ends behind any few objects, the last of them without
// an answer.
func TestBroughtInLineThroughCrashes(t *testing.T) {
	for name, make := range branches {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newSites(t)
			make(x)
			x.failOver()
			x.more(3)
			x.crashes(func() {})
			x.equal(x.store, 1)
			x.equal(x.a, 1)
		})
	}
}

// crashes brings log a in line, with the process ending behind any few objects.
func (x *sites) crashes(meanwhile func()) {
	x.t.Helper()
	cut := &cutStore{Store: x.a}
	for n := 0; ; n++ {
		cut.left.Store(int64(1 + x.r.IntN(4)))
		up, stop := x.run(cut)
		for deadline := time.Now().Add(20 * time.Second); cut.left.Load() > 0; time.Sleep(100 * time.Microsecond) {
			a, last := x.j.Target("a"), x.j.LastIndex()
			if a.LetGo == nil && a.Index == last && x.j.Target("b").Index == last {
				stop()
				x.t.Logf("in line after %d crashes", n)
				return
			}
			if time.Now().After(deadline) {
				x.t.Fatalf("a %+v, b %+v of %d; %+v", a, x.j.Target("b"), last, up.Status())
			}
		}
		stop()
		meanwhile()
		if err := x.j.Close(); err != nil {
			x.t.Fatal(err)
		}
		x.openSites()
		for !x.j.Leads() {
			time.Sleep(time.Millisecond)
		}
	}
}

// empty are logs to be filled from their very beginning.
var empty = map[string]func(x *sites){
	"of few objects": func(x *sites) {
		x.logB.upTo(x.write(20))
	},
	"with a catalog": func(x *sites) {
		x.logB.upTo(x.write(40))
		x.collect(x.store, false)
		x.logB.upTo(x.write(10))
	},
	"whose beginning is gone":  func(x *sites) { x.age(); x.logB.upTo(x.write(10)) },
	"that ends at its catalog": func(x *sites) { x.age() },
}

// age has log b lose its beginning to garbage collection, a few times over.
func (x *sites) age() {
	for range 4 {
		x.write(60)
		x.moveHorizon()
		x.logB.upTo(x.write(1))
		x.collect(x.store, true)
	}
	if x.oldest(x.store) < 10 {
		x.t.Fatal("the beginning of log b is still there")
	}
}

// TestEmptyTarget: an empty bucket gets all the points that its sibling has.
func TestEmptyTarget(t *testing.T) {
	for name, make := range empty {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newSites(t)
			make(x)
			x.failOver()
			up, stop := x.run(x.a)
			x.more(10)
			x.inLine(up)
			x.more(3)
			x.inLine(up)
			stop()
			x.samePoints()
			x.collect(x.a, true)
			x.equal(x.a, x.log.Point.LSN)
		})
	}
}

// TestEmptyTargetThroughCrashes: the process ends behind any few objects, and garbage is collected
// in the sibling meanwhile.
func TestEmptyTargetThroughCrashes(t *testing.T) {
	for name, make := range empty {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newSites(t)
			make(x)
			x.failOver()
			x.more(3)
			x.crashes(func() {
				if x.r.IntN(3) == 0 {
					x.collect(x.store, true)
				}
			})
			x.samePoints()
		})
	}
}

// samePoints: whatever is a point of log b is one of log a, and both have what the volume had there.
func (x *sites) samePoints() {
	x.t.Helper()
	first := x.oldest(x.store)
	if a := x.oldest(x.a); a != first {
		x.t.Errorf("the points of a begin at LSN %d, of b at %d", a, first)
	}
	if a, b := x.equal(x.a, first), x.equal(x.store, first); !slices.Equal(a, b) {
		x.t.Errorf("the points of a are %v, of b %v", a, b)
	}
}
