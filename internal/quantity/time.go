package quantity

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// layouts are the forms of a time, those with a zone first.
var layouts = []string{"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05", "2006-01-02T15:04"}

const zoned = 2 // of layouts

const timeForms = "write 2026-11-28 13:32 (in this host's zone), 2026-11-28T13:32:00Z, or -10m for ten minutes ago"

// ParseTime reads a time: a date and a time of day, with a zone or without, or how long
// ago it was, as in -10m. Where the zone is not said it is local, and assumed is true.
func ParseTime(s string, now time.Time, local *time.Location) (t time.Time, assumed bool, err error) {
	if ago, ok := strings.CutPrefix(s, "-"); ok {
		d, err := ParseDuration(ago)
		if err != nil {
			return t, false, fmt.Errorf("%q is not a time ago: write -10m, -1h30m or -7d", s)
		}
		return now.Add(-time.Duration(d)), false, nil
	}
	// A blank stands for the T, and may stand before the zone.
	form := s
	if date, clock, ok := strings.Cut(s, " "); ok {
		clock = strings.TrimSpace(clock)
		if at, zone, ok := strings.Cut(clock, " "); ok && (zone == "UTC" || zone == "Z") {
			clock = at + "Z"
		}
		form = date + "T" + clock
	}
	for i, l := range layouts {
		if t, err = time.ParseInLocation(l, form, local); err == nil {
			return t, i >= zoned, nil
		}
	}
	var bad *time.ParseError
	switch _, derr := time.Parse("2006-01-02", s); {
	case derr == nil:
		err = fmt.Errorf("%q is a day, and a time of it is needed: write %s 13:32", s, s)
	case errors.As(err, &bad) && strings.Contains(bad.Message, "out of range"):
		err = fmt.Errorf("%q is not a time: %s", s, strings.TrimPrefix(bad.Message, ": "))
	default:
		err = fmt.Errorf("%q is not a time: %s", s, timeForms)
	}
	return time.Time{}, false, err
}
