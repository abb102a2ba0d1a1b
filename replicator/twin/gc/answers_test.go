package gc

import (
	"context"
	"testing"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
)

// asked is a store in which something happens once answers were listed.
type asked struct {
	objstore.Store
	what func()
}

func (s *asked) List(ctx context.Context, prefix, after string, fn func(objstore.Info) error) error {
	err := s.Store.List(ctx, prefix, after, fn)
	if prefix == objlog.ReadyPrefix && s.what != nil {
		s.what()
		s.what = nil
	}
	return err
}

// TestCollectAnswers: an answer to a hand-over goes once the log says how that ended, and not before,
// however long it takes; one that comes meanwhile stays, and so does what is not ours.
func TestCollectAnswers(t *testing.T) {
	l := retained(t, false)
	for level := 1; level <= state.LevelOf(state.KindHandOver); level++ {
		l.Command(state.KindFeatureLevel, state.FeatureLevel{Level: level})
	}
	l.Command(state.KindSeat, state.SeatPut{Site: "north", Epoch: 1})
	step := func(id byte, phase string) {
		l.Command(state.KindHandOver, state.HandOver{ID: uuid.UUID{id}, Phase: phase, From: 1, To: "south", Host: "b",
			Target: "far", LimitSeconds: 30, Time: l.Clock})
		l.Segment()
	}
	answer := func(id byte) {
		if err := objlog.WriteReady(t.Context(), l.Store, state.Ready{ID: uuid.UUID{id}, Site: "south"}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string, ids ...byte) {
		t.Helper()
		there := map[string]bool{}
		for _, id := range ids {
			there[objlog.ReadyName(uuid.UUID{id})] = true
		}
		for id := byte(1); id < 9; id++ {
			name := objlog.ReadyName(uuid.UUID{id})
			if _, err := l.Store.Size(t.Context(), name); (err == nil) != there[name] {
				t.Errorf("%s: %s: %v", what, name, err)
			}
		}
	}
	other := objlog.ReadyPrefix + "notes"
	if err := l.Store.Create(t.Context(), other, []byte("ours")); err != nil {
		t.Fatal(err)
	}
	l.Random(l.r, 10)
	step(1, state.HandOverPrepare)
	answer(1)
	l.collect()
	want("prepared", 1)
	step(1, state.HandOverHand)
	l.Clock = l.Clock.Add(100 * grace)
	l.collect()
	want("handed over, and not taken up", 1)
	step(1, state.HandOverBack)
	l.collect()
	want("being taken back", 1)
	step(1, state.HandOverOver)
	o := l.options()
	o.DryRun = true
	if rep, err := Collect(t.Context(), l.Store, o); err != nil || rep.Deleted.Objects != 1 || len(rep.Names) == 0 {
		t.Errorf("dry run: %+v, %v", rep, err)
	}
	want("dry run", 1)
	step(2, state.HandOverPrepare)
	answer(2)
	o.DryRun = false
	s := &asked{Store: l.Store, what: func() { // the next begins when answers were listed
		step(2, state.HandOverOver)
		step(3, state.HandOverPrepare)
		answer(3)
	}}
	if _, err := Collect(t.Context(), s, o); err != nil {
		t.Fatal(err)
	}
	want("the newest is being prepared", 3)
	step(3, state.HandOverHand)
	l.Command(state.KindSeatMove, state.SeatMove{From: 1, Epoch: 2, Site: "south", First: 1000, How: state.MovePlanned,
		Time: l.Clock})
	l.Segment()
	deny := &undeletable{Store: l.Store}
	if n, left, err := CollectAnswers(t.Context(), deny); n != 0 || left != 1 || err != nil {
		t.Errorf("without the right to delete: %d, %d, %v", n, left, err)
	}
	if n, left, err := CollectAnswers(t.Context(), l.Store); n != 1 || left != 0 || err != nil {
		t.Errorf("taken up: %d, %d, %v", n, left, err)
	}
	want("taken up")
	if _, err := l.Store.Size(t.Context(), other); err != nil {
		t.Error("what is not ours is gone: ", err)
	}
}

// undeletable is a store whose credentials may not delete.
type undeletable struct{ objstore.Store }

func (undeletable) Delete(context.Context, string) error {
	return fail.New(fail.Denied, "delete", "object", "not allowed")
}
