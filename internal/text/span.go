package text

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// MaxSpan bounds what ParseSpan reads.
const MaxSpan = 100 * 365 * 24 * time.Hour

var spanUnits = map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour, "y": 365 * 24 * time.Hour}

// ParseSpan reads a time span: what time.ParseDuration reads, and whole days, weeks
// and years (d, w, y), not negative and up to MaxSpan.
func ParseSpan(s string) (time.Duration, error) {
	for unit, d := range spanUnits {
		if digits, ok := strings.CutSuffix(s, unit); ok {
			n, err := strconv.ParseUint(digits, 10, 16) // 65535 years are too long, and no overflow
			if err == nil && n > uint64(MaxSpan/d) {
				err = fmt.Errorf("%s is more than a hundred years", s)
			}
			return time.Duration(n) * d, err
		}
	}
	d, err := time.ParseDuration(s)
	if err == nil && (d < 0 || d > MaxSpan) {
		err = fmt.Errorf("%s is below zero or more than a hundred years", s)
	}
	return d, err
}
