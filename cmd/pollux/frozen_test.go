package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// TestFrozenAgent: an agent that is stopped takes connections and answers nothing.
func TestFrozenAgent(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	for _, tc := range []struct {
		args   string
		within time.Duration
		exit   int
		says   string
	}{
		{"status --check", 5 * time.Second, 2, "does not answer"},
		{"group wait g --timeout 1s", 3 * time.Second, 6, ""},
	} {
		t.Run(tc.args, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			root := newRoot()
			root.SetArgs(append(strings.Fields(tc.args), "--socket", socket))
			root.SetOut(&out)
			root.SetErr(&out)
			start := time.Now()
			err := root.ExecuteContext(context.Background())
			if took := time.Since(start); took > tc.within {
				t.Errorf("it took %v", took)
			}
			got := fail.ExitCode(err)
			if code := exitCode(0); errors.As(err, &code) {
				got = int(code)
			}
			if got != tc.exit || !strings.Contains(out.String(), tc.says) {
				t.Errorf("exit status %d, %q, %v", got, out.String(), err)
			}
		})
	}
}
