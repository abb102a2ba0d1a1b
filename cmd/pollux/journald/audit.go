package journald

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"

	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/control"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/pki"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/state"
)

// Auditor records verbs in the journal, and finds them there.
type Auditor struct {
	Host    string
	Log     *slog.Logger
	Journal interface {
		View(func(*state.State))
		Submit(kind state.Kind, v any) error
	}
}

// What an entry may take: who it was, the text of an error, the request.
const (
	maxWho     = 200
	maxOutcome = 1000
	maxRequest = 4 << 10
)

// Record is a control.Audit. A journal that cannot be reached gets no entry: the
// verb could not change it either, and the host's own log has it.
func (a Auditor) Record(_ context.Context, who pki.Peer, verb string, req json.RawMessage, err error) {
	e := state.Audit{Time: clock.Now().UTC(), Who: who.String(), Host: a.Host, Verb: verb, Request: req, Outcome: "ok"}
	if who == pki.Local {
		var by struct {
			By string `json:"by"`
		}
		_ = json.Unmarshal(req, &by) // every such request has it, or it stays empty
		e.Who = "user " + cmp.Or(text.ShortLine(by.By, maxWho), "unknown")
	}
	if err != nil {
		e.Outcome = text.ShortLine(err.Error(), maxOutcome)
	}
	if len(req) > maxRequest {
		e.Request = json.RawMessage(fmt.Sprintf(`"%d bytes"`, len(req)))
	}
	a.Log.Info("verb", "verb", verb, "who", e.Who, "outcome", e.Outcome)
	if j, ok := a.Journal.(interface{ Err() error }); fail.Is(err, fail.Retry) && (!ok || j.Err() != nil) {
		return // the journal could not be reached: it will not be now
	}
	if err := a.Journal.Submit(state.KindAudit, e); err != nil {
		a.Log.Warn("a verb is not in the journal's audit", "verb", verb, "who", e.Who, "err", err)
	}
}

// AuditList lists the newest entries, oldest first.
func (a Auditor) AuditList(_ context.Context, r control.AuditQuery) ([]control.AuditEntry, error) {
	out := []control.AuditEntry{}
	a.Journal.View(func(s *state.State) {
		for _, e := range s.Audits {
			out = append(out, control.AuditEntry(*e))
		}
	})
	slices.SortFunc(out, func(x, y control.AuditEntry) int { return cmp.Compare(x.Number, y.Number) })
	if r.Last > 0 && r.Last < len(out) {
		out = out[len(out)-r.Last:]
	}
	return out, nil
}
