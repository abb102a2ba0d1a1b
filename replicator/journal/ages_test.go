package journal

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/replicator/state"
)

// TestAges: the horizon is what a stream had a window ago by the time that has passed;
// clocks that jump, and rings that are read again, change nothing.
func TestAges(t *testing.T) {
	id, other := uuid.New(), uuid.New()
	s := state.New()
	s.Groups["g"] = &state.Group{Name: "g", Retention: &state.Retention{EveryWriteSeconds: 3600}}
	s.Groups["for ever"] = &state.Group{Name: "for ever"}
	s.Streams[id] = &state.Stream{ID: id, Group: "g"}
	s.Streams[other] = &state.Stream{ID: other, Group: "for ever"}
	a := &ages{groups: map[string][]sample{}}
	points := map[change.StreamID]change.Point{}
	lsnAt := func(now time.Duration) uint64 { return uint64(now / time.Second) }
	wall := time.Unix(1e9, 0)
	for now := time.Duration(0); now < 5*time.Hour; now += time.Second {
		points[id] = change.Point{LSN: lsnAt(now)}
		if now == 2*time.Hour {
			wall = wall.AddDate(3, 0, 0)
		}
		a.note(now, wall.Add(now), s, points)
		h := a.horizon(now, s)
		if h == nil {
			if lag := lsnAt(now) - s.Streams[id].Horizon; lag > 3600+3600/samplesPerWindow+1 {
				t.Fatalf("at %v: the horizon is %d s old", now, lag)
			}
			continue
		}
		if lsn := h.Streams[id]; lsn+3600 > lsnAt(now) || len(h.Streams) != 1 || h.Groups["g"].IsZero() {
			t.Fatalf("at %v: the horizon is %+v", now, h)
		}
		s.Streams[id].Horizon = h.Streams[id]
	}
	if n := len(a.groups["g"]); n > samplesPerWindow+2 {
		t.Errorf("%d samples", n)
	}
	s.Groups["g"].Retention = &state.Retention{EveryWriteSeconds: 86400} // longer: what is gone is gone
	if h := a.horizon(6*time.Hour, s); h != nil {
		t.Errorf("after the window was made longer: %+v", h)
	}
	s.Groups["g"].Retention = nil
	if got := a.note(6*time.Hour, wall, s, points); len(got) != 1 || len(a.groups) != 0 {
		t.Errorf("without a retention: %v, %v", got, a.groups)
	}
}

// TestAgesSurvive: a member goes on with what it noted before; the time in which it did
// not run makes nothing old.
func TestAgesSurvive(t *testing.T) {
	c := newClusterTest(t, 1)
	c.form()
	c.write(3)
	g := state.Group{Name: "g", Ack: "local", Retention: &state.Retention{EveryWriteSeconds: 60}}
	if _, err := c.leader().Propose(state.KindGroupPut, g); err != nil {
		t.Fatal(err)
	}
	samples := func() (out []sample) {
		j := c.members[0]
		c.stop(0)
		return j.ages.groups["g"]
	}
	c.await("a sample", func() bool {
		v, err := get(c.members[0].db, ageKey("g"))
		return err == nil && v != nil
	})
	was := samples()
	c.start(0)
	j := c.leader()
	if len(was) == 0 || was[0].Points[c.stream] != c.at.LSN {
		t.Fatalf("samples %+v", was)
	}
	if now := j.ages.now(); now < was[len(was)-1].At || now > was[len(was)-1].At+time.Minute {
		t.Errorf("the age goes on at %v, the last sample was at %v", now, was[len(was)-1].At)
	}
}
