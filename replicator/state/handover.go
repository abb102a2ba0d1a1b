package state

import (
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// The phases of a hand-over.
const (
	HandOverPrepare = "prepare" // the site that shall go on is asked to get ready
	HandOverHand    = "hand"    // the seat takes nothing more; the log's next object decides
	HandOverBack    = "back"    // nobody took it up: the seat takes it back, if the log lets it
	HandOverOver    = "over"    // the seat goes on
)

// HandOver moves the seat in order. From the phase hand on the journal takes nothing but the next
// phases: that entry is the last one of its epoch, where a site takes the hand-over up. Who creates
// the object of the log behind it decides: the new seat with its fence, or the old one with back.
// Only when the log that decides has that does the seat go on, which is over. A hand-over that was
// prepared, and no more, is over at once.
type HandOver struct {
	ID     uuid.UUID `json:"id"`
	Phase  string    `json:"phase"`
	From   uint64    `json:"from"` // the seat's epoch
	To     string    `json:"to"`   // site
	Host   string    `json:"host,omitempty"`
	Target string    `json:"target"` // whose log decides
	Reason string    `json:"reason,omitempty"`
	// LimitSeconds is after how long the seat takes back what nobody took up.
	LimitSeconds float64   `json:"limit_seconds"`
	Time         time.Time `json:"time"`
}

// maxHandOverSeconds bounds how long writers may be held for nobody.
const maxHandOverSeconds = 3600

func (r *HandOver) check() error {
	err := first(CheckName("site", r.To), checkText("target", r.Target), checkText("reason", r.Reason),
		checkOneOf("phase", r.Phase, HandOverPrepare, HandOverHand, HandOverBack, HandOverOver))
	switch {
	case err != nil:
		return err
	case r.ID == uuid.Nil:
		return invalid("a hand-over without an id")
	case r.From == 0 || r.From > change.MaxLSN:
		return invalid("a hand-over from epoch %d", r.From)
	case !(r.LimitSeconds > 0 && r.LimitSeconds <= maxHandOverSeconds):
		return invalid("a hand-over with a limit of %g s", r.LimitSeconds)
	case r.Target == "":
		return invalid("a hand-over without a target whose log decides")
	case r.Host != "":
		return checkAgent(r.Host)
	case r.Phase == HandOverHand || r.Phase == HandOverBack:
		return invalid("a hand-over to no host")
	}
	return nil
}

// HandedOver reports whether the seat has handed over, and takes nothing more.
func (s *State) HandedOver() bool {
	return s.HandOver != nil && (s.HandOver.Phase == HandOverHand || s.HandOver.Phase == HandOverBack)
}

// follows reports whether a phase comes behind another one of the same hand-over.
func follows(phase, before string) bool {
	switch before {
	case HandOverPrepare:
		return phase == HandOverHand || phase == HandOverOver
	case HandOverHand:
		return phase == HandOverBack
	case HandOverBack:
		return phase == HandOverOver
	}
	return false
}

// ErrHandedOver is the error of what is not taken any more.
func ErrHandedOver(to string) error {
	return fail.New(fail.Retry, "extend", "journal", "it was handed over to "+to+", which has not taken it up yet")
}

// mayTake refuses what would come behind a hand-over's last entry. The epoch that takes it up
// begins with seat-move.
func (s *State) mayTake(kind Kind) error {
	if s.HandedOver() && kind != KindHandOver && kind != KindSeatMove {
		return ErrHandedOver(s.HandOver.To)
	}
	return nil
}

func (s *State) handOver(r *HandOver) ([]string, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	refuse := func(why string) ([]string, error) {
		return nil, fail.New(fail.Refused, "hand over", "journal", why)
	}
	now := s.HandOver
	ours := now != nil && now.ID == r.ID
	switch {
	case s.Seat.Epoch != r.From:
		return refuse("it was asked for under another epoch")
	case r.Phase == HandOverPrepare && s.Seat.Site == r.To:
		return refuse("its seat is at " + r.To + " already")
	case r.Phase == HandOverPrepare && (ours || s.HandedOver()):
		return refuse("it is being handed over already")
	case r.Phase != HandOverPrepare && !ours:
		return refuse("another hand-over has begun")
	case r.Phase != HandOverPrepare && !follows(r.Phase, now.Phase):
		return refuse("this hand-over is in phase " + now.Phase + ", which " + r.Phase + " does not follow")
	case r.Phase == HandOverHand && s.resyncing():
		return refuse("a resync has not ended: there is no recovery point to go on from")
	}
	keys := s.stayed(r)
	s.HandOver = r
	return append(keys, keyHandOver), nil
}

func (s *State) resyncing() bool {
	for _, st := range s.Streams {
		if st.Resyncing() {
			return true
		}
	}
	return false
}

// Ready is what a site answers to a hand-over that is being prepared, as an object beside the log
// of the target that decides: its standby has all of the journal's groups, is where the log is, and
// will take the hand-over up.
type Ready struct {
	ID   uuid.UUID `json:"id"` // of the hand-over
	Site string    `json:"site"`
	Host string    `json:"host"` // its agent's name
	// Refusal is why it cannot take it up, "" where it can.
	Refusal string    `json:"refusal,omitempty"`
	Index   uint64    `json:"index"` // of the journal, up to which it has the log
	Time    time.Time `json:"time"`
}
