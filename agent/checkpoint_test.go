package agent

import (
	"bytes"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestCheckpointFailureIsToldNowAndThen: a checkpoint on a full disk is tried many times a
// second; the status knows of each, and the log has a line a minute.
func TestCheckpointFailureIsToldNowAndThen(t *testing.T) {
	var log bytes.Buffer
	s := &stream{a: &Agent{opts: Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}}}
	for range 100 {
		s.noteCheckpoint(syscall.ENOSPC)
	}
	if n := strings.Count(log.String(), "no space left"); n != 1 || s.ckpt.err != syscall.ENOSPC {
		t.Errorf("%d lines, the status has %v", n, s.ckpt.err)
	}
	if s.noteCheckpoint(nil); s.ckpt.err != nil {
		t.Errorf("the status still has %v", s.ckpt.err)
	}
	var told lastTold
	now := time.Now()
	if !told.due(now) || told.due(now.Add(tellEvery-1)) || !told.due(now.Add(tellEvery)) {
		t.Error("not once in tellEvery")
	}
}
