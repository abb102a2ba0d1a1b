package uploader

import (
	"fmt"
	"testing"
)

// A model of one writer, the successor that fences it, and garbage collection. Every step
// may come at any time between any two others; positions, hours and objects are few, so all
// orders are gone through. What the writer may count as durable is what tail.go says.

const (
	modelPositions = 7
	modelHours     = 6
)

// What stands at a position.
const (
	free byte = iota
	ofWriter
	fence
	ofSuccessor
)

// world is a state of the model. All times are the store's.
type world struct {
	hour   int8
	object [modelPositions]byte

	// The writer.
	next     int8 // position to create
	counted  int8 // positions below are committed as durable
	pending  int8 // created or adopted, not counted; -1: none
	answered int8 // when the store answered
	checked  bool
	at       int8 // when the last check began
	checking int8 // when the one under way began; -1: none is
	stopped  bool

	// The successor.
	fence int8 // its position; -1: none yet
	from  int8 // what the writer's last object before it states as durable
	end   int8 // its next position
	says  int8 // what each writer's last valid object states as durable

	// Garbage collection: the newest catalog, and when one had passed the fence.
	catalog, durable int8
	passed           int8 // hour; -1: not yet
}

// rule is what the model is run with.
type rule struct {
	checks       bool
	check, grace int8 // hours
}

func (w *world) passes(p int8) bool { return p < w.catalog && p+1 < min(w.durable, w.catalog) }

// steps calls visit for each state that may come next.
func (w world) steps(r rule, visit func(what string, w world)) {
	if w.hour < modelHours {
		n := w
		n.hour++
		visit("an hour passes", n)
	}
	w.writer(r, visit)
	w.successor(visit)
	w.collect(r, visit)
}

func (w world) writer(r rule, visit func(string, world)) {
	if w.stopped {
		return
	}
	n := w
	n.next, n.pending, n.checked, n.checking = w.counted, -1, false, -1
	visit("the writer starts again", n)
	if w.pending < 0 && w.next < modelPositions {
		n = w
		switch w.object[w.next] {
		case fence, ofSuccessor:
			n.stopped = true
			visit("the writer meets its successor", n)
		case free:
			n.object[w.next] = ofWriter
			if w.fence < 0 {
				n.says = w.counted
			}
			fallthrough
		case ofWriter: // adopted
			n.pending, n.answered, n.next = w.next, w.hour, w.next+1
			visit(fmt.Sprintf("the writer creates or adopts %d", w.next), n)
		}
	}
	if w.pending >= 0 && (!r.checks || w.checked && w.answered-w.at <= r.check) {
		n = w
		n.counted, n.pending = w.pending+1, -1
		visit(fmt.Sprintf("the writer counts %d", w.pending), n)
	}
	if w.checking < 0 {
		n = w
		n.checking, n.checked = w.hour, false
		visit("the writer begins a check", n)
	} else {
		n = w
		n.checked, n.at, n.checking = true, w.checking, -1
		n.stopped = w.passes(w.counted)
		visit("the writer reads the newest catalog", n)
	}
}

func (w world) successor(visit func(string, world)) {
	p := w.end
	if w.fence < 0 { // it walks from what is known
		for p = 1; p < modelPositions && w.object[p] != free; p++ {
		}
	}
	for w.fence >= 0 && p < modelPositions && w.object[p] == ofWriter { // void
		p++
	}
	if p >= modelPositions || w.object[p] != free {
		return
	}
	n := w
	n.end = p + 1
	if w.fence < 0 {
		n.object[p], n.fence, n.from = fence, p, w.says
	} else {
		n.object[p], n.says = ofSuccessor, p
	}
	visit(fmt.Sprintf("the successor creates %d", p), n)
}

func (w world) collect(r rule, visit func(string, world)) {
	if w.fence >= 0 && (w.end != w.catalog || w.durable != w.says) {
		n := w
		n.catalog, n.durable = w.end, w.says
		if n.passed < 0 && n.passes(w.fence) {
			n.passed = w.hour
		}
		visit("a catalog is made", n)
	}
	settled := w.passed >= 0 && w.hour-w.passed >= r.grace
	for p := int8(1); p < modelPositions; p++ {
		kept := !w.passes(p) || p >= w.from && p <= w.fence && !settled
		if w.object[p] != free && !kept {
			n := w
			n.object[p] = free
			visit(fmt.Sprintf("%d is freed", p), n)
		}
	}
}

// explore goes through all orders, and returns the steps to a state in which the writer has
// counted what its fence made void, nil where there is none.
func explore(r rule) (states int, bad []string) {
	type edge struct {
		from world
		what string
	}
	first := world{object: [modelPositions]byte{ofWriter}, next: 1, counted: 1, pending: -1,
		checking: -1, fence: -1, passed: -1}
	came := map[world]edge{first: {}}
	for queue := []world{first}; len(queue) > 0; queue = queue[1:] {
		w := queue[0]
		if w.fence >= 0 && w.counted > w.fence {
			for ; w != first; w = came[w].from {
				bad = append([]string{came[w].what}, bad...)
			}
			return len(came), bad
		}
		w.steps(r, func(what string, n world) {
			if _, known := came[n]; !known {
				came[n] = edge{w, what}
				queue = append(queue, n)
			}
		})
	}
	return len(came), nil
}

// TestTailModel: what a writer counts is never void, whatever was freed meanwhile; and the
// model finds what goes wrong without each part of the rule.
func TestTailModel(t *testing.T) {
	for _, tt := range []struct {
		name string
		rule rule
		safe bool
	}{
		{"the rule", rule{checks: true, check: 1, grace: 2}, true},
		{"longer", rule{checks: true, check: 2, grace: 4}, true},
		{"a writer that does not check", rule{grace: 2}, false},
		{"a grace that is no longer than a check holds", rule{checks: true, check: 2, grace: 1}, false},
	} {
		states, bad := explore(tt.rule)
		t.Logf("%s: %d states, %d steps to a fault", tt.name, states, len(bad))
		if (bad == nil) != tt.safe {
			t.Errorf("%s: %q", tt.name, bad)
		}
	}
}
