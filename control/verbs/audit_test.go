package verbs

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/pki"
	"github.com/pollux-dr/pollux/replicator/state"
)

// fakeState takes what the door of a journal takes.
type fakeState struct {
	t *testing.T
	s *state.State
}

func (fakeState) Err() error { return nil }

func (f fakeState) View(fn func(*state.State)) { fn(f.s) }

func (f fakeState) Submit(kind state.Kind, v any) error {
	_, body, err := state.Open(state.Encode(kind, v))
	if err == nil {
		err = state.Check(kind, body)
	}
	if err == nil {
		_, err = f.s.Apply(kind, body)
	}
	if err != nil {
		f.t.Errorf("the entry is refused: %v", err)
	}
	return err
}

// TestRefusalsDisplaceNothing: a reader's refused calls are one entry with a count, and
// the changes before them stay; texts of others are one printable line.
func TestRefusalsDisplaceNothing(t *testing.T) {
	j := fakeState{t, state.New()}
	a := &Auditor{Host: "host-a", Log: slog.New(slog.DiscardHandler), Journal: j}
	a.Record(context.Background(), pki.Local, "group-put", json.RawMessage(`{"by":"kim\n2026 operator/eve"}`), nil)
	reader := pki.Peer{Role: pki.Reader, Name: "watch"}
	denied := fail.New(fail.Denied, "call", "volume-remove", "reader/watch's role does not let it do that")
	for range 1100 {
		a.Record(context.Background(), reader, "volume-remove", nil, denied)
	}
	a.Record(context.Background(), pki.Local, "volume-remove", json.RawMessage(`{}`),
		fail.New(fail.Refused, "remove", "v", "two\nlines\x1b[2J"))
	list, err := a.AuditList(context.Background(), api.AuditQuery{})
	if err != nil || len(list) != 3 {
		t.Fatalf("%d entries, %v", len(list), err)
	}
	if list[0].Verb != "group-put" || strings.Contains(list[0].Who, "\n") || list[1].Who != "reader/watch" ||
		strings.ContainsAny(list[2].Outcome, "\n\x1b") {
		t.Errorf("%+v", list)
	}
	a.refused["reader/watch"].noted = a.refused["reader/watch"].noted.Add(-refusalsEvery)
	a.Record(context.Background(), reader, "volume-remove", nil, denied)
	list, _ = a.AuditList(context.Background(), api.AuditQuery{Last: 1})
	if !strings.Contains(list[0].Outcome, "1099 more") {
		t.Errorf("%+v", list)
	}
}
