package claim

import (
	"errors"
	"fmt"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
)

// Step is what is to be done next, and to be answered.
type Step uint8

const (
	// FindCatalog: look for the newest catalog, and answer with Catalog.
	FindCatalog Step = iota
	// Read: read the object at Position, and answer with Found or Absent.
	Read
	// Create: create the fence at Position, and answer with Created or Refused.
	Create
	// Done: the log is claimed; Place is behind the fence.
	Done
)

// Place is how far a walk has come.
type Place struct {
	Position uint64        `json:"position"` // the next one
	Next     uint64        `json:"next"`     // the journal index that follows
	Token    segment.Token `json:"token"`    // the one in force
}

// Object is what counts of an object for the walk.
type Object struct {
	Type        segment.Type
	Token       segment.Token
	First, Last uint64 // journal index
	// Cuts: each entry has one journal index, so that a fence may go back into the midst of the object.
	Cuts bool
}

// Of is what counts of an object. All who walk a log have to say the same of it: where a fence goes back
// into its midst, another walk has to count it up to there.
func Of(x *segment.Index) Object {
	return Object{Type: x.Type, Token: x.Token, First: x.FirstIndex, Last: x.LastIndex,
		Cuts: uint64(len(x.Entries)) == x.LastIndex-x.FirstIndex+1}
}

// Counted is the part of an object that Found has just counted.
func (c *Claim) Counted(x *segment.Index) *segment.Index {
	next := c.at.Next
	if next > x.LastIndex {
		return x
	}
	cut := *x
	cut.Entries, cut.LastIndex = x.Entries[:next-x.FirstIndex], next-1
	return &cut
}

// Catalog is what counts of a log's catalogs: where the newest that covers no dead branch ends
// (the log's beginning where all do), and whether the log has passed the position at which the
// walk began, so that it may have been freed.
type Catalog struct {
	End    Place
	Passed bool
	// Freed: a newer one, of a dead branch, has passed End as well. No walk can begin there.
	Freed bool
}

// Claim is the walk of one writer. It is a plain value: a copy goes on by itself.
type Claim struct {
	token   segment.Token
	returns bool  // this writer has been here before
	first   Place // where the walk began
	at      Place
	step    Step
	fenced  bool   // the fence was created
	refused bool   // a create was refused at a position that read as free
	last    uint64 // the journal index of the hand-over that is taken up; 0 where there is none
	gap     Object // what was read last and could not follow; the zero value: it could
}

// Return claims a log for a writer whose journal has written up to place: behind that there is
// only what it wrote itself, or what a successor did. A log of which it knows nothing begins at
// position 1: all of it is held against what the journal has.
func Return(token segment.Token, at Place) Claim {
	return Claim{token: token, returns: true, first: at, at: at, step: Read}
}

// Arrive claims a log for a writer that comes from elsewhere: from the newest catalog on that
// covers no dead branch. Where there is none, from the log's beginning.
func Arrive(token segment.Token) Claim {
	return Claim{token: token, first: Place{Position: 1, Next: 1}, step: FindCatalog}
}

// TakeOver claims a log for a site to which its seat has handed over with the entry at journal index
// last. at is a place at or before it, up to which the site has read. The fence goes right behind
// that entry or nowhere: whoever creates the next object of the log decides, the seat by taking
// the hand-over back (ErrRolledBack) or the site by its fence. With last 0 it is by force: the fence goes where
// the log ends by then.
func TakeOver(token segment.Token, at Place, last uint64) Claim {
	return Claim{token: token, first: at, at: at, step: Read, last: last}
}

// ErrRolledBack is the cause of an error: the seat went on behind the hand-over.
var ErrRolledBack = errors.New("the seat has taken the hand-over back, and goes on")

// beyond refuses a history that goes on behind a hand-over.
func (c *Claim) beyond(next uint64) error {
	if c.last == 0 || next <= c.last+1 {
		return nil
	}
	return &fail.Error{Kind: fail.Refused, Op: "take over", Object: fmt.Sprintf("journal index %d", c.last),
		Err: ErrRolledBack}
}

// Step is what is to be done next.
func (c *Claim) Step() Step { return c.step }

// Place is where the walk is. At a Create its Next is where history goes on behind the fence.
func (c *Claim) Place() Place { return c.at }

// Began is the position from which on nothing may have been freed: Catalog.Passed is about it.
func (c *Claim) Began() uint64 { return c.first.Position }

// Token is the writer's.
func (c *Claim) Token() segment.Token { return c.token }

// Found takes the object at Position into account, and moves on. counts says whether it is a
// part of history: what its writer created after it was fenced is not, nor a fence. deadFrom is
// the journal index from which on the object's epoch was left behind by a later one, 0 where
// none did: entries from there on are a dead branch, and history goes on before the first of them, or
// before the object that has it where that cannot be cut. Errors: fail.Fenced where another writer holds
// the log, for good; fail.Damaged where the object cannot follow. Where it leaves a gap, the newest
// catalog says next whether it is damage, or the log has passed the walk.
func (c *Claim) Found(o Object, deadFrom uint64) (counts bool, err error) {
	order := o.Token.Compare(c.token)
	switch {
	case order > 0 || order == 0 && o.Token.Writer != c.token.Writer:
		return false, ErrLost(c.token, o.Token)
	case order == 0 && o.Type == segment.Fence && o.First <= c.at.Next: // the answer to our create was lost
		c.refused = false
		c.created(o)
		return false, nil
	case o.Token.Compare(c.at.Token) < 0: // void: its writer was fenced before
	case o.Type == segment.Identity:
		return false, damaged("an identity in the middle of the log")
	case o.Type == segment.Fence && o.First > c.at.Next, o.Type == segment.Segment && o.First != c.at.Next:
		if deadFrom > 0 && o.First >= deadFrom && c.at.Next < o.First {
			break // of a branch whose beginning was left out
		}
		// A position before it may have been freed, and an older writer's late create lie there.
		c.gap, c.step = o, FindCatalog
		return false, nil
	case o.Type == segment.Fence:
		c.at.Token, c.at.Next = o.Token, o.First
	case deadFrom > 0 && o.Last >= deadFrom: // the branch that ends here is dead, or its end is
		c.at.Token = o.Token
		if o.Cuts && o.First < deadFrom { // what lies before it must not be missing until it is written again
			c.at.Next, counts = deadFrom, true
		}
	default:
		if err := c.beyond(o.Last + 1); err != nil {
			return false, err
		}
		c.at.Token, c.at.Next, counts = o.Token, o.Last+1, true
	}
	c.at.Position++
	c.refused = false
	return counts, nil
}

// Absent says that there is no object at Position. It is an error, to be waited out, where the
// store has refused a create there, and before the entry of a hand-over.
func (c *Claim) Absent() error {
	if c.refused {
		return fail.New(fail.Retry, "claim", fmt.Sprintf("position %d", c.at.Position),
			"the store refuses to create it, and does not have it")
	}
	if c.last > 0 && c.at.Next <= c.last {
		return fail.New(fail.Retry, "claim", fmt.Sprintf("position %d", c.at.Position),
			fmt.Sprintf("the log ends at journal index %d, before the hand-over at %d", c.at.Next-1, c.last))
	}
	c.step = Create
	return nil
}

// Created says that the fence was created.
func (c *Claim) Created() { c.created(Object{Token: c.token, First: c.at.Next}) }

func (c *Claim) created(o Object) {
	if c.returns && c.first.Position == 1 { // all of the log was compared with the journal's own
		c.first.Position = c.at.Position
	}
	c.at = Place{Position: c.at.Position + 1, Next: o.First, Token: o.Token}
	c.fenced, c.step = true, FindCatalog
}

// Refused says that somebody else has created Position: it is looked at next.
func (c *Claim) Refused() { c.refused, c.step = true, Read }

// Catalog takes the newest catalog into account, nil where there is none. One that was read
// before the fence was created does not count. Errors: fail.Damaged where it does not explain a gap, or
// fail.Fenced where that is a fence of another site's; fail.Fenced where the log went on under another
// writer, for good; fail.Refused where there is no place from which it can be walked.
func (c *Claim) Catalog(k *Catalog) error {
	gap := c.gap
	c.gap = Object{}
	switch {
	case k != nil && later(k.End.Token, c.token):
		return ErrLost(c.token, k.End.Token)
	case gap != (Object{}) && (k == nil || !k.Passed):
		return c.errGap(gap)
	case c.fenced && (k == nil || !k.Passed):
		c.step = Done
		return nil
	case c.returns && k != nil && k.Passed:
		return fail.New(fail.Fenced, "claim", fmt.Sprintf("position %d", c.first.Position),
			"the newest catalog has passed this position: another writer has gone on behind it").
			WithHint("this journal's state is older than its bucket, or it was replaced elsewhere: " +
				"do not start it again")
	case k != nil && k.Freed:
		return fail.New(fail.Refused, "claim", fmt.Sprintf("position %d", k.End.Position),
			"garbage was collected on a dead branch of this log, and nothing is left of where it went off").
			WithHint("give this target a new, empty prefix: it is filled from another target")
	case k != nil: // the walk begins at it; a fence that was created is at a freed position
		if err := c.beyond(k.End.Next); err != nil {
			return err
		}
		c.first = k.End
	}
	c.at, c.fenced, c.refused, c.step = c.first, false, false, Read
	return nil
}

// errGap is of an object that cannot follow.
func (c *Claim) errGap(o Object) error {
	if o.Type == segment.Fence && !c.returns { // behind a branch that is dead here, and was not there
		return fail.New(fail.Fenced, "claim", "object log", fmt.Sprintf("another site took this journal over under "+
			"epoch %d, from journal index %d on; ours goes on from %d", o.Token.Epoch, o.First, c.at.Next)).
			WithHint("give this target a new, empty prefix: it is filled from another target")
	}
	return damaged(fmt.Sprintf("it begins at journal index %d, %d is next", o.First, c.at.Next))
}

// later reports whether a token belongs to a writer that ours has lost against.
func later(theirs, ours segment.Token) bool {
	order := theirs.Compare(ours)
	return order > 0 || order == 0 && theirs.Writer != ours.Writer
}

func damaged(why string) error { return fail.New(fail.Damaged, "follow", "object log", why) }

// ErrLost is the error of a log that another writer holds.
func ErrLost(ours, theirs segment.Token) error {
	return (&fail.Error{Kind: fail.Fenced, Op: "claim", Object: "object log", Err: &Lost{ours, theirs}}).
		WithHint("this journal was replaced elsewhere; do not start it again")
}

// Lost is the cause of an error: another writer holds the log. Where its epoch is higher, the
// journal has its seat elsewhere.
type Lost struct{ Ours, Theirs segment.Token }

// Error says who holds it.
func (l *Lost) Error() string {
	return fmt.Sprintf("another writer holds it: %v; ours is %v", l.Theirs, l.Ours)
}

// Superseded reports whether an error says that a log went on under a higher epoch than ours, and
// under which.
func Superseded(err error) (epoch uint64, yes bool) {
	var l *Lost
	if errors.As(err, &l) && l.Theirs.Epoch > l.Ours.Epoch {
		return l.Theirs.Epoch, true
	}
	return 0, false
}
