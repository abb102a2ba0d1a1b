package state

import (
	"fmt"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// How a seat moved.
const (
	MoveForced  = "forced"  // without the former seat: what it had not handed over is lost
	MovePlanned = "planned" // it handed over, and nothing is lost
)

// SeatMove takes the seat under a later epoch: the journal goes on at Site, from the journal
// index First on. What the epochs before have written from there on is a dead branch. It is the next
// epoch, or a later one where a site has fenced the log and was lost before it said anything more.
type SeatMove struct {
	From  uint64    `json:"from"` // the epoch up to now
	Epoch uint64    `json:"epoch"`
	Site  string    `json:"site"`
	First uint64    `json:"first"`
	How   string    `json:"how"`
	Time  time.Time `json:"time"`
}

func (r *SeatMove) check() error {
	if r.Epoch <= r.From || r.From == 0 || r.Epoch > change.MaxLSN {
		return invalid("a seat that moves from epoch %d to %d", r.From, r.Epoch)
	}
	if r.First == 0 || r.First > change.MaxLSN {
		return invalid("an epoch that begins at journal index %d", r.First)
	}
	return first(CheckName("site", r.Site), checkOneOf("how", r.How, MoveForced, MovePlanned))
}

func (s *State) moveSeat(r *SeatMove) ([]string, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	if from := max(s.Seat.Epoch, 1); from != r.From { // 0: nobody has said so yet, and it is 1
		return nil, fail.New(fail.Fenced, "take", "seat of the journal",
			fmt.Sprintf("it has epoch %d, at %s, and not %d", s.Seat.Epoch, s.Seat.Site, r.From)).
			WithHint("another site has taken it over; look there")
	}
	if n := len(s.Moves); n > 0 && r.First <= s.Moves[n-1].First {
		return nil, invalid("an epoch that begins at journal index %d, before the last", r.First)
	}
	s.Seat = Seat{Site: r.Site, Epoch: r.Epoch, Since: r.Time}
	s.Moves = append(s.Moves[:len(s.Moves):len(s.Moves)], *r) // readers may have the old one
	keys := []string{keySeat, keyMoves}
	if s.HandOver != nil { // it is over
		s.HandOver, keys = nil, append(keys, keyHandOver)
	}
	return append(keys, s.endWayBack(r.How)...), nil
}

// DeadFrom is the journal index from which on what a writer of an epoch wrote is a dead branch,
// because a later one went on there; 0 is nowhere.
func (s *State) DeadFrom(epoch uint64) uint64 {
	for i := range s.Moves { // each begins behind the one before
		if s.Moves[i].Epoch > epoch {
			return s.Moves[i].First
		}
	}
	return 0
}

// seatMoves is all that there were, as a value of the state.
type seatMoves struct {
	Moves []SeatMove `json:"moves"`
}

func (m *seatMoves) check() error {
	for i := range m.Moves {
		if err := m.Moves[i].check(); err != nil {
			return err
		}
		if i > 0 && (m.Moves[i].Epoch <= m.Moves[i-1].Epoch || m.Moves[i].First <= m.Moves[i-1].First) {
			return invalid("moves of the seat that are not in order")
		}
	}
	return nil
}
