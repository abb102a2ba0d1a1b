package state

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// handedOver is a state whose seat was handed over from north to south, and a way back that is open.
func handedOver(t *testing.T) *State {
	t.Helper()
	s := example(t)
	for level := 1; level <= Level; level++ {
		must(t, s, KindFeatureLevel, FeatureLevel{Level: level})
	}
	must(t, s, KindSeat, SeatPut{Site: "north", Epoch: 1})
	must(t, s, KindSeatMove, SeatMove{From: 1, Epoch: 2, Site: "south", First: 50, How: MovePlanned})
	must(t, s, KindBookmarkAdd, Bookmark{Name: "handover-2", Group: "g", Stream: testStream, LSN: 9, Epoch: 2})
	must(t, s, KindWayBack, WayBack{Step: WayBackOpen, Epoch: 2, To: "north", Host: "a", Bookmark: "handover-2",
		Points: map[change.StreamID]uint64{testStream: 9}})
	return s
}

func backStep(id byte, phase string) HandOver {
	return HandOver{ID: uuid.UUID{id}, Phase: phase, From: 2, To: "north", Host: "a", Target: "near", LimitSeconds: 1}
}

// TestWayBack: it is opened once, by a hand-over; a hand-over that goes back names itself before it
// hands over, and one that is taken back changes nothing; committed, it is no more, nor its bookmarks.
func TestWayBack(t *testing.T) {
	s := handedOver(t)
	step := func(step string, id byte) WayBack {
		r := WayBack{Step: step, Epoch: 2, Who: "kim", Time: time.Unix(9, 0)}
		if id > 0 {
			r.HandOver = uuid.UUID{id}
		}
		return r
	}
	refused := func(what string, r WayBack, want fail.Kind) {
		t.Helper()
		before := saved(s)
		if _, err := apply(s, KindWayBack, r); !fail.Is(err, want) {
			t.Errorf("%s: %v", what, err)
		}
		if saved(s) != before {
			t.Errorf("%s: refused, and changed", what)
		}
	}
	again := *s.WayBack
	refused("opened twice", again, fail.Exists)
	later := step(WayBackCommit, 0)
	later.Epoch = 3
	refused("of another epoch", later, fail.Refused)
	refused("a hand-over that is none", step(WayBackRollBack, 1), fail.Refused)
	refused("a roll-back without a hand-over", step(WayBackRollBack, 0), fail.Invalid)
	must(t, s, KindHandOver, backStep(1, HandOverPrepare))
	must(t, s, KindWayBack, step(WayBackRollBack, 1))
	refused("committed when it is rolled back", step(WayBackCommit, 0), fail.Refused)
	reloaded(t, s)
	must(t, s, KindHandOver, backStep(1, HandOverHand))
	if s.RollingBack() == nil {
		t.Error("it is handed over, and does not roll back")
	}
	must(t, s, KindHandOver, backStep(1, HandOverBack))
	must(t, s, KindHandOver, backStep(1, HandOverOver))
	if s.RollingBack() != nil || s.WayBack.Step != WayBackOpen || s.Bookmarks["g/handover-2"] == nil {
		t.Errorf("it was taken back, and is %+v", s.WayBack)
	}
	must(t, s, KindHandOver, backStep(2, HandOverPrepare))
	refused("another one's", step(WayBackRollBack, 1), fail.Refused)
	must(t, s, KindHandOver, backStep(2, HandOverOver))
	must(t, s, KindWayBack, step(WayBackCommit, 0))
	if s.Bookmarks["g/handover-2"] != nil {
		t.Error("committed, and the bookmark is there")
	}
	reloaded(t, s)
	refused("committed twice", step(WayBackCommit, 0), fail.Exists)
	must(t, s, KindHandOver, backStep(3, HandOverPrepare))
	refused("rolled back after it was committed", step(WayBackRollBack, 3), fail.Exists)
}

// reloaded makes sure that what was saved loads as the same.
func reloaded(t *testing.T, s *State) {
	t.Helper()
	again := New()
	for _, key := range s.Keys() {
		if err := again.Load(key, s.Save(key)); err != nil {
			t.Error(err)
		}
	}
	if saved(again) != saved(s) {
		t.Error("what was saved is loaded as another state")
	}
}

// TestWayBackEnds: when the seat moves. In order the bookmarks go, by force they stay; somebody's own
// of that name stays either way.
func TestWayBackEnds(t *testing.T) {
	for how, stays := range map[string]bool{MovePlanned: false, MoveForced: true} {
		for _, own := range []bool{false, true} {
			s := handedOver(t)
			if own {
				s.Bookmarks["g/handover-2"].LSN = 8
			}
			must(t, s, KindHandOver, backStep(1, HandOverPrepare))
			must(t, s, KindWayBack, WayBack{Step: WayBackRollBack, Epoch: 2, HandOver: uuid.UUID{1}})
			must(t, s, KindHandOver, backStep(1, HandOverHand))
			must(t, s, KindSeatMove, SeatMove{From: 2, Epoch: 3, Site: "north", First: 90, How: how})
			if there := s.Bookmarks["g/handover-2"] != nil; s.WayBack != nil || there != (stays || own) {
				t.Errorf("%s, own %v: way back %+v, bookmark %v", how, own, s.WayBack, there)
			}
		}
	}
	s := example(t)
	for level := 1; level <= Level; level++ {
		must(t, s, KindFeatureLevel, FeatureLevel{Level: level})
	}
	must(t, s, KindSeatMove, SeatMove{From: 1, Epoch: 2, Site: "south", First: 50, How: MoveForced})
	r := WayBack{Step: WayBackOpen, Epoch: 2, To: "north", Host: "a", Bookmark: "handover-2"}
	_, err := apply(s, KindWayBack, r)
	if !fail.Is(err, fail.Refused) {
		t.Errorf("opened by a forced failover: %v", err)
	}
}
