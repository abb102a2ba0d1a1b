package listen

import (
	"context"
	"io"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// Of lines with the same message, as many as linesPer go out in one window.
const (
	linesPer = 20
	window   = 10 * time.Second
)

// Sparse returns a logger whose lines with the same message are few, however often
// something happens: for what a client can bring about. The line after those that were
// left out says how many they were.
func Sparse(l *slog.Logger) *slog.Logger {
	if _, ok := l.Handler().(*sparse); ok {
		return l
	}
	return slog.New(&sparse{l.Handler(), &lines{said: map[string]*said{}}})
}

type sparse struct {
	slog.Handler
	lines *lines // shared with all loggers that were made of it
}

type lines struct {
	mu   sync.Mutex
	said map[string]*said // by message, of which a program has so many
}

type said struct {
	since   time.Time
	n       int
	leftOut int
}

func (s *sparse) Handle(ctx context.Context, r slog.Record) error {
	pass, leftOut := s.lines.pass(r.Message, r.Time)
	if !pass {
		return nil
	}
	if leftOut > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("left_out", leftOut))
	}
	return s.Handler.Handle(ctx, r)
}

func (l *lines) pass(message string, now time.Time) (pass bool, leftOut int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.said[message]
	if m == nil {
		m = &said{since: now}
		l.said[message] = m
	}
	if now.Sub(m.since) >= window {
		leftOut = m.leftOut
		*m = said{since: now}
	}
	if m.n++; m.n > linesPer {
		m.leftOut++
		return false, 0
	}
	return true, leftOut
}

func (s *sparse) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &sparse{s.Handler.WithAttrs(attrs), s.lines}
}

func (s *sparse) WithGroup(name string) slog.Handler {
	return &sparse{s.Handler.WithGroup(name), s.lines}
}

// Lines is l for a library that writes lines of text: each becomes a record of the same
// message.
func Lines(l *slog.Logger, message string) *log.Logger { return log.New(textLines{l, message}, "", 0) }

type textLines struct {
	log     *slog.Logger
	message string
}

var _ io.Writer = textLines{}

func (t textLines) Write(b []byte) (int, error) {
	t.log.Info(t.message, "text", strings.TrimSpace(string(b)))
	return len(b), nil
}
