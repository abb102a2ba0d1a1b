package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/term"

	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// Progress says how far something is: on a terminal in one line that fits, is written
// over and is gone at the end; elsewhere, for logs, in a line now and then.
type Progress struct {
	w     io.Writer
	what  string
	write func(int64) string // how a figure is written
	after time.Duration      // what takes no longer than this says nothing
	width func() int         // of the terminal; nil where there is none

	mu    sync.Mutex
	start time.Time
	last  time.Time
	shown bool
}

const (
	progressEvery = 200 * time.Millisecond // on a terminal
	progressLines = 10 * time.Second       // elsewhere
	// readingAfter is when the reading of a log is worth a word.
	readingAfter = 2 * time.Second
)

// Stages shows how far each part of a long work is, as those take it that do it in parts.
func Stages(w io.Writer) func(what string) (twin.Progress, func()) {
	return func(what string) (twin.Progress, func()) {
		bar := NewProgress(w, what)
		return bar.Update, bar.End
	}
}

// NewProgress is of bytes.
func NewProgress(w io.Writer, what string) *Progress {
	now := clock.Now()
	p := &Progress{w: w, what: what, write: text.Bytes, start: now, last: now}
	if f := terminalOf(w); f != nil {
		p.w = f // the line is all our own text, with control sequences
		p.width = func() int {
			n, _, err := term.GetSize(int(f.Fd()))
			if err != nil || n <= 0 {
				return 80
			}
			return n
		}
		p.last = time.Time{}
	}
	return p
}

// newCount is of things that are counted, and says nothing of what is quick.
func newCount(w io.Writer, what string) *Progress {
	p := NewProgress(w, what)
	p.write, p.after = func(n int64) string { return fmt.Sprint(n) }, readingAfter
	return p
}

// terminalOf is the terminal behind a writer, nil where there is none.
func terminalOf(w io.Writer) *os.File {
	f, _ := w.(*os.File)
	if t, ok := w.(*Terminal); ok {
		f = t.file
	}
	if f == nil || !isTerminal(f) {
		return nil
	}
	return f
}

// Update may be called by several at once. A total of 0 is not known.
func (p *Progress) Update(done, total int64) { p.tell(clock.Now(), done, total) }

// tell is Update at a time.
func (p *Progress) tell(now time.Time, done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.say(now, done, total)
}

// begin makes a time the one from which on it goes.
func (p *Progress) begin(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.start = now
}

func (p *Progress) say(now time.Time, done, total int64) {
	every := progressLines
	if p.width != nil {
		every = progressEvery
	}
	if now.Sub(p.start) < p.after || now.Sub(p.last) < every {
		return
	}
	p.last = now
	line := p.line(now.Sub(p.start), done, total)
	if p.width == nil {
		fmt.Fprintf(p.w, "pollux: %s\n", line)
		return
	}
	p.shown = true
	fmt.Fprintf(p.w, "\r%s\x1b[K", fitLine(line, p.width(), done, total))
}

// line is how far it is in words.
func (p *Progress) line(took time.Duration, done, total int64) string {
	rate := float64(done) / max(took.Seconds(), 0.001)
	if total <= 0 {
		return fmt.Sprintf("%s: %s, %s/s", p.what, p.write(done), p.write(int64(rate)))
	}
	eta := "?"
	if done > 0 {
		eta = (time.Duration(float64(total-done) / max(rate, 1e-9) * 1e9)).Round(time.Second).String()
	}
	return fmt.Sprintf("%s: %d%%, %s of %s, %s/s, ETA %s", p.what, done*100/total, p.write(done), p.write(total),
		p.write(int64(rate)), eta)
}

// fitLine puts a bar behind a line where there is room for one, and never fills the last
// column: some terminals go to the next line then.
func fitLine(line string, width int, done, total int64) string {
	const least, most = 8, 30
	room := width - 1
	if len(line) > room {
		return line[:max(room, 0)]
	}
	n := min(room-len(line)-len(" []"), most)
	if n < least || total <= 0 {
		return line
	}
	full := int(min(done, total) * int64(n) / total)
	return line + " [" + strings.Repeat("=", full) + strings.Repeat(" ", n-full) + "]"
}

// End takes the line away.
func (p *Progress) End() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.shown = false
	}
}

// Reading is the progress of a log, which is read when it is opened, and again, part by
// part, where a point asks for what is older than its newest catalog. Between them the line
// is gone, for what the verb prints then.
type Reading struct {
	*Progress
	mu    sync.Mutex
	base  int64     // what was read before the present reading
	done  int64     // of all
	ended time.Time // of the last reading, zero while there is one
}

// NewReading is of the log that a verb opens.
func NewReading(w io.Writer) *Reading {
	return &Reading{Progress: newCount(w, "reading the log, objects")}
}

// readingPause between two readings makes them two; others are one that goes on.
const readingPause = time.Second

// Update is a twin.Progress.
func (r *Reading) Update(done, total int64) { r.at(clock.Now(), done, total) }

func (r *Reading) at(now time.Time, done, total int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	again := done < r.done // it is opened anew
	if again || !r.ended.IsZero() && now.Sub(r.ended) > readingPause {
		r.begin(now)
		if r.base = r.done; again {
			r.base = 0
		}
	}
	r.done, r.ended = done, time.Time{}
	if done < total {
		r.tell(now, done-r.base, total-r.base)
		return
	}
	r.ended = now
	r.End()
}

// countedStore tells of the requests to a store, for verbs that do not know how many they
// will be.
type countedStore struct {
	objstore.Store
	requests atomic.Int64
	bar      *Progress
}

// Counted returns s, and what ends its line.
func Counted(s objstore.Store, w io.Writer, what string) (objstore.Store, func()) {
	c := &countedStore{Store: s, bar: newCount(w, what+", requests to the store")}
	return c, c.bar.End
}

func (c *countedStore) count() { c.bar.Update(c.requests.Add(1), 0) }

// Read implements objstore.Store.
func (c *countedStore) Read(ctx context.Context, name string, off, n int64, buf []byte) ([]byte, error) {
	defer c.count()
	return c.Store.Read(ctx, name, off, n, buf)
}

// Create implements objstore.Store.
func (c *countedStore) Create(ctx context.Context, name string, body []byte) error {
	defer c.count()
	return c.Store.Create(ctx, name, body)
}

// Delete implements objstore.Store.
func (c *countedStore) Delete(ctx context.Context, name string) error {
	defer c.count()
	return c.Store.Delete(ctx, name)
}

// Size implements objstore.Store.
func (c *countedStore) Size(ctx context.Context, name string) (int64, error) {
	defer c.count()
	return c.Store.Size(ctx, name)
}

// Extend implements objstore.Store.
func (c *countedStore) Extend(ctx context.Context, name string, l objstore.Lock) error {
	defer c.count()
	return c.Store.Extend(ctx, name, l)
}
