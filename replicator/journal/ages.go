package journal

import (
	"encoding/json"
	"sort"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
)

// ages remembers where the streams of groups with a retention stood, and how long ago
// that is by the time that has passed while this member ran. No clock of the day has a
// say: one that jumps, or an agent's that is wrong, makes no point old. Every member
// has its own, so that whoever leads next knows enough.
type ages struct {
	base   time.Duration // less clock.SinceStart: for how long members ran before this one
	groups map[string][]sample
}

// sample is where a group's streams stood.
type sample struct {
	At     time.Duration              `json:"at"`   // ns that members have run
	Wall   time.Time                  `json:"wall"` // for people
	Points map[change.StreamID]uint64 `json:"points"`
}

// samplesPerWindow is how many samples a window has at least.
const samplesPerWindow = 48

func ageKey(group string) []byte { return append([]byte("zage/"), group...) }

// loadAges reads what earlier runs have noted.
func (j *Journal) loadAges() error {
	j.ages = ages{groups: map[string][]sample{}}
	before := time.Duration(0)
	err := scan(j.db, ageKey(""), func(k, v []byte) error {
		var s []sample
		if err := json.Unmarshal(v, &s); err != nil {
			return fail.Wrap(fail.Damaged, "load", "ages of group "+string(k), err)
		}
		if n := len(s); n > 0 {
			j.ages.groups[string(k)], before = s, max(before, s[n-1].At)
		}
		return nil
	})
	j.ages.base = before - time.Duration(clock.SinceStart())
	return err
}

// now is for how long members with this directory have run.
func (a *ages) now() time.Duration { return a.base + time.Duration(clock.SinceStart()) }

// note takes samples of the groups whose last one is old enough, and returns the names
// of the groups whose samples have changed.
func (a *ages) note(now time.Duration, wall time.Time, s *state.State,
	points map[change.StreamID]change.Point) (changed []string) {
	for name := range a.groups {
		if g := s.Groups[name]; g == nil || g.Retention.Forever() {
			delete(a.groups, name)
			changed = append(changed, name)
		}
	}
	due := map[string]*sample{}
	for name, g := range s.Groups {
		if g.Retention.Forever() {
			continue
		}
		old, window := a.groups[name], g.Retention.EveryWrite()
		if n := len(old); n > 0 && now-old[n-1].At < max(window/samplesPerWindow, time.Second) {
			continue
		}
		for len(old) > 1 && old[1].At <= now-window {
			old = old[1:]
		}
		due[name] = &sample{At: now, Wall: wall.UTC(), Points: map[change.StreamID]uint64{}}
		a.groups[name] = old
		changed = append(changed, name)
	}
	if len(due) == 0 {
		return changed
	}
	for id, st := range s.Streams {
		if x := due[st.Group]; x != nil {
			x.Points[id] = points[id].LSN
		}
	}
	for name, x := range due {
		a.groups[name] = append(a.groups[name][:len(a.groups[name]):len(a.groups[name])], *x)
	}
	return changed
}

// horizon is what has grown older than its group's window since the horizon that the
// state has; nil where nothing has.
func (a *ages) horizon(now time.Duration, s *state.State) *state.StreamHorizon {
	h := &state.StreamHorizon{Groups: map[string]time.Time{}, Streams: map[change.StreamID]uint64{}}
	for name, samples := range a.groups {
		g := s.Groups[name]
		if g == nil || g.Retention.Forever() {
			continue
		}
		n := sort.Search(len(samples), func(i int) bool { return samples[i].At > now-g.Retention.EveryWrite() })
		if n == 0 {
			continue
		}
		for id, lsn := range samples[n-1].Points {
			if st := s.Streams[id]; st != nil && lsn > st.Horizon {
				h.Streams[id], h.Groups[name] = lsn, samples[n-1].Wall
			}
		}
	}
	if len(h.Streams) == 0 {
		return nil
	}
	return h
}

// noteAges takes samples where they are due. One that a crash loses makes points older
// than they are known to be: they stay longer.
func (j *Journal) noteAges() {
	a := &j.ages
	var changed []string
	j.fsm.read(func(v view) { changed = a.note(a.now(), clock.Now(), v.state(), v.points()) })
	for _, name := range changed {
		err := j.db.Delete(ageKey(name), pebble.NoSync)
		if s, ok := a.groups[name]; ok {
			err = j.db.Set(ageKey(name), mustJSON(s), pebble.NoSync)
		}
		if err != nil {
			j.opts.Logger.Warn("how old points are is not noted", "group", name, "err", err)
		}
	}
}

// moveHorizon puts the horizons of the groups into the log: garbage collection deletes
// only what lies before them.
func (j *Journal) moveHorizon() {
	var h *state.StreamHorizon
	j.fsm.read(func(v view) { h = j.ages.horizon(j.ages.now(), v.state()) })
	if h == nil {
		return
	}
	if _, err := j.Propose(state.KindStreamHorizon, h); err != nil {
		j.opts.Logger.Warn("the horizon was not moved", "err", err)
	}
}
