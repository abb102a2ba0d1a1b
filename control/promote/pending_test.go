package promote

import (
	"os"
	"testing"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/control/failback/record"
	"github.com/pollux-dr/pollux/internal/fail"
)

// TestForceOverFailback: a failback that was cut short, even where all of the former agent's state is put
// aside, is ended first: going on with it would put aside what a failover had made meanwhile.
func TestForceOverFailback(t *testing.T) {
	s := newSites(t)
	s.primary()
	b := s.options(s.conf("host-b", "busan"))
	if err := os.MkdirAll(b.Conf.State, 0o700); err != nil {
		t.Fatal(err)
	}
	rec := record.Record{ID: "b1", Journal: uuid.New(), Epoch: 1, Settled: true, Saved: true, Adopted: true,
		HandedOver: true}
	if err := rec.Save(b.Conf.State); err != nil {
		t.Fatal(err)
	}
	if rep, err := Force(t.Context(), b); !fail.Is(err, fail.Refused) {
		t.Fatalf("over a failback: %+v, %v", rep, err)
	}
	s.wantLog(1, map[int64]byte{0: 'X'})
}
