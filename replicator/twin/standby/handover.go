package standby

import (
	"maps"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/replicator/objlog/claim"
	"github.com/pollux-dr/pollux/replicator/state"
)

// Handing is a hand-over as the log says it, where the standby is.
type Handing struct {
	state.HandOver
	At claim.Place // behind what was taken of the log
	// Following reports that all wanted volumes are where their streams are.
	Following bool
	AtEnd     bool // nothing is known to be in the store that was not taken
	// Back is where streams go back to, of one that is a rollback; else nil.
	Back map[change.StreamID]uint64
	// Unwanted are volumes of the journal that are not followed here.
	Unwanted []string
}

// underWay is the hand-over that is, nil where none is. Called with mu held.
func (s *Standby) underWay() *state.HandOver {
	if s.cur == nil || s.state.HandOver == nil || s.state.HandOver.Phase == state.HandOverOver {
		return nil
	}
	return s.state.HandOver
}

// Handing is the hand-over that is under way; nil where none is.
func (s *Standby) Handing() *Handing {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.underWay() == nil {
		return nil
	}
	h := &Handing{HandOver: *s.state.HandOver, Following: true,
		At: claim.Place{Position: s.cur.Position, Next: s.cur.Index, Token: s.cur.Token}}
	if w := s.state.RollingBack(); w != nil {
		h.Back = maps.Clone(w.Points)
	}
	h.AtEnd = s.atEnd()
	for _, v := range state.Sorted(s.state.Volumes, func(v *state.Volume) string { return v.Name }) {
		if v.Removed {
			continue
		}
		switch c := s.cur.Volumes[v.Name]; {
		case c == nil:
			h.Unwanted = append(h.Unwanted, v.Name)
		case !c.Following:
			h.Following = false
		}
	}
	return h
}

// Seat is where the journal is, as far as the log was taken.
type Seat struct {
	state.Seat
	Host string          // an agent that has streams there; "" where none has
	Move *state.SeatMove // by which it came; nil where it never moved
	// Open is the way back from there; nil where none is.
	Open *state.WayBack
}

// Seat is where the journal is; nil where the log was not opened yet.
func (s *Standby) Seat() *Seat {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cur == nil {
		return nil
	}
	at := &Seat{Seat: s.state.Seat}
	for _, st := range state.Sorted(s.state.Streams, func(st *state.Stream) string { return st.Group }) {
		at.Host = st.Agent
	}
	if n := len(s.state.Moves); n > 0 {
		at.Move = &s.state.Moves[n-1]
	}
	if w := s.state.WayBack; w != nil && w.Step == state.WayBackOpen {
		at.Open = w
	}
	return at
}

// handingPoll is how often the log's end is looked at while a hand-over is under way: until the
// other site goes on, its clients wait.
const handingPoll = 5 * time.Millisecond

// pollFor is how long to wait for more, which otherwise is d.
func (s *Standby) pollFor(d time.Duration) time.Duration {
	s.mu.Lock()
	h := s.underWay()
	s.mu.Unlock()
	if h == nil {
		return d
	}
	soon := 2*time.Duration(h.LimitSeconds*float64(time.Second)) + time.Minute
	if age := s.o.Now().Sub(h.Time); age > soon || age < -soon { // nobody has ended it
		return d
	}
	return min(d, handingPoll)
}

// Changed returns a channel that is closed when more of the log was taken.
func (s *Standby) Changed() <-chan struct{} { return s.taken.Next() }
