package promote

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/claim"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// ask has the seat hand over to busan. What came of it comes when the verb ends: an error in any case.
func (s *sites) ask(a *config.Agent, waitSeconds float64) <-chan error {
	ended := make(chan error, 1)
	go func() {
		var out api.HandOverReport
		err := api.Dial(a.Socket).Call(context.Background(), api.VerbHandOver,
			api.HandOver{To: "busan", LimitSeconds: 60, WaitSeconds: waitSeconds}, &out)
		if err == nil {
			err = errors.New(out.Outcome)
		}
		ended <- err
	}()
	return ended
}

// phase waits until the log has a hand-over in a phase.
func (s *sites) phase(st objstore.Store, phase string) *twin.Log {
	s.t.Helper()
	for range 2000 {
		l, err := twin.Open(s.t.Context(), st, nil)
		if err != nil {
			s.t.Fatal(err)
		}
		if h := l.State.HandOver; h != nil && h.Phase == phase {
			return l
		}
		time.Sleep(5 * time.Millisecond)
	}
	s.t.Fatalf("the log has no hand-over in phase %s", phase)
	return nil
}

// handed has the seat hand over to host-b, which answers and does no more.
func (s *sites) handed(a *config.Agent) (over *HandOver, ended <-chan error) {
	s.t.Helper()
	st, err := objstore.Open(s.t.Context(), "file://"+s.store, objstore.Options{})
	if err != nil {
		s.t.Fatal(err)
	}
	ended = s.ask(a, 60)
	h := s.phase(st, state.HandOverPrepare).State.HandOver
	err = objlog.WriteReady(s.t.Context(), st, state.Ready{ID: h.ID, Site: "busan", Host: "host-b", Time: clock.Now()})
	if err != nil {
		s.t.Fatal(err)
	}
	end := s.phase(st, state.HandOverHand).ReadPoint(clock.Now())
	return &HandOver{ID: h.ID, From: h.From, Index: end.Index,
		At: claim.Place{Position: end.Position, Next: end.Index + 1, Token: end.Token}}, ended
}

// TestTakeUpLate: the seat hands over, and another site takes the journal by force before the one that
// is named does anything. That one comes too late, however late; and the seat says who has the journal.
func TestTakeUpLate(t *testing.T) {
	s := newSites(t)
	a := s.conf("host-a", "seoul")
	d := s.start(a)
	defer d.Close()
	s.call(a, api.VerbGroupPut, api.GroupPut{Name: "g", Create: true})
	s.call(a, api.VerbVolumeCreate, api.VolumeCreate{Name: "v", Group: "g", SizeBytes: 1 << 20})
	s.write(a, 0, 'A')
	s.drained(a)
	over, ended := s.handed(a)
	c := s.options(s.conf("host-c", "daegu"))
	if rep, err := Force(t.Context(), c); err != nil || rep.Epoch != 2 {
		t.Fatalf("%+v, %v", rep, err)
	}
	if err := <-ended; !fail.Is(err, fail.Fenced) {
		t.Errorf("the seat says: %v", err)
	}
	b := s.options(s.conf("host-b", "busan"))
	b.HandOver = over
	if rep, err := Force(t.Context(), b); !fail.Is(err, fail.Fenced) {
		t.Errorf("taken up: %+v, %v", rep, err)
	}
	dc := s.start(c.Conf)
	defer dc.Close()
	s.wantAt(c.Conf, map[int64]byte{0: 'A'})
}

// TestForcedWhileAsked: while nobody has answered a hand-over yet, another site takes the journal by
// force. The seat does not say that it was taken up.
func TestForcedWhileAsked(t *testing.T) {
	s := newSites(t)
	a := s.conf("host-a", "seoul")
	d := s.start(a)
	defer d.Close()
	s.call(a, api.VerbGroupPut, api.GroupPut{Name: "g", Create: true})
	s.call(a, api.VerbVolumeCreate, api.VolumeCreate{Name: "v", Group: "g", SizeBytes: 1 << 20})
	s.write(a, 0, 'A')
	s.drained(a)
	st, err := objstore.Open(t.Context(), "file://"+s.store, objstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ended := s.ask(a, 4)
	s.phase(st, state.HandOverPrepare)
	if _, err := Force(t.Context(), s.options(s.conf("host-c", "daegu"))); err != nil {
		t.Fatal(err)
	}
	s.write(a, 0, 'L') // it finds out
	s.awaitState(a, api.Superseded, "")
	if err := <-ended; !fail.Is(err, fail.Fenced) {
		t.Errorf("the seat says: %v", err)
	}
}

// TestReadBeforehand: the log that a standby has read beforehand is that of the target which it follows, and as
// far as the hand-over: neither a failover that was begun with another target goes on by it, nor one that ends
// before.
func TestReadBeforehand(t *testing.T) {
	s := newSites(t)
	o := s.twoLogs()("host-b", "busan")
	st, err := objstore.Open(t.Context(), "file://"+s.store, objstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		intent *intent
		more   uint64 // positions
		kept   bool
	}{"as it is": {nil, 0, true}, "begun elsewhere": {&intent{Target: "second"}, 0, false},
		"too short": {nil, 1, false}} {
		l, err := twin.Open(t.Context(), st, nil)
		if err != nil {
			t.Fatal(err)
		}
		o.Target, o.Log, o.HandOver = "far", l, &HandOver{At: claim.Place{Position: l.End + c.more}}
		r := &run{Options: o, conf: o.Conf, intent: c.intent}
		f, err := r.find(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if (f.log == l) != c.kept {
			t.Errorf("%s: the log of %s is the one that was read: %v", name, f.target.Name, f.log == l)
		}
		f.close()
	}
}
