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
	if got, want := out.String(), "pollux: restoring: 20%, 100.0 MiB of 500.0 MiB, 10.0 MiB/s, ETA 40s\n"+
		"pollux: restoring: 40%, 200.0 MiB of 500.0 MiB, 10.0 MiB/s, ETA 30s\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	out.Reset()
	q := newCount(&out, "reading the log")
	q.width = func() int { return 80 }
	for i := range int64(30) { // 3 s
		q.say(q.start.Add(time.Duration(i)*100*time.Millisecond), i, 60)
	}
	if got := out.String(); strings.Contains(got, " 19 of 60") ||
		!strings.Contains(got, "reading the log: 33%, 20 of 60, 10/s, ETA 4s") {
		t.Errorf("%q", got)
	}
}

// TestReadingAgain: a log that is read again for an older point says so after two seconds of
// that reading, and its line is gone when it has been read.
func TestReadingAgain(t *testing.T) {
	var out bytes.Buffer
	r := NewReading(&out)
	r.width = func() int { return 80 }
	now := r.start
	read := func(from, to, total int64) (at string) {
		for done := from + 1; done <= to; done++ {
			now = now.Add(100 * time.Millisecond)
			r.at(now, done, total)
		}
		at = out.String()
		out.Reset()
		return at
	}
	if got := read(0, 10, 10); got != "" {
		t.Errorf("opening it was quick: %q", got)
	}
	now = now.Add(time.Hour)
	got := read(10, 50, 50)
	if strings.Contains(got, " 19 of 40") ||
		!strings.Contains(got, "reading the log, objects: 52%, 21 of 40, 10/s, ETA 2s") ||
		!strings.HasSuffix(got, "\r\x1b[K") || strings.HasSuffix(got, "\x1b[K\r\x1b[K\r\x1b[K") {
		t.Errorf("an older part: %q", got)
	}
	if got := read(50, 60, 70); !strings.Contains(got, "of 60") { // the same reading goes on
		t.Errorf("the next part: %q", got)
	}
	if got := read(0, 30, 60); !strings.Contains(got, " of 60") || strings.Contains(got, " 19 of") {
		t.Errorf("opened anew: %q", got)
	}
}
