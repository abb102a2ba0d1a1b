package quantity

import (
	"strings"
	"testing"
	"time"
)

func TestParseBytes(t *testing.T) {
	for in, want := range map[string]Bytes{"0": 0, "64KiB": 64 << 10, "8GiB": 8 << 30, "2T": 2 << 40,
		"10 MiB": 10 << 20, "512B": 512,
		"0GiB": 0, "1048576": 1 << 20, "1073741824": 1 << 30, "8388607TiB": 8388607 << 40} {
		if got, err := ParseBytes(in); err != nil || got != want {
			t.Errorf("ParseBytes(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for in, says := range map[string]string{"": "not a size", "x": "not a size", "-1": "not a size",
		"1.5GiB": "not a size", "9999999999TiB": "too large",
		"99999999999999999999": "too large", "10": "write 10MiB or 10GiB", "50": "50B for bytes",
		"4096": "without a unit", "1048575": "without a unit",
		"12parsecs": "not a size", "10GB": "write GiB", "10gib": "not a size", "MiB": "not a size"} {
		if got, err := ParseBytes(in); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("ParseBytes(%q) = %v, %v; want an error with %q", in, got, err, says)
		}
	}
	for n, want := range map[Bytes]string{0: "0", 64 << 20: "64MiB", 513: "513B", 3 << 40: "3TiB", 1 << 50: "1024TiB"} {
		s := n.String()
		if got, err := ParseBytes(s); s != want || err != nil || got != n {
			t.Errorf("%d is written %s (want %s), and read as %d, %v", int64(n), s, want, int64(got), err)
		}
	}
}

func TestCheckVolume(t *testing.T) {
	for n, says := range map[int64]string{1 << 20: "", 1<<20 + 512: "", 1 << 40: "", 0: "less than",
		10: "10B is less than the minimum of a volume, 256KiB",
		-1: "less than", 1<<20 + 1: "1MiB or 1049088B"} {
		if err := CheckVolume(n); (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%d: %v; want %q", n, err, says)
		}
	}
}

func TestParseDuration(t *testing.T) {
	const h = time.Hour
	for in, want := range map[string]time.Duration{"90s": 90 * time.Second, "7d": 168 * h, "2w": 336 * h,
		"1y": 8760 * h, "1h30m": 90 * time.Minute, "0s": 0, "0": 0,
		"100y": MaxDuration, "1d2h": 26 * h, "1w2d3h4m5.5s": 219*h + 4*time.Minute + 5500*time.Millisecond,
		"1.5d": 36 * h, "1.5h": 90 * time.Minute, "100ms": 100 * time.Millisecond, "1d30m": 24*h + 30*time.Minute} {
		if got, err := ParseDuration(in); err != nil || time.Duration(got) != want {
			t.Errorf("%q: %v, %v; want %v", in, got, err, want)
		}
	}
	for in, says := range map[string]string{"101y": "hundred", "65535y": "hundred", "99999999999999y": "hundred",
		"-1d": "", "-1h": "below zero", "": "not a duration", "d": "not a duration",
		"7": "without a unit", "1.5": "without a unit", "2000000h": "hundred", "1h1d": "not a duration",
		"1d1d": "not a duration", "5lightyears": "not a duration", "+5s": "not a duration", "99y100y": ""} {
		if got, err := ParseDuration(in); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, %v; want an error with %q", in, got, err, says)
		}
	}
	for d, want := range map[time.Duration]string{0: "0", 24 * h: "1d", 30 * 24 * h: "30d", h: "1h",
		90 * time.Minute: "1h30m", 10 * time.Second: "10s",
		10 * time.Minute: "10m", 25 * h: "25h", 2 * time.Millisecond: "2ms", 3605 * time.Second: "1h0m5s"} {
		s := Duration(d).String()
		if got, err := ParseDuration(s); s != want || err != nil || time.Duration(got) != d {
			t.Errorf("%v is written %s (want %s), and read as %v, %v", d, s, want, got, err)
		}
	}
}

func TestParseTime(t *testing.T) {
	zone := time.FixedZone("here", 3600)
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	at := func(h, m, s int) time.Time { return time.Date(2026, 11, 28, h, m, s, 0, time.UTC) }
	for in, want := range map[string]struct {
		t       time.Time
		assumed bool
	}{
		"2026-11-28 13:32":                    {at(12, 32, 0), true},
		"2026-11-28 13:32:07":                 {at(12, 32, 7), true},
		"2026-11-28T13:32":                    {at(12, 32, 0), true},
		"2026-11-28 13:32Z":                   {at(13, 32, 0), false},
		"2026-11-28 13:32 UTC":                {at(13, 32, 0), false},
		"2026-11-28T13:32:07Z":                {at(13, 32, 7), false},
		"2026-11-28T13:32:07.5+02:00":         {at(11, 32, 7).Add(500 * time.Millisecond), false},
		"2026-11-28 13:32:07+02:00":           {at(11, 32, 7), false},
		"2026-11-28T13:32:07.123456789+00:00": {at(13, 32, 7).Add(123456789), false},
		"-10m":                                {at(11, 50, 0), false},
		"-1d":                                 {now.Add(-24 * time.Hour), false},
		"-0s":                                 {now, false},
	} {
		got, assumed, err := ParseTime(in, now, zone)
		if err != nil || !got.Equal(want.t) || assumed != want.assumed {
			t.Errorf("%q: %v, %v, %v; want %v", in, got.UTC(), assumed, err, want)
		}
	}
	for in, says := range map[string]string{"2026-11-28": "write 2026-11-28 13:32", "2026-13-45": "not a time",
		"2026-11-31 10:00": "out of range", "2026-11-28 25:00": "out of range",
		"13:32": "not a time", "-5lightyears": "-10m", "-5": "-10m", "--5m": "-10m", "5pm": "not a time",
		"": "not a time", "2026-11-28 13:32 CET": "not a time"} {
		if got, _, err := ParseTime(in, now, zone); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, %v; want an error with %q", in, got, err, says)
		}
	}
}
