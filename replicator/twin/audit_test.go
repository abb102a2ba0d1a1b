package twin

import (
	"fmt"
	"testing"

	"github.com/pollux-dr/pollux/replicator/state"
)

// TestAudits: the log has all entries, though the state keeps the newest only.
func TestAudits(t *testing.T) {
	h := begun(t)
	h.control(streamA)
	const n = state.KeptAudits + 300
	for i := range n {
		h.command(state.KindAudit, state.Audit{Who: "operator/kim", Verb: fmt.Sprint("verb", i), Outcome: "ok"})
		if i%100 == 0 {
			h.frame(streamA, fill(2, 0, 512, byte(i)))
			h.segment()
		}
	}
	h.segment()
	l := h.mustOpen()
	all, err := l.Audits(t.Context())
	if err != nil || len(all) != n {
		t.Fatalf("%d entries of %d, %v", len(all), n, err)
	}
	for i, a := range all {
		if a.Number != uint64(i+1) || a.Verb != fmt.Sprint("verb", i) {
			t.Fatalf("entry %d is %+v", i, a)
		}
	}
}
