package main

import (
	"fmt"
	"io"
	"time"

	"github.com/pollux-dr/pollux/internal/text"
)

// progress is a bar with rate and ETA on a terminal, and silent elsewhere.
type progress struct {
	w     io.Writer
	what  string
	start time.Time
	last  time.Time
	shown bool
}

func newProgress(w io.Writer, what string) *progress {
	p := &progress{what: what, start: time.Now()}
	if t, ok := w.(*terminal); ok && isTerminal(t.file) {
		p.w = t.file // the bar is all our own text, and begins with a return
	}
	return p
}

func (p *progress) update(done, total int64) {
	now := time.Now()
	if p.w == nil || (now.Sub(p.last) < 200*time.Millisecond && done < total) {
		return
	}
	p.last, p.shown = now, true
	const width = 30
	part := float64(done) / float64(max(total, 1))
	rate := float64(done) / max(now.Sub(p.start).Seconds(), 0.001)
	eta := time.Duration(float64(total-done) / max(rate, 1) * 1e9)
	bar := ""
	for i := range width {
		if float64(i) < part*width {
			bar += "="
		} else {
			bar += " "
		}
	}
	fmt.Fprintf(p.w, "\r%s [%s] %3.0f%%  %s of %s  %s/s  ETA %s   ", p.what, bar, part*100, text.Bytes(done), text.Bytes(total),
		text.Bytes(int64(rate)), eta.Round(time.Second))
}

func (p *progress) end() {
	if p.shown {
		fmt.Fprintln(p.w)
	}
}
