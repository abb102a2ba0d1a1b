package state

import (
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// The steps of a way back.
const (
	WayBackOpen     = "open"      // the hand-over was taken up: its point is kept
	WayBackCommit   = "commit"    // it is given up: nothing keeps the point any more
	WayBackRollBack = "roll-back" // the hand-over that is being prepared goes back to the point
)

// WayBack is how a seat that was handed over gets back to the point of that. The site that took it
// up opens it, and it stays open until it is given up, or until the seat moves once more. A hand-over
// that is named by a roll-back has its volumes go on from the point; where that is not taken up, the
// way back is as open as before.
type WayBack struct {
	Step  string `json:"step"`
	Epoch uint64 `json:"epoch"` // that the hand-over began
	// To is the site that had the seat, and Host its agent: where open.
	To   string `json:"to,omitempty"`
	Host string `json:"host,omitempty"`
	// Bookmark, of each group that could have one, keeps the points: where open.
	Bookmark string                     `json:"bookmark,omitempty"`
	Points   map[change.StreamID]uint64 `json:"points,omitempty"`
	// HandOver is the one that goes back: of a roll-back.
	HandOver uuid.UUID `json:"hand_over,omitzero"`
	Who      string    `json:"who,omitempty"`
	Time     time.Time `json:"time"`
}

func (r *WayBack) check() error {
	err := first(checkOneOf("step", r.Step, WayBackOpen, WayBackCommit, WayBackRollBack), checkText("who", r.Who))
	switch {
	case err != nil:
		return err
	case r.Epoch < 2 || r.Epoch > change.MaxLSN:
		return invalid("a way back from epoch %d", r.Epoch)
	case (r.Step == WayBackRollBack) != (r.HandOver != uuid.Nil):
		return invalid("a step %s with hand-over %s", r.Step, r.HandOver)
	case r.Step != WayBackOpen:
		if r.To+r.Host+r.Bookmark != "" || len(r.Points) > 0 {
			return invalid("a step %s that says where the seat was", r.Step)
		}
		return nil
	}
	for _, lsn := range r.Points {
		if lsn > change.MaxLSN {
			return invalid("a point at LSN %d", lsn)
		}
	}
	return first(CheckName("site", r.To), checkAgent(r.Host), CheckName("bookmark", r.Bookmark))
}

// checkLoaded is check of what a state holds: what was opened, with what came of it.
func (r *WayBack) checkLoaded() error {
	opened := *r
	if opened.Step == WayBackCommit {
		opened.Step = WayBackOpen
	}
	opened.HandOver = uuid.Nil
	if opened.Step != WayBackOpen {
		return invalid("a way back at step %s", r.Step)
	}
	return opened.check()
}

// RollingBack is the way back of which a hand-over is, nil where it goes on from the newest point.
func (s *State) RollingBack() *WayBack {
	if w := s.WayBack; w != nil && w.HandOver != uuid.Nil && s.HandOver != nil && s.HandOver.ID == w.HandOver {
		return w
	}
	return nil
}

func (s *State) wayBack(r *WayBack) ([]string, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	refuse := func(kind fail.Kind, why string) ([]string, error) {
		return nil, fail.New(kind, r.Step, "way back", why)
	}
	now := s.WayBack
	if s.Seat.Epoch != r.Epoch {
		return refuse(fail.Refused, fmt.Sprintf("the seat's epoch is %d, and not %d", s.Seat.Epoch, r.Epoch))
	}
	if r.Step == WayBackOpen {
		n := len(s.Moves)
		switch {
		case now != nil:
			return refuse(fail.Exists, "it was opened before")
		case n == 0 || s.Moves[n-1].Epoch != r.Epoch || s.Moves[n-1].How != MovePlanned:
			return refuse(fail.Refused, "the epoch was not begun by a hand-over")
		}
		s.WayBack = r
		return []string{keyWayBack}, nil
	}
	h := s.HandOver
	switch {
	case now == nil:
		return refuse(fail.NotFound, "there is none")
	case now.Step == WayBackCommit:
		return refuse(fail.Exists, "it was given up before")
	case h != nil && h.ID == now.HandOver:
		return refuse(fail.Refused, "a hand-over that goes back is under way")
	}
	next := *now // readers may have the old one
	next.Who, next.Time = r.Who, r.Time
	if r.Step == WayBackCommit {
		next.Step = WayBackCommit
		s.WayBack = &next
		return append(s.forgetPoints(now), keyWayBack), nil
	}
	if h == nil || h.ID != r.HandOver || h.Phase != HandOverPrepare || h.To != now.To {
		return refuse(fail.Refused, "no such hand-over is being prepared")
	}
	next.HandOver = r.HandOver
	s.WayBack = &next
	return []string{keyWayBack}, nil
}

// forgetPoints removes the bookmarks of a way back. One that was set anew, elsewhere, stays.
func (s *State) forgetPoints(w *WayBack) (keys []string) {
	for id, lsn := range w.Points {
		st := s.Streams[id]
		if st == nil {
			continue
		}
		key := st.Group + "/" + w.Bookmark
		if b := s.Bookmarks[key]; b != nil && b.Stream == id && b.LSN == lsn {
			delete(s.Bookmarks, key)
			keys = append(keys, "bookmark/"+key)
		}
	}
	return keys
}

// stayed has a way back as open as before, when the hand-over that went back is over.
func (s *State) stayed(h *HandOver) (keys []string) {
	if h.Phase != HandOverOver || s.RollingBack() == nil {
		return nil
	}
	next := *s.WayBack
	next.HandOver = uuid.Nil
	s.WayBack = &next
	return []string{keyWayBack}
}

// endWayBack is the end of it when the seat moves. By force, the bookmarks stay: whoever takes the
// journal over may want the point.
func (s *State) endWayBack(how string) (keys []string) {
	w := s.WayBack
	if w == nil {
		return nil
	}
	if how == MovePlanned {
		keys = s.forgetPoints(w)
	}
	s.WayBack = nil
	return append(keys, keyWayBack)
}
