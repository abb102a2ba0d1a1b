package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// TestProgressFits: whatever the terminal's width and the figures, a line fits, replaces
// the one before it entirely, and is gone at the end.
func TestProgressFits(t *testing.T) {
	for _, width := range []int{1, 10, 40, 79, 80, 120, 300} {
		var out bytes.Buffer
		p := NewProgress(&out, "restoring")
		p.width = func() int { return width }
		now := p.start
		for _, done := range []int64{0, 1, 999 << 30, 1 << 50} {
			now = now.Add(time.Second)
			p.say(now, done, 1<<50)
		}
		p.End()
		lines := strings.Split(out.String(), "\r")[1:]
		for _, l := range lines {
			text, whole := strings.CutSuffix(l, "\x1b[K")
			if !whole || len(text) > width-1 {
				t.Errorf("width %d: %q has %d columns", width, l, len(text))
			}
		}
		if last := lines[len(lines)-1]; last != "\x1b[K" || strings.Contains(out.String(), "\n") {
			t.Errorf("width %d: ends with %q", width, last)
		}
	}
}

// TestProgressInLog: off a terminal there is a line now and then, and none of what is quick.
func TestProgressInLog(t *testing.T) {
	var out bytes.Buffer
	p := NewProgress(&out, "restoring")
	for i := range int64(250) { // 25 s
		p.say(p.start.Add(time.Duration(i)*100*time.Millisecond), i<<20, 500<<20)
	}
	p.End()
	if got, want := out.String(), "pollux: restoring: 20%, 100.0 MiB of 500.0 MiB, 10.0 MiB/s, ETA 40s\npollux: restoring: 40%, 200.0 MiB of 500.0 MiB, 10.0 MiB/s, ETA 30s\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	out.Reset()
	q := NewCount(&out, "reading the log")
	q.width = func() int { return 80 }
	for i := range int64(30) { // 3 s
		q.say(q.start.Add(time.Duration(i)*100*time.Millisecond), i, 60)
	}
	if got := out.String(); strings.Contains(got, " 19 of 60") || !strings.Contains(got, "reading the log: 33%, 20 of 60, 10/s, ETA 4s") {
		t.Errorf("%q", got)
	}
}
