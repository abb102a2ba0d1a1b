package state

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// TestHandOver: once a journal is handed over it takes nothing but back, and the seat-move of the
// site that took it up; each phase comes once, and in order.
func TestHandOver(t *testing.T) {
	s := example(t)
	for level := 1; level <= 3; level++ {
		must(t, s, KindFeatureLevel, FeatureLevel{Level: level})
	}
	must(t, s, KindSeat, SeatPut{Site: "north", Epoch: 1})
	step := func(id byte, phase, host string) HandOver {
		return HandOver{ID: uuid.UUID{id}, Phase: phase, From: 1, To: "south", Host: host, Target: "far",
			LimitSeconds: 30, Time: time.Unix(9, 0)}
	}
	refused := func(what string, kind Kind, r any, want fail.Kind) {
		t.Helper()
		if _, err := apply(s, kind, r); !fail.Is(err, want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("handed over unprepared", KindHandOver, step(1, HandOverHand, "b"), fail.Refused)
	other := step(1, HandOverPrepare, "")
	other.From = 2
	refused("of another epoch", KindHandOver, other, fail.Refused)
	other = step(1, HandOverPrepare, "")
	other.To = "north"
	refused("to where it is", KindHandOver, other, fail.Refused)
	must(t, s, KindHandOver, step(1, HandOverPrepare, ""))
	must(t, s, KindHeartbeat, Heartbeat{Time: time.Unix(9, 0)})
	refused("prepared twice", KindHandOver, step(1, HandOverPrepare, ""), fail.Refused)
	refused("to nobody", KindHandOver, step(1, HandOverHand, ""), fail.Invalid)
	refused("taken back before it was given", KindHandOver, step(1, HandOverBack, "b"), fail.Refused)
	must(t, s, KindHandOver, step(1, HandOverOver, "")) // nobody was ready
	refused("over twice", KindHandOver, step(1, HandOverOver, ""), fail.Refused)
	refused("handed over when it is over", KindHandOver, step(1, HandOverHand, "b"), fail.Refused)
	must(t, s, KindHandOver, step(2, HandOverPrepare, ""))
	refused("another one's hand", KindHandOver, step(1, HandOverHand, "b"), fail.Refused)
	must(t, s, KindHandOver, step(2, HandOverHand, "b"))
	refused("a command behind it", KindHeartbeat, Heartbeat{Time: time.Unix(9, 0)}, fail.Retry)
	refused("a new level behind it", KindFeatureLevel, FeatureLevel{Level: 4}, fail.Retry)
	refused("another hand-over behind it", KindHandOver, step(3, HandOverPrepare, ""), fail.Refused)
	refused("over before it was taken back", KindHandOver, step(2, HandOverOver, "b"), fail.Refused)
	must(t, s, KindHandOver, step(2, HandOverBack, "b"))
	refused("a command before the log has that", KindHeartbeat, Heartbeat{Time: time.Unix(9, 0)}, fail.Retry)
	must(t, s, KindHandOver, step(2, HandOverOver, "b"))
	must(t, s, KindHeartbeat, Heartbeat{Time: time.Unix(9, 0)})
	must(t, s, KindHandOver, step(4, HandOverPrepare, ""))
	must(t, s, KindHandOver, step(4, HandOverHand, "b"))
	must(t, s, KindSeatMove, SeatMove{From: 1, Epoch: 2, Site: "south", First: 100, How: MovePlanned,
		Time: time.Unix(9, 0)})
	if s.HandOver != nil || s.HandedOver() {
		t.Errorf("taken up, and still %+v", s.HandOver)
	}
	must(t, s, KindHeartbeat, Heartbeat{Time: time.Unix(9, 0)})
}

// TestHandOverInResync: there is no point to go on from.
func TestHandOverInResync(t *testing.T) {
	s := example(t)
	for level := 1; level <= 3; level++ {
		must(t, s, KindFeatureLevel, FeatureLevel{Level: level})
	}
	must(t, s, KindSeat, SeatPut{Site: "north", Epoch: 1})
	for _, st := range s.Streams {
		st.Resyncs = []Resync{{After: 3}}
	}
	r := HandOver{ID: uuid.New(), Phase: HandOverPrepare, From: 1, To: "south", Target: "far", LimitSeconds: 1}
	must(t, s, KindHandOver, r)
	r.Phase, r.Host = HandOverHand, "b"
	if _, err := apply(s, KindHandOver, r); !fail.Is(err, fail.Refused) {
		t.Error(err)
	}
	if r.From = change.MaxLSN + 1; r.check() == nil {
		t.Error("an epoch that is none")
	}
}
