package failback

import (
	"fmt"

	"github.com/pollux-dr/pollux/control/failback/record"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin/branch"
)

// A seat that has handed its journal over is at the very point at which the journal went on. Its
// images are followed from there, nothing goes back, and there is no branch.

// nothingOwn makes sure of that: the log says that the epoch behind this host's was begun by its
// hand-over, and the WAL of each stream ends where the fence says that it went on.
func (r *run) nothingOwn() error {
	no := func(why string) error {
		return fail.New(fail.Fenced, "follow", "journal", why).
			WithHint("pollux failback -c with this configuration saves what only this host has, and goes back")
	}
	said, planned := false, false
	for _, m := range r.found.log.State.Moves {
		if m.From == r.rec.Epoch && m.Epoch == r.rec.Successor.Epoch {
			said, planned = true, m.How == state.MovePlanned
		}
	}
	switch {
	case !said:
		return fail.New(fail.Retry, "follow", r.found.store.URL(), "the new seat has not written to it yet")
	case !planned:
		return no(fmt.Sprintf("it went on under epoch %d without a hand-over from epoch %d, which was here",
			r.rec.Successor.Epoch, r.rec.Epoch))
	}
	for i := range r.rec.Streams {
		s := &r.rec.Streams[i]
		if s.Compare || s.Base != s.Point || s.End != s.Point {
			return no(fmt.Sprintf("group %s went on from %v, and this host ends at %v; %s", s.Group, s.Point, s.End,
				s.Why))
		}
	}
	for _, l := range r.rep.Left {
		return no("volume " + l.Volume + " cannot be followed: " + l.Why)
	}
	return nil
}

// Tidy removes the branch of a failback after a hand-over, with the state of the former agent, where
// that is empty, as it was when the failback was decided.
func Tidy(state string) error {
	rec, err := record.Load(state)
	if err != nil || rec == nil || !rec.HandedOver || rec.Done.IsZero() {
		return err
	}
	b, err := branch.Load(state, rec.ID)
	if fail.Is(err, fail.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for i := range b.Streams {
		if b.Streams[i].End != b.Streams[i].Base {
			return nil
		}
	}
	for i := range b.Volumes {
		if b.Volumes[i].Bytes > 0 {
			return nil
		}
	}
	return branch.Remove(state, rec.ID)
}
