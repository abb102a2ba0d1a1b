package text

import (
	"testing"
	"time"
)

func TestParseSpan(t *testing.T) {
	for s, want := range map[string]time.Duration{"90s": 90 * time.Second, "7d": 168 * time.Hour, "2w": 336 * time.Hour, "1y": 8760 * time.Hour, "1h30m": 90 * time.Minute,
		"0s": 0, "100y": MaxSpan, "101y": -1, "65535y": -1, "70000y": -1, "-1d": -1, "-1h": -1, "": -1, "d": -1, "7": -1, "1d2h": -1, "2000000h": -1} {
		got, err := ParseSpan(s)
		if want < 0 && err == nil || want >= 0 && (err != nil || got != want) {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
}
