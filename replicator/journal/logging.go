package journal

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"

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

// raftLogger turns Raft's log into slog's: warnings and errors only.
func raftLogger(l *slog.Logger) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Name: "raft", Level: hclog.Warn, DisableTime: true,
		Output: slogWriter{l}})
}

type slogWriter struct{ l *slog.Logger }

var _ io.Writer = slogWriter{}

func (w slogWriter) Write(b []byte) (int, error) {
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
	w.l.Log(context.Background(), level, strings.TrimSpace(text))
	return len(b), nil
}
