package journal

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
)

// logBook takes what is logged.
type logBook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// TestOrderlyStop: a member that is told to stop reports no error.
func TestOrderlyStop(t *testing.T) {
	var book logBook
	c := newClusterTest(t, 1, func(o *Options) {
		o.Logger = slog.New(slog.NewTextHandler(&book, &slog.HandlerOptions{Level: slog.LevelError}))
	})
	c.form()
	c.stop(0)
	book.mu.Lock()
	defer book.mu.Unlock()
	for line := range strings.Lines(book.b.String()) {
		t.Error(line)
	}
}
