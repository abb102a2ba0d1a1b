package claim

import (
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"testing"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/seed"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
)

// A model of a log at which several writers are at work: the one of the old seat, which goes on
// for as long as nothing stops it, and sites that take over by force, from any moment to any
// other. All of them sleep, crash and begin again between any two steps, the store loses answers
// and carries out creates long after they were sent, and garbage collection frees what a catalog
// has passed. A seat may hand over, and take that back: then a site takes it up behind the entry
// that says so, or not at all. Who has lost the log, or came too late for a hand-over, follows it and may
// have it again: so the seat goes there and back. Writers claim with Claim itself.

const (
	modelPositions = 14
	modelActors    = 3
	modelEpochs    = 6
	modelInFlight  = 2 // of one writer
	modelReturns   = 2 // of an actor that has lost
)

// object is what stands at a position; its Type is 0 where there is nothing.
type object struct {
	Object
	durable uint64 // the position that its writer knew as durable
	hand    bool   // a segment that hands over to whoever comes
}

// phase is what an actor is about.
type phase uint8

const (
	idle phase = iota
	claiming
	writing
	lostOut
)

// actor is a writer: the seat's, or a site's that takes over.
type actor struct {
	phase   phase
	claim   Claim
	token   segment.Token
	at      Place  // of a writing one: the next create
	counted uint64 // positions below are committed as durable
	pending uint64 // a segment was created there that does not count yet; 0: none
	ghost   object // a create on its way, which the store carries out at any time, after a crash too
	ghostAt uint64
	careful uint8 // creates that have to come one at a time, where an older writer's may still arrive
	crashes uint8
	returns uint8  // how often it has lost, and follows again
	handed  bool   // a writing one has handed over, and does nothing but take that back
	planned uint64 // a claiming one takes up the hand-over at this journal index; 0: by force
}

// world is a state of the model.
type world struct {
	limit   uint64                 // positions
	blind   bool                   // nobody looks into the catalog after a create: the fault that is to be found
	object  [modelPositions]object // what the store has
	ever    [modelPositions]object // what was first there: history
	actors  [modelActors]actor
	catalog Catalog
	durable uint64
	done    [modelEpochs]uint8 // by epoch: who was told that it has the log, 1 + actor
	taken   [modelEpochs]bool  // by epoch: it began with a hand-over that was taken up
	bad     string
}

func newWorld(limit uint64, blind bool) world {
	w := world{limit: limit, blind: blind}
	w.put(0, object{Object: Object{Type: segment.Identity}})
	a := &w.actors[0]
	a.token = segment.Token{Epoch: 1, Term: 1, Writer: writerID(0, a)}
	w.done[1] = 1
	w.put(1, object{Object: Object{Type: segment.Fence, Token: a.token, First: 1}})
	a.phase, a.at, a.counted = writing, Place{Position: 2, Next: 1, Token: a.token}, 2
	return w
}

func writerID(i int, a *actor) uuid.UUID {
	return uuid.UUID{0: byte(i) + 1, 1: a.crashes, 2: a.returns}
}

// put creates an object, and reports whether it was the first.
func (w *world) put(p uint64, o object) bool {
	if p >= w.limit || w.object[p].Type != 0 {
		return false
	}
	w.object[p] = o
	if w.ever[p].Type == 0 {
		w.ever[p] = o
	}
	return true
}

// lineage calls visit with each object of history and whether it counts, by the reader's rules.
func (w *world) lineage(visit func(p uint64, o *object, counts bool)) (end Place) {
	end = Place{Position: 1, Next: 1}
	for ; end.Position < w.limit && w.ever[end.Position].Type != 0; end.Position++ {
		o := &w.ever[end.Position]
		c := o.Token.Compare(end.Token)
		counts := c > 0 && o.Type == segment.Fence || c == 0 && o.Token.Writer == end.Token.Writer
		if counts && o.Type == segment.Fence {
			end.Token, end.Next = o.Token, o.First
		} else if counts {
			end.Next = o.Last + 1
		}
		visit(end.Position, o, counts)
	}
	return end
}

// count makes a segment durable for its writer: then it must be a part of history.
func (w *world) count(i int) {
	a := &w.actors[i]
	ok := false
	w.lineage(func(p uint64, o *object, counts bool) {
		ok = ok || counts && p == a.pending && o.Token == a.token
	})
	if !ok {
		w.bad = fmt.Sprintf("actor %d counts position %d, which is void", i, a.pending)
	}
	a.counted, a.pending = a.pending+1, 0
}

func (w *world) passes(p uint64) bool {
	end := w.catalog.End.Position
	return p < end && p+1 < min(w.durable, end)
}

// steps calls visit with each state that may come next.
func (w world) steps(visit func(what string, w world)) {
	for i := range w.actors {
		w.actor(i, visit)
	}
	w.collect(visit)
}

func (w world) actor(i int, visit func(string, world)) {
	say := func(what string) string { return fmt.Sprintf("%c %s", 'A'+i, what) }
	a := &w.actors[i]
	if a.ghostAt > 0 {
		n := w
		n.put(a.ghostAt, a.ghost)
		n.actors[i].ghostAt, n.actors[i].ghost = 0, object{}
		visit(say(fmt.Sprintf("'s late create at %d arrives", a.ghostAt)), n)
	}
	switch a.phase {
	case idle:
		n := w
		end := n.lineage(func(uint64, *object, bool) {})
		if end.Token.Epoch+1 >= modelEpochs {
			return
		}
		b := &n.actors[i]
		b.token = segment.Token{Epoch: end.Token.Epoch + 1, Writer: writerID(i, a)}
		b.phase, b.claim = claiming, Arrive(b.token)
		visit(say("begins to take over"), n)
		if at, ok := n.handedOver(); ok {
			b.planned, b.claim = at.Next-1, TakeOver(b.token, at, at.Next-1)
			visit(say("begins to take the hand-over up"), n)
		}
	case claiming:
		w.claimStep(i, say, visit)
		w.crash(i, say, visit)
	case writing:
		w.write(i, say, visit)
		w.crash(i, say, visit)
	case lostOut:
		if a.returns < modelReturns { // what it sent is still on its way
			n := w
			n.actors[i] = actor{crashes: a.crashes, returns: a.returns + 1, ghost: a.ghost, ghostAt: a.ghostAt}
			visit(say("follows again"), n)
		}
	}
}

// crash restarts an actor, with or without a create that is still on its way.
func (w world) crash(i int, say func(string) string, visit func(string, world)) {
	a := &w.actors[i]
	if a.crashes >= 2 {
		return
	}
	n := w
	b := &n.actors[i]
	b.crashes++
	if a.phase == claiming { // what it is about was written down: the same token
		b.claim = Arrive(b.token)
		if b.planned > 0 { // from where it had read up to
			b.claim = TakeOver(b.token, a.claim.first, b.planned)
		}
	} else { // a new leader of the same seat
		at := b.at
		if at.Position = b.counted; at.Position == 0 {
			at.Position = b.claim.Place().Position
		}
		at.Next = w.nextAt(at.Position)
		b.token = segment.Token{Epoch: a.token.Epoch, Term: a.token.Term + 1, Writer: writerID(i, b)}
		b.claim, b.phase, b.pending = Return(b.token, at), claiming, 0
	}
	visit(say("crashes and begins again"), n)
	if a.ghostAt > 0 {
		return
	}
	var o object
	var p uint64
	switch {
	case a.phase == claiming && a.claim.Step() == Create:
		o, p = w.fenceOf(a), a.claim.Place().Position
	case a.phase == writing && a.pending == 0:
		o, p = w.segmentOf(a), a.at.Position
	default:
		return
	}
	n.actors[i].ghost, n.actors[i].ghostAt = o, p
	visit(say(fmt.Sprintf("crashes with a create at %d on its way", p)), n)
}

// nextAt is the journal index behind a position of history, as a journal knows it.
func (w *world) nextAt(position uint64) uint64 {
	next := uint64(1)
	w.lineage(func(p uint64, o *object, counts bool) {
		if counts && p < position {
			if next = o.First; o.Type == segment.Segment {
				next = o.Last + 1
			}
		}
	})
	return next
}

func (w *world) fenceOf(a *actor) object {
	at := a.claim.Place()
	return object{Object{Type: segment.Fence, Token: a.token, First: at.Next}, at.Position, false}
}

func (w *world) segmentOf(a *actor) object {
	o := Object{Type: segment.Segment, Token: a.token, First: a.at.Next, Last: a.at.Next}
	return object{Object: o, durable: a.counted}
}

// handedOver is the place behind the last entry of history where that hands over.
func (w *world) handedOver() (at Place, yes bool) {
	at.Next = 1
	w.lineage(func(p uint64, o *object, counts bool) {
		switch {
		case !counts:
		case o.Type == segment.Segment:
			at, yes = Place{Position: p + 1, Next: o.Last + 1, Token: o.Token}, o.hand
		case o.Token.Epoch > at.Token.Epoch:
			yes = false
		}
	})
	return at, yes
}

// claimStep does what a claim says, and tells it what came of that.
func (w world) claimStep(i int, say func(string) string, visit func(string, world)) {
	n := w
	a := &n.actors[i]
	p := a.claim.Place().Position
	var err error
	what := ""
	switch a.claim.Step() {
	case FindCatalog:
		k := &Catalog{End: w.catalog.End, Passed: w.passes(a.claim.Began())}
		if k.End.Position == 0 || w.blind && a.claim.fenced {
			k = nil
		}
		what, err = "reads the newest catalog", a.claim.Catalog(k)
	case Read:
		if p >= w.limit {
			return
		}
		if what = fmt.Sprintf("reads %d", p); w.object[p].Type == 0 {
			err = a.claim.Absent()
		} else {
			_, err = a.claim.Found(w.object[p].Object, 0)
		}
	case Create:
		what = fmt.Sprintf("creates a fence at %d", p)
		if n.put(p, n.fenceOf(a)) {
			lost := n
			visit(say(what+", and the answer is lost"), lost)
			a.claim.Created()
		} else {
			a.claim.Refused()
		}
	}
	switch {
	case fail.Is(err, fail.Retry):
	case errors.Is(err, ErrRolledBack):
		a.phase = lostOut
	case err != nil && !fail.Is(err, fail.Fenced):
		n.bad = say(what + ": " + err.Error())
	case err != nil:
		a.phase = lostOut
	case a.claim.Step() == Done:
		a.phase, a.at, a.counted, a.careful = writing, a.claim.Place(), a.claim.Place().Position, modelInFlight
		n.claimed(i)
	}
	visit(say(what), n)
}

// claimed holds what is promised to whom a claim says Done.
func (w *world) claimed(i int) {
	a := &w.actors[i]
	if by := &w.done[a.token.Epoch]; *by != 0 && *by != uint8(i)+1 {
		w.bad = fmt.Sprintf("actors %d and %d both have epoch %d", *by-1, i, a.token.Epoch)
	} else {
		*by = uint8(i) + 1
		w.taken[a.token.Epoch] = w.taken[a.token.Epoch] || a.planned > 0 && a.token.Term == 0
	}
	found, next := false, uint64(1) // next: behind the objects before
	w.lineage(func(p uint64, o *object, counts bool) {
		switch {
		case counts && o.Type == segment.Fence && o.Token == a.token:
			if found = true; a.planned > 0 && a.token.Term == 0 && o.First != a.planned+1 {
				w.bad = fmt.Sprintf("actor %d took up the hand-over at %d, and goes on at %d", i, a.planned,
					o.First)
			}
			if o.First != next {
				w.bad = fmt.Sprintf("actor %d's fence at %d goes on at %d, and history at %d", i, p, o.First, next)
			}
		case counts && o.Type == segment.Segment:
			next = o.Last + 1
		}
	})
	if !found {
		w.bad = fmt.Sprintf("actor %d has the log, and its fence is void", i)
	}
}

// write is what the uploader does behind its fence.
func (w world) write(i int, say func(string) string, visit func(string, world)) {
	n := w
	a := &n.actors[i]
	p := a.at.Position
	if a.pending > 0 { // it looks into the newest catalog, and counts
		if !w.blind && w.passes(a.counted) {
			a.phase = lostOut
			visit(say("finds that the log has passed it"), n)
			return
		}
		n.count(i)
		visit(say(fmt.Sprintf("counts %d", w.actors[i].pending)), n)
		return
	}
	if p >= w.limit {
		return
	}
	if a.ghostAt == 0 && p+1 < w.limit && a.careful == 0 && !a.handed {
		// several are on their way at once, and overtake each other
		ahead := n
		b := &ahead.actors[i]
		b.ghost, b.ghostAt = w.segmentOf(a), p+1
		b.ghost.First, b.ghost.Last = a.at.Next+1, a.at.Next+1
		visit(say(fmt.Sprintf("sends %d ahead", p+1)), ahead)
	}
	if there := w.object[p]; there.Type != 0 && there.Token.Compare(a.token) < 0 {
		a.at.Position++ // an older writer's, void
		a.careful = max(a.careful, 1) - 1
		visit(say(fmt.Sprintf("steps over %d", p)), n)
		return
	} else if there.Type != 0 && there.Token != a.token {
		a.phase = lostOut
		visit(say(fmt.Sprintf("meets another writer at %d", p)), n)
		return
	}
	a.careful = max(a.careful, 1) - 1
	a.pending, a.at.Position, a.at.Next = p, p+1, a.at.Next+1
	what := "creates"
	if a.handed { // and from here on, once this counts, its writers go on
		what = "takes the hand-over back with"
	} else if a.ghostAt == 0 { // nothing else of it is on its way
		hand := n
		o := hand.segmentOf(&w.actors[i])
		o.hand, hand.actors[i].handed = true, true
		hand.put(p, o)
		visit(say(fmt.Sprintf("hands over with %d", p)), hand)
	}
	a.handed = false
	n.put(p, n.segmentOf(&w.actors[i]))
	visit(say(fmt.Sprintf("%s %d", what, p)), n)
}

// collect makes catalogs and frees what they have passed, but for what a fenced writer could try.
func (w world) collect(visit func(string, world)) {
	durable, from := uint64(1), map[uint64]uint64{}
	end := w.lineage(func(p uint64, o *object, counts bool) {
		if counts && o.Type == segment.Fence {
			from[p] = durable
		} else if counts {
			durable = o.durable
		}
	})
	if end != w.catalog.End {
		n := w
		n.catalog.End, n.durable = end, durable
		visit(fmt.Sprintf("a catalog is made up to %d", end.Position), n)
	}
	for p := uint64(1); p < w.limit; p++ {
		kept := !w.passes(p) || w.object[p].Type == 0
		for fence, first := range from {
			kept = kept || fence < w.catalog.End.Position && p >= first && p <= fence
		}
		if !kept {
			n := w
			n.object[p] = object{}
			visit(fmt.Sprintf("%d is freed", p), n)
		}
	}
}

// thereAndBack reports whether a seat was handed over and came back by another hand-over.
func (w *world) thereAndBack() bool {
	for e := 2; e+1 < modelEpochs; e++ {
		if w.taken[e] && w.taken[e+1] && w.done[e-1] == w.done[e+1] && w.done[e] != w.done[e+1] {
			return true
		}
	}
	return false
}

// walk goes a random way through the model, and returns its steps where it came to a fault.
func walk(r *rand.Rand, first world, steps int) (w world, way []string, bad string) {
	w = first
	for range steps {
		n, next, what := 0, w, ""
		w.steps(func(s string, one world) { // each with the same chance
			if n++; r.IntN(n) == 0 {
				next, what = one, s
			}
		})
		if n == 0 {
			return w, nil, ""
		}
		w, way = next, append(way, what)
		if w.bad != "" {
			return w, way, w.bad
		}
	}
	return w, nil, ""
}

// explore goes through all states, nearest first, up to so many.
func explore(first world, most int) (states int, way []string, bad string) {
	type edge struct {
		from uint64
		what string
	}
	h := maphash.MakeSeed()
	key := func(w world) uint64 { return maphash.Comparable(h, w) }
	start := key(first)
	came := map[uint64]edge{start: {}}
	for queue := []world{first}; len(queue) > 0 && len(came) < most; queue = queue[1:] {
		from := key(queue[0])
		queue[0].steps(func(what string, n world) {
			k := key(n)
			if _, known := came[k]; known || bad != "" {
				return
			}
			came[k] = edge{from, what}
			queue = append(queue, n)
			if n.bad != "" {
				bad = n.bad
				for ; k != start; k = came[k].from {
					way = append([]string{came[k].what}, way...)
				}
			}
		})
		if bad != "" {
			break
		}
	}
	return len(came), way, bad
}

// TestModel: whoever has the log has it alone, and what is counted is history. Without the look
// into the catalog the model finds the known hole: a site that slept before its create takes a
// position that was freed.
func TestModel(t *testing.T) {
	states, way, bad := explore(newWorld(6, false), 15_000)
	t.Logf("%d states", states)
	if bad != "" {
		t.Errorf("%s: %q", bad, way)
	}
	r := rand.New(rand.NewPCG(seed.New(t), 1))
	walks, steps := 1500, 100
	if testing.Short() {
		walks = 500
	}
	chains := 0
	for range walks {
		w, way, bad := walk(r, newWorld(modelPositions, false), steps)
		if bad != "" {
			t.Fatalf("%s: %q", bad, way)
		}
		if w.thereAndBack() {
			chains++
		}
	}
	t.Logf("%d of %d walks hand the seat over and back", chains, walks)
	if chains == 0 {
		t.Error("no seat comes back by a hand-over")
	}
	found := 0
	for range walks {
		if _, _, bad := walk(r, newWorld(modelPositions, true), steps); bad != "" {
			found++
		}
	}
	t.Logf("%d of %d walks find the fault of a writer that does not look into the catalog", found, walks)
	if found == 0 {
		t.Error("the model does not find what it is there for")
	}
}
