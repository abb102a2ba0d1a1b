package doctor

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Level is a check's outcome.
type Level string

// The levels, from good to bad.
const (
	OK   Level = "OK"
	Warn Level = "WARN"
	Fail Level = "FAIL"
)

// Result is one check's line.
type Result struct {
	Level   Level          `json:"level"`
	Subject string         `json:"subject"` // "host", or the store's URL
	Check   string         `json:"check"`
	Text    string         `json:"text"`
	Hint    string         `json:"hint,omitempty"`
	Values  map[string]any `json:"values,omitempty"` // what was measured
}

func (r Result) String() string {
	s := fmt.Sprintf("%-4s  %s: %s", r.Level, r.Check, r.Text)
	if r.Hint != "" {
		s += "\n        hint: " + r.Hint
	}
	return s
}

func ok(check, format string, args ...any) Result {
	return Result{Level: OK, Check: check, Text: fmt.Sprintf(format, args...)}
}

func warn(check, hint, format string, args ...any) Result {
	return Result{Level: Warn, Check: check, Hint: hint, Text: fmt.Sprintf(format, args...)}
}

func failed(check, hint, format string, args ...any) Result {
	return Result{Level: Fail, Check: check, Hint: hint, Text: fmt.Sprintf(format, args...)}
}

func (r Result) with(values map[string]any) Result {
	r.Values = values
	return r
}

// Worst returns the worst level.
func Worst(all []Result) Level {
	worst := OK
	for _, r := range all {
		if r.Level == Fail || worst == OK {
			worst = r.Level
		}
	}
	return worst
}

// run makes checks one after another and tells each result at once.
func run(ctx context.Context, subject string, tell func(Result), checks []func(context.Context) Result) []Result {
	var all []Result
	for _, check := range checks {
		if ctx.Err() != nil {
			break
		}
		r := check(ctx)
		r.Subject = subject
		all = append(all, r)
		tell(r)
	}
	return all
}

// quantile returns the q-quantile of some durations.
func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(d))
	return s[min(len(s)-1, int(q*float64(len(s))))]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func latencies(d []time.Duration) map[string]any {
	return map[string]any{"p50_ms": ms(quantile(d, 0.5)), "p99_ms": ms(quantile(d, 0.99)), "count": len(d)}
}

// size prints bytes in the unit that suits them.
func size(n int64) string {
	const step = 1024
	if n < step {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/step, 0
	for v >= step && i < 5 {
		v /= step
		i++
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTPE"[i])
}
