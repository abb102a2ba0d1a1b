package main

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/fail"
)

// waitingAgent answers what group wait asks; the other verbs are not asked for.
type waitingAgent struct {
	api.Service
	status   api.Status
	progress api.GroupProgress
}

func (a waitingAgent) Status(context.Context, struct{}) (api.Status, error) { return a.status, nil }

func (a waitingAgent) GroupWait(context.Context, api.GroupWait) (api.GroupProgress, error) {
	return a.progress, nil
}

// serveAgent serves an agent's verbs at a socket.
func serveAgent(t *testing.T, s api.Service) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	h := api.Handler(s, nil)
	if m, ok := s.(api.Members); ok {
		api.AddMembers(h, m)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Second}
	done := make(chan struct{})
	go func() { _ = srv.Serve(l); close(done) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return socket
}

// runRoot runs a command line, and returns all that it prints.
func runRoot(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&out)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

// TestGroupWaitSaysNothingThatReadsAsSafe: an LSN of 0 is durable wherever nothing is.
func TestGroupWaitSaysNothingThatReadsAsSafe(t *testing.T) {
	now := time.Now()
	answered, never := api.TargetStatus{Name: "t", LastSuccess: &now}, api.TargetStatus{Name: "t", Error: "no route"}
	for name, c := range map[string]struct {
		state, reason string
		target        api.TargetStatus
		lsn           uint64
		exit          int
		says, hides   string
	}{
		"all is durable":      {"Replicating", "", answered, 7, 0, "durable up to LSN 7", "nothing"},
		"nothing was written": {"Replicating", "", answered, 0, 0, "nothing was written yet", "LSN"},
		"fenced": {"Fenced", "it belongs to journal x", answered, 0,
			fail.ExitCode(fail.New(fail.Fenced, "", "", "")), "it belongs to journal x", "durable"},
		"fenced after writes": {"Fenced", "taken over", answered, 7, fail.ExitCode(fail.New(fail.Fenced, "", "", "")),
			"taken over", "durable"},
		"faulted": {"Faulted", "the disk is gone", answered, 0,
			fail.ExitCode(fail.New(fail.Refused, "", "", "")), "the disk is gone", "durable"},
		"unprotected": {"Unprotected", "why", answered, 0,
			fail.ExitCode(fail.New(fail.Refused, "", "", "")), "why", "durable"},
		"suspended": {"Suspended", "the log is lost", answered, 0,
			fail.ExitCode(fail.New(fail.Refused, "", "", "")), "the log is lost", "durable"},
		"suspended since": {"Suspended", "the log is lost", answered, 7, 0, "durable up to LSN 7", "nothing"},
		"never answered": {"Replicating", "", never, 0,
			fail.ExitCode(fail.New(fail.Retry, "", "", "")), "no route", "durable"},
		"not answered yet": {"Replicating", "", api.TargetStatus{Name: "t"}, 0,
			fail.ExitCode(fail.New(fail.Retry, "", "", "")), "has not answered", "durable"},
		"an optional one": {"Replicating", "", api.TargetStatus{Name: "t", Optional: true, Error: "x"}, 0, 0,
			"nothing was written yet", "LSN"},
		"durable before it":    {"Replicating", "", never, 7, 0, "durable up to LSN 7", "nothing"},
		"lagging, but not now": {"Lagging", "slow", answered, 7, 0, "durable up to LSN 7", "nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			socket := serveAgent(t, waitingAgent{status: api.Status{Targets: []api.TargetStatus{c.target},
				Groups: []api.GroupStatus{{Name: "other", State: "Fenced"},
					{Name: "g", State: c.state, Reason: c.reason}}},
				progress: api.GroupProgress{Group: "g", LastLSN: c.lsn, DurableLSN: c.lsn}})
			out, err := runRoot(t, "group", "wait", "g", "--timeout", "200ms", "--socket", socket)
			if err != nil {
				out += err.Error()
			}
			if fail.ExitCode(err) != c.exit || !strings.Contains(out, c.says) || strings.Contains(out, c.hides) {
				t.Errorf("exit status %d, %q", fail.ExitCode(err), out)
			}
		})
	}
}
