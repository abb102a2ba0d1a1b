package verbs

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/clock"
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
		Err() error
	}

	mu      sync.Mutex
	refused map[string]*refusals // by who was refused
}

// refusals count what one caller was refused because of its role, since the last refusal that
// became an entry.
type refusals struct {
	noted time.Time
	since int
}

const (
	// refusalsEvery is how often the refusals of one caller become an entry. More of them
	// would push changes out of what the journal keeps, and fill its log.
	refusalsEvery = 10 * time.Minute
	maxRefused    = 1024 // callers that are remembered
)

// worthNoting reports whether a refusal becomes an entry, and how many before it did not.
func (a *Auditor) worthNoting(who string, now time.Time) (before int, yes bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.refused[who]
	if r != nil && now.Sub(r.noted) < refusalsEvery && !now.Before(r.noted) {
		r.since++
		return 0, false
	}
	if r == nil {
		if a.refused == nil || len(a.refused) >= maxRefused {
			a.refused = map[string]*refusals{}
		}
		r = &refusals{}
		a.refused[who] = r
	}
	before, r.noted, r.since = r.since, now, 0
	return before, true
}

// What an entry may take: who it was, the text of an error, the request.
const (
	maxWho     = 200
	maxOutcome = 1000
	maxRequest = 4 << 10
)

// Record is an api.Audit. A journal that cannot be reached gets no entry: the
// verb could not change it either, and the host's own log has it.
func (a *Auditor) Record(_ context.Context, who pki.Peer, verb string, req json.RawMessage, err error) {
	e := state.Audit{Time: clock.Now().UTC(), Who: who.String(), Host: a.Host, Verb: verb, Request: req, Outcome: "ok"}
	if who == pki.Local {
		var by struct {
			By string `json:"by"`
		}
		_ = json.Unmarshal(req, &by) // a request that is not an object names nobody
		e.Who = "user " + cmp.Or(text.ShortLine(by.By, maxWho), "unknown")
	}
	if err != nil {
		e.Outcome = text.ShortLine(err.Error(), maxOutcome)
	}
	if req == nil {
		before, yes := a.worthNoting(e.Who, e.Time)
		if !yes {
			a.Log.Debug("refused once more", "verb", verb, "who", e.Who)
			return
		}
		if before > 0 {
			e.Outcome = text.ShortLine(fmt.Sprintf("%s (and %d more since the last entry)", e.Outcome, before),
				maxOutcome)
		}
		e.Request = json.RawMessage("null")
	}
	if len(req) > maxRequest {
		e.Request = json.RawMessage(fmt.Sprintf(`"%d bytes"`, len(req)))
	}
	a.Log.Info("verb", "verb", verb, "who", e.Who, "outcome", e.Outcome)
	if fail.Is(err, fail.Retry) && a.Journal.Err() != nil {
		return // the journal could not be reached: it will not be now
	}
	if err := a.Journal.Submit(state.KindAudit, e); err != nil {
		a.Log.Warn("a verb is not in the journal's audit", "verb", verb, "who", e.Who, "err", err)
	}
}

// AuditList lists the newest entries, oldest first.
func (a *Auditor) AuditList(_ context.Context, r api.AuditQuery) ([]api.AuditEntry, error) {
	out := []api.AuditEntry{}
	a.Journal.View(func(s *state.State) {
		for _, e := range s.Audits {
			out = append(out, api.AuditEntry(*e))
		}
	})
	slices.SortFunc(out, func(x, y api.AuditEntry) int { return cmp.Compare(x.Number, y.Number) })
	if r.Last > 0 && r.Last < len(out) {
		out = out[len(out)-r.Last:]
	}
	return out, nil
}
