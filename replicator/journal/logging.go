package journal

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// pebbleLogger passes on what an operator should know.
type pebbleLogger struct{ l *slog.Logger }

func (p pebbleLogger) Infof(format string, args ...any) { p.l.Debug(fmt.Sprintf(format, args...)) }
func (p pebbleLogger) Errorf(format string, args ...any) {
	p.l.Error(fmt.Sprintf(format, args...))
}
func (p pebbleLogger) Fatalf(format string, args ...any) {
	p.l.Error(fmt.Sprintf(format, args...))
	panic(fmt.Sprintf("pebble: "+format, args...)) // it cannot go on, and must not
}

const (
	// troublePause slows Pebble down, which tries a failed flush again at once and
	// for ever.
	troublePause = 20 * time.Millisecond
	troubleEvery = 10 * time.Second
)

// trouble is told of Pebble's failed flushes and compactions. It logs one of many.
type trouble struct {
	log  *slog.Logger
	mu   sync.Mutex
	last time.Time
}

func (t *trouble) note(err error) {
	t.mu.Lock()
	say := time.Since(t.last) > troubleEvery
	if say {
		t.last = time.Now()
	}
	t.mu.Unlock()
	if say {
		t.log.Error("the journal's state cannot be written; it is tried again", "err", err)
	}
	time.Sleep(troublePause)
}

// raftLogger turns Raft's log into slog's: warnings and errors only.
func raftLogger(l *slog.Logger) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Name: "raft", Level: hclog.Warn, DisableTime: true,
		Output: &slogWriter{l: l, last: map[string]time.Time{}}})
}

// slogWriter passes lines on; of those that differ in numbers only, one in a while:
// a member that is away would fill the log.
type slogWriter struct {
	l    *slog.Logger
	mu   sync.Mutex
	last map[string]time.Time
}

var _ io.Writer = (*slogWriter)(nil)

const (
	sameEvery = 30 * time.Second
	maxSame   = 256
)

// again reports whether the same was said a moment ago.
func (w *slogWriter) again(text string) bool {
	key := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, text)
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if now.Sub(w.last[key]) < sameEvery {
		return true
	}
	if len(w.last) >= maxSame {
		clear(w.last)
	}
	w.last[key] = now
	return false
}

func (w *slogWriter) Write(b []byte) (int, error) {
	text := strings.TrimSpace(string(b))
	level := slog.LevelWarn
	if rest, ok := strings.CutPrefix(text, "[ERROR]"); ok {
		text, level = rest, slog.LevelError
	} else if rest, ok := strings.CutPrefix(text, "[WARN]"); ok {
		text = rest
	}
	if strings.Contains(text, "heartbeat timeout reached") { // how a single voter starts
		level = slog.LevelDebug
	}
	if w.again(text) {
		level = slog.LevelDebug
	}
	w.l.Log(context.Background(), level, strings.TrimSpace(text))
	return len(b), nil
}
