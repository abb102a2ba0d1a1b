package state

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/quantity"
)

// Retention is how long a group's recovery points are kept: all of them for
// EveryWrite, then one an hour, then one a day. Bookmarks are kept until they are
// removed. The zero value keeps everything for ever.
type Retention struct {
	EveryWriteSeconds int64 `json:"every_write_seconds,omitempty"`
	HourlySeconds     int64 `json:"hourly_seconds,omitempty"`
	DailySeconds      int64 `json:"daily_seconds,omitempty"`
}

// MinEveryWrite is the shortest window.
const MinEveryWrite = time.Minute

// ParseRetention reads "every_write=24h,hourly=7d,daily=90d", or "forever". Each must
// reach further back than the one before.
func ParseRetention(s string) (r Retention, err error) {
	bad := func(why string) (Retention, error) {
		return Retention{}, fail.New(fail.Invalid, "set", "retention", fmt.Sprintf("%q: %s", s, why)).
			WithHint("write every_write=24h,hourly=7d,daily=90d (units s, m, h, d, w, y; " +
				"hourly and daily may be left out), or forever")
	}
	if s == "forever" {
		return r, nil
	}
	fields := map[string]*int64{"every_write": &r.EveryWriteSeconds, "hourly": &r.HourlySeconds,
		"daily": &r.DailySeconds}
	for part := range strings.SplitSeq(s, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		p := fields[name]
		d, derr := quantity.ParseDuration(value)
		switch {
		case !ok || p == nil:
			return bad(fmt.Sprintf("%q is not one of %s with a value", part,
				strings.Join(slices.Sorted(maps.Keys(fields)), ", ")))
		case derr != nil || time.Duration(d) < MinEveryWrite:
			return bad(fmt.Sprintf("%s=%s is not a time from a minute to a hundred years", name, value))
		case *p != 0:
			return bad(name + " is there twice")
		}
		*p = int64(time.Duration(d) / time.Second)
	}
	switch {
	case r.EveryWriteSeconds == 0:
		return bad("every_write is missing")
	case r.HourlySeconds != 0 && r.HourlySeconds <= r.EveryWriteSeconds,
		r.DailySeconds != 0 && r.DailySeconds <= max(r.EveryWriteSeconds, r.HourlySeconds):
		return bad("each must reach further back than the one before")
	}
	return r, nil
}

// Forever reports whether everything is kept.
func (r *Retention) Forever() bool { return r == nil || r.EveryWriteSeconds == 0 }

// EveryWrite is the window in which every write is a point.
func (r *Retention) EveryWrite() time.Duration {
	return time.Duration(r.EveryWriteSeconds) * time.Second
}

func (r *Retention) String() string {
	if r.Forever() {
		return "forever"
	}
	out := "every_write=" + span(r.EveryWriteSeconds)
	if r.HourlySeconds > 0 {
		out += ",hourly=" + span(r.HourlySeconds)
	}
	if r.DailySeconds > 0 {
		out += ",daily=" + span(r.DailySeconds)
	}
	return out
}

func span(seconds int64) string {
	return quantity.Duration(time.Duration(seconds) * time.Second).String()
}

// Bucket is the hour or day that a point before the horizon stands for, by how old it
// is; of several in one bucket the last is kept. ok is false where none is.
func (r *Retention) Bucket(at, now time.Time) (bucket string, ok bool) {
	switch age := now.Sub(at); {
	case age <= time.Duration(r.HourlySeconds)*time.Second:
		return at.UTC().Format("2006-01-02T15"), true
	case age <= time.Duration(r.DailySeconds)*time.Second:
		return at.UTC().Format("2006-01-02"), true
	}
	return "", false
}

// Horizon is what earlier releases say of groups: before which time not all points are
// kept any more. It depends on clocks, and nothing is deleted because of it any more.
type Horizon struct {
	Groups map[string]time.Time `json:"groups"`
}

func (s *State) moveHorizon(h *Horizon) (changed []string, err error) {
	for name, t := range h.Groups {
		if g := s.Groups[name]; g != nil && t.After(g.Horizon) {
			g.Horizon = t
			changed = append(changed, "group/"+name)
		}
	}
	slices.Sort(changed)
	return changed, nil
}

// StreamHorizon says, for streams, up to which LSN not all points are kept any more, and
// for their groups of what time that is, for people. It is in the log before anything is
// deleted because of it. The journal finds it by the time that has passed since it took
// those LSNs, not by anybody's clock.
type StreamHorizon struct {
	Streams map[change.StreamID]uint64 `json:"streams"`
	Groups  map[string]time.Time       `json:"groups"`
}

func (s *State) moveStreamHorizon(h *StreamHorizon) (changed []string, err error) {
	for id, lsn := range h.Streams {
		if st := s.Streams[id]; st != nil && lsn > st.Horizon {
			st.Horizon = lsn
			changed = append(changed, "stream/"+id.String())
		}
	}
	for name, t := range h.Groups {
		if g := s.Groups[name]; g != nil {
			g.Horizon = t
			changed = append(changed, "group/"+name)
		}
	}
	slices.Sort(changed)
	return changed, nil
}

// beforeHorizon refuses what is to be kept at an LSN that may not be kept any more.
func (s *State) beforeHorizon(what string, id change.StreamID, lsn uint64) error {
	if st := s.Streams[id]; st != nil && lsn <= st.Horizon {
		return fail.New(fail.Refused, "add", what,
			fmt.Sprintf("its point, LSN %d, is older than all points that are kept for sure: "+
				"those behind LSN %d", lsn, st.Horizon))
	}
	return nil
}

// BookmarkRemove ends a bookmark; its point is kept as long as any other.
type BookmarkRemove struct {
	Name  string `json:"name"`
	Group string `json:"group"`
}

func (s *State) removeBookmark(r *BookmarkRemove) (string, error) {
	key := r.Group + "/" + r.Name
	if s.Bookmarks[key] == nil {
		return "", noSuch("bookmark", key)
	}
	delete(s.Bookmarks, key)
	return "bookmark/" + key, nil
}

// check refuses what ParseRetention does not return.
func (r *Retention) check() error {
	if r == nil || *r == (Retention{}) {
		return nil
	}
	const most = int64(quantity.MaxDuration / time.Second)
	switch least := int64(MinEveryWrite / time.Second); {
	case r.EveryWriteSeconds < least || r.EveryWriteSeconds > most,
		r.HourlySeconds != 0 && (r.HourlySeconds <= r.EveryWriteSeconds || r.HourlySeconds > most),
		r.DailySeconds != 0 && (r.DailySeconds <= max(r.EveryWriteSeconds, r.HourlySeconds) || r.DailySeconds > most):
		return fail.New(fail.Invalid, "set", "retention",
			fmt.Sprintf("%+v: each must reach further back than the one before, from a minute to a hundred years", *r))
	}
	return nil
}
