package quantity

import (
	"fmt"
	"strings"
	"time"
)

// Duration is a span of time, written as 500ms, 10s, 5m, 24h, 1h30m or 30d.
type Duration time.Duration

const (
	day = 24 * time.Hour
	// MaxDuration bounds what ParseDuration reads: a hundred years.
	MaxDuration = 100 * 365 * day
)

// long are the units that time.ParseDuration lacks.
var long = []struct {
	suffix string
	span   time.Duration
}{{"y", 365 * day}, {"w", 7 * day}, {"d", day}}

// ParseDuration reads a span of time that is not negative: numbers with a unit each
// (ns, us, ms, s, m, h, d, w, y), the largest first, or 0.
func ParseDuration(s string) (Duration, error) {
	bad := func(why string) (Duration, error) {
		return 0, fmt.Errorf("%q %s: write 500ms, 10s, 5m, 1h30m or 7d", s, why)
	}
	var sum time.Duration
	rest := s
	for _, u := range long {
		number, after, ok := strings.Cut(rest, u.suffix)
		if !ok || number == "" || strings.Trim(number, "0123456789.") != "" {
			continue
		}
		// h has 24 parts of a day, so that decimals come out as time.ParseDuration has them.
		h, err := time.ParseDuration(number + "h")
		if err != nil || h > MaxDuration/(u.span/time.Hour) {
			return bad("is not a duration up to a hundred years")
		}
		sum, rest = sum+h*(u.span/time.Hour), after
	}
	if rest != "" || s == "" {
		d, err := time.ParseDuration(rest)
		switch {
		case err != nil && s != "" && strings.Trim(s, "0123456789.") == "":
			return bad("is a duration without a unit")
		case err != nil || strings.HasPrefix(rest, "+"):
			return bad("is not a duration")
		case d < 0:
			return bad("is below zero")
		}
		sum += d
	}
	if sum > MaxDuration {
		return bad("is more than a hundred years")
	}
	return Duration(sum), nil
}

// String returns the span as ParseDuration reads it: days where they are whole, and
// no parts that are zero.
func (d Duration) String() string {
	switch t := time.Duration(d); {
	case t == 0:
		return "0"
	case t%day == 0:
		return fmt.Sprintf("%dd", t/day)
	default:
		s := t.String()
		if strings.HasSuffix(s, "m0s") {
			s = strings.TrimSuffix(s, "0s")
		}
		if strings.HasSuffix(s, "h0m") {
			s = strings.TrimSuffix(s, "0m")
		}
		return s
	}
}

// UnmarshalYAML reads a span.
func (d *Duration) UnmarshalYAML(text []byte) error { return d.Set(scalar(text)) }

// Set and Type make a Duration a command-line flag.
func (d *Duration) Set(s string) (err error) {
	*d, err = ParseDuration(s)
	return err
}

// Type names the flag's kind in help texts.
func (d *Duration) Type() string { return "duration" }
