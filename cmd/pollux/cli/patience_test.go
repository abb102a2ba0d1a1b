package cli

import (
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/quantity"
)

// TestStorePolicy: a verb bears with what passes, for a time; a mount with what an
// operator can mend, too, and for ever.
func TestStorePolicy(t *testing.T) {
	var f StoreFlags
	p := f.policy()
	for _, tt := range []struct {
		kind        fail.Kind
		verb, mount bool
	}{{fail.Retry, true, true}, {fail.Denied, false, true}, {fail.Full, false, true}, {fail.NotFound, false, false},
		{fail.Damaged, false, false}} {
		err := fail.New(tt.kind, "", "", "x")
		f.Patient.Store(false)
		if got := p.Retryable(err); got != tt.verb {
			t.Errorf("%v: a verb tries again: %v", tt.kind, got)
		}
		f.Patient.Store(true)
		if got := p.Retryable(err); got != tt.mount {
			t.Errorf("%v: a mount tries again: %v", tt.kind, got)
		}
	}
	if p.Patience(true) >= 0 {
		t.Error("a mount's patience ends")
	}
	f.Patient.Store(false)
	if p.Patience(false) != firstPatience || p.Patience(true) != defaultPatience {
		t.Error("a verb's patience")
	}
	f.Patience = quantity.Duration(time.Hour)
	if p.Patience(false) != time.Hour || p.Patience(true) != time.Hour {
		t.Error("--patience is not what counts")
	}
}
