package state

import (
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// TestSeatMove: a seat moves to a later epoch, from the one that it has, and each epoch that said so
// begins behind the one before; what is dead of an epoch begins with the first after it.
func TestSeatMove(t *testing.T) {
	s := example(t)
	must(t, s, KindFeatureLevel, FeatureLevel{Level: 1})
	must(t, s, KindFeatureLevel, FeatureLevel{Level: 2})
	must(t, s, KindSeat, SeatPut{Site: "north", Epoch: 1})
	move := func(from, epoch, first uint64) SeatMove {
		return SeatMove{From: from, Epoch: epoch, Site: "south", First: first, How: MoveForced, Time: time.Unix(9, 0)}
	}
	for what, c := range map[string]struct {
		r    SeatMove
		kind fail.Kind
	}{
		"back":                  {move(2, 1, 9), fail.Invalid},
		"the same":              {move(1, 1, 9), fail.Invalid},
		"from a later one":      {move(2, 3, 9), fail.Fenced},
		"to no index":           {move(1, 2, 0), fail.Invalid},
		"in a way that is none": {SeatMove{From: 1, Epoch: 2, Site: "south", First: 9, How: "somehow"}, fail.Invalid},
		"to no site":            {SeatMove{From: 1, Epoch: 2, Site: "/", First: 9, How: MoveForced}, fail.Invalid},
	} {
		if _, err := apply(s, KindSeatMove, c.r); !fail.Is(err, c.kind) {
			t.Errorf("%s: %v", what, err)
		}
	}
	must(t, s, KindSeatMove, move(1, 2, 100))
	if _, err := apply(s, KindSeatMove, move(2, 3, 100)); !fail.Is(err, fail.Invalid) {
		t.Errorf("an epoch that begins where the last one did: %v", err)
	}
	if _, err := apply(s, KindSeatMove, move(1, 2, 120)); !fail.Is(err, fail.Fenced) {
		t.Errorf("the same move once more: %v", err)
	}
	must(t, s, KindSeatMove, move(2, 4, 150)) // whoever took epoch 3 was lost before it said so
	for epoch, want := range map[uint64]uint64{0: 100, 1: 100, 2: 150, 3: 150, 4: 0, 5: 0} {
		if got := s.DeadFrom(epoch); got != want {
			t.Errorf("epoch %d is dead from %d, want %d", epoch, got, want)
		}
	}
	again := New()
	for _, key := range s.Keys() {
		if err := again.Load(key, s.Save(key)); err != nil {
			t.Fatal(err)
		}
	}
	if saved(again) != saved(s) || again.DeadFrom(2) != 150 {
		t.Error("what was saved is loaded as another state")
	}
}

// TestSeatMoveUnsaid: a journal of an earlier release, which never said where it is, has epoch 1.
func TestSeatMoveUnsaid(t *testing.T) {
	s := example(t)
	must(t, s, KindFeatureLevel, FeatureLevel{Level: 1})
	must(t, s, KindFeatureLevel, FeatureLevel{Level: 2})
	must(t, s, KindSeatMove, SeatMove{From: 1, Epoch: 2, Site: "south", First: 5, How: MoveForced})
	if s.Seat.Epoch != 2 || s.Seat.Site != "south" {
		t.Errorf("the seat is %+v", s.Seat)
	}
}
