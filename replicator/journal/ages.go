package journal

import (
	"encoding/json"
	"log/slog"
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
	fsm    *fsm
	db     *pebble.DB
	log    *slog.Logger
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

// load reads what earlier runs have noted.
func (a *ages) load() error {
	a.groups = map[string][]sample{}
	before := time.Duration(0)
	err := scan(a.db, ageKey(""), func(k, v []byte) error {
		var s []sample
		if err := json.Unmarshal(v, &s); err != nil {
			return fail.Wrap(fail.Damaged, "load", "ages of group "+string(k), err)
		}
		if n := len(s); n > 0 {
			a.groups[string(k)], before = s, max(before, s[n-1].At)
		}
		return nil
	})
	a.base = before - time.Duration(clock.SinceStart())
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

// sample takes samples where they are due. One that a crash loses makes points older
// than they are known to be: they stay longer.
func (a *ages) sample() {
	var changed []string
	a.fsm.read(func(v view) { changed = a.note(a.now(), clock.Now(), v.state(), v.points()) })
	for _, name := range changed {
		err := a.db.Delete(ageKey(name), pebble.NoSync)
		if s, ok := a.groups[name]; ok {
			err = a.db.Set(ageKey(name), mustJSON(s), pebble.NoSync)
		}
		if err != nil {
			a.log.Warn("how old points are is not noted", "group", name, "err", err)
		}
	}
}

// expired is the horizon that is due now, nil where none is.
func (a *ages) expired() (h *state.StreamHorizon) {
	a.fsm.read(func(v view) { h = a.horizon(a.now(), v.state()) })
	return h
}
