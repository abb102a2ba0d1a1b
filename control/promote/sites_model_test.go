package promote

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/claim"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/state"
)

// A model of sites, with a target at each, between which a journal moves: by force, in order, back
// again, one move after another, while sites and links go away and come back, seats crash, the store
// loses answers and carries out creates late. A seat that is cut off goes on for as long as no log
// tells it; a former one fails back. What a failover takes is choice's to say, logs are claimed with
// claim.Claim, what is a dead branch and which targets protect is state.State's to say.

const modelSites = 3

// item is an entry of the journal: the epoch and site under which it was written, and the site that it
// hands over to, plus one.
type item struct {
	epoch      uint64
	site, hand int8
}

func siteName(i int) string { return string(rune('A' + i)) }

// stateOf is what the entries of a history say of the journal's moves: the first of each epoch is its
// seat-move.
func stateOf(hist []item) *state.State {
	s := &state.State{Seat: state.Seat{Site: siteName(0), Epoch: 1}, Sites: map[string]*state.Site{}}
	for i := range modelSites {
		s.Sites[siteName(i)] = &state.Site{Name: siteName(i), Targets: map[string]string{siteName(i): "u"}}
	}
	for i, e := range hist {
		if e.epoch > s.Seat.Epoch {
			s.Moves = append(s.Moves, state.SeatMove{From: s.Seat.Epoch, Epoch: e.epoch, Site: siteName(int(e.site)),
				First: uint64(i) + 1})
			s.Seat = state.Seat{Site: siteName(int(e.site)), Epoch: e.epoch}
		}
	}
	return s
}

// stored is an object of a log, with what is in it.
type stored struct {
	claim.Object
	items []item
}

// modelLog is a target's.
type modelLog struct {
	objects  []stored // by position; 0 is the identity
	catalogs []*catalog.Catalog
	covered  [][]item // by each catalog
}

// put creates an object, and reports whether it was the first.
func (l *modelLog) put(p uint64, o stored) bool {
	if p != uint64(len(l.objects)) {
		return false
	}
	l.objects = append(l.objects, o)
	return true
}

// read is the log by the reader's rules.
func (l *modelLog) read() (hist []item, end claim.Place, err error) {
	end = claim.Place{Position: 1, Next: 1}
	for ; end.Position < uint64(len(l.objects)); end.Position++ {
		o := &l.objects[end.Position]
		order := o.Token.Compare(end.Token)
		switch ours := order == 0 && o.Token.Writer == end.Token.Writer; {
		case order < 0 || order == 0 && !ours, order > 0 && o.Type != segment.Fence: // void
		case o.Type == segment.Fence && o.First <= end.Next: // a writer that begins again may have two
			end.Token, end.Next, hist = o.Token, o.First, hist[:o.First-1:o.First-1]
		case o.First != end.Next:
			return hist, end, fmt.Errorf("position %d begins at %d, %d is next", end.Position, o.First, end.Next)
		default:
			end.Next, hist = o.Last+1, append(hist, o.items...)
		}
	}
	return hist, end, nil
}

// has reports whether something is there of the seat that took over with a fence.
func (l *modelLog) has(fence segment.Token) bool {
	return slices.ContainsFunc(l.objects, func(o stored) bool {
		return o.Token == fence || o.Token.Epoch == fence.Epoch && o.Token.Term > 0
	})
}

// catalogUp makes a catalog.
func (l *modelLog) catalogUp() {
	hist, end, _ := l.read()
	l.catalogs = append(l.catalogs, &catalog.Catalog{ReadPoints: []catalog.ReadPoint{{Position: end.Position,
		Index: end.Next - 1, Token: end.Token}}})
	l.covered = append(l.covered, hist)
}

// look is what the catalogs say to a walk; those that cover a dead branch are left out.
func (l *modelLog) look(began uint64, dead func(c *catalog.Catalog, hist []item) bool) *claim.Catalog {
	n := len(l.catalogs)
	if n == 0 {
		return nil
	}
	var live *catalog.Catalog
	for i, c := range l.catalogs {
		if !dead(c, l.covered[i]) {
			live = c
		}
	}
	return claim.Look(l.catalogs[n-1], live, began)
}

// modelTarget is what a seat knows of a target.
type modelTarget struct {
	at      claim.Place // what counts
	arrived bool        // the journal has written this log
	ready   bool        // it is claimed under this term
	gone    bool        // it is of another history
	walk    claim.Claim
	walking bool
}

// modelSeat is a journal where it is, or was.
type modelSeat struct {
	token   segment.Token
	hist    []item
	taken   int // the target whose log it went on from
	targets [modelSites]modelTarget
	acked   uint64 // every required target that protects has the entries up to here
	over    bool   // superseded, and it knows
	hand    int    // handed over to a site; -1: it has not
	back    uint64 // the entry that takes the hand-over back, once the log at that site has it
}

// modelTaker is a site that takes over.
type modelTaker struct {
	target   int
	token    segment.Token
	state    *state.State // as the log said when it was chosen
	at       claim.Place  // where it has read up to
	walk     claim.Claim
	planned  uint64 // the hand-over's entry; 0: by force
	anywhere bool   // it takes the log up wherever it ends: the fault that is to be found
	promise  []item // what was acknowledged remotely, where that cannot be lost
}

func (t *modelTaker) begin() {
	if t.walk = claim.TakeOver(t.token, t.at, t.planned); t.anywhere || t.at.Token.Epoch >= t.token.Epoch {
		t.walk = claim.Arrive(t.token)
	}
}

// sitesWorld is a state of the model.
type sitesWorld struct {
	r        *rand.Rand
	without  string // a check that is left out: the fault that is to be found
	required [modelSites]bool
	up       [modelSites]bool
	cut      [modelSites][modelSites]bool // from a site to a target
	logs     [modelSites]modelLog
	seats    [modelSites]*modelSeat
	takers   [modelSites]*modelTaker
	late     []func()
	newest   uint64        // epoch of a seat
	fence    segment.Token // of that seat
	promised []item        // acknowledged under ack: remote by the seat of that epoch
	promiser int           // the site of that seat
	epochs   map[uint64]int
	optional bool   // the log of a target was taken that does not count for ack: remote
	conflict bool   // two sites took the journal over, each without the other's log
	moves    [4]int // forced, planned, taken back, failed back
	way      []string
	bad      string
}

func newSitesWorld(r *rand.Rand, sites int, without string) *sitesWorld {
	w := &sitesWorld{r: r, without: without, newest: 1, epochs: map[uint64]int{1: 0}}
	for i := range sites {
		w.up[i], w.required[i] = true, i < 2 || r.IntN(4) > 0
		w.logs[i].put(0, stored{Object: claim.Object{Type: segment.Identity}})
	}
	s := &modelSeat{token: segment.Token{Epoch: 1, Term: 1, Writer: w.writer()}, hand: -1}
	for i := range sites {
		o := claim.Object{Type: segment.Fence, Token: s.token, First: 1}
		w.logs[i].put(1, stored{Object: o})
		s.targets[i] = modelTarget{at: claim.Place{Position: 2, Next: 1, Token: s.token}, arrived: true, ready: true}
	}
	w.seats[0], w.fence = s, s.token
	return w
}

func (w *sitesWorld) writer() (id uuid.UUID) {
	for i := range id {
		id[i] = byte(w.r.Uint32())
	}
	return id
}

func (w *sitesWorld) reaches(site, target int) bool {
	return w.up[site] && w.up[target] && !w.cut[site][target]
}

func (w *sitesWorld) say(format string, args ...any) {
	w.way = append(w.way, fmt.Sprintf(format, args...))
}

func (w *sitesWorld) fault(format string, args ...any) {
	if w.bad == "" {
		w.bad = fmt.Sprintf(format, args...)
	}
}

func isPrefix(of, of2 []item) bool { return len(of) <= len(of2) && slices.Equal(of, of2[:len(of)]) }

// walk does one step of a claim, and reports whether the log is claimed. found is asked of an object
// that counts.
func (w *sitesWorld) walk(target int, c *claim.Claim, s *state.State, found func(o *stored) error) (bool, error) {
	l, p := &w.logs[target], c.Place()
	deadFrom := s.DeadFrom
	if w.without == "dead objects" {
		deadFrom = func(uint64) uint64 { return 0 }
	}
	dead := func(k *catalog.Catalog, hist []item) bool { // as uploader.catalogs
		end := k.End()
		strays := end.Token.Epoch == c.Token().Epoch && claim.Strays(end.Index, stateOf(hist).Moves, s.Moves)
		switch {
		case found == nil: // a failover takes a log as it is
			return false
		case w.without == "dead catalogs":
			return strays
		}
		return claim.Dead(k, s.DeadFrom) || strays && w.without != "strays"
	}
	switch c.Step() {
	case claim.FindCatalog:
		err := c.Catalog(l.look(c.Began(), dead))
		return c.Step() == claim.Done, err
	case claim.Read:
		if p.Position >= uint64(len(l.objects)) {
			return false, c.Absent()
		}
		o := &l.objects[p.Position]
		counts, err := c.Found(o.Object, deadFrom(o.Token.Epoch))
		if next := c.Place().Next; counts && next <= o.Last {
			cut := *o
			cut.Last, cut.items = next-1, o.items[:next-o.First]
			o = &cut
		}
		if err == nil && counts && found != nil {
			err = found(o)
		}
		return false, err
	case claim.Create:
		fence := stored{Object: claim.Object{Type: segment.Fence, Token: c.Token(), First: p.Next}}
		switch put := l.put(p.Position, fence); {
		case put && w.r.IntN(4) == 0: // the answer is lost
			c.Refused()
		case put:
			c.Created()
		default:
			c.Refused()
		}
	}
	return c.Step() == claim.Done, nil
}
