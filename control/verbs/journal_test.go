package verbs

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/status"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/journal/journalclient"
	"github.com/pollux-dr/pollux/transport"
)

// TestUnheardJournal: of a journal that has not answered yet, nothing is said that only an
// answer could tell. No group is listed, rather than an empty list.
func TestUnheardJournal(t *testing.T) {
	nowhere := func(context.Context, string) (net.Conn, error) { return nil, errors.New("no route") }
	j := Elsewhere(journalclient.New(journalclient.Options{Agent: "a", Logger: slog.New(slog.DiscardHandler),
		Finder: transport.NewFinder([]string{"j:1"}, nowhere)}))
	if j.Synced() || j.Leads() || j.Alone() || j.Err() == nil {
		t.Errorf("synced %v, leads %v, alone %v, %v", j.Synced(), j.Leads(), j.Alone(), j.Err())
	}
	if _, _, known := j.Progress(uuid.New()); known {
		t.Error("it knows how far a stream is")
	}
	c := Common{Journal: j, Own: func(*status.Model) {}}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if list, err := c.GroupList(ctx, api.List{}); !fail.Is(err, fail.Retry) {
		t.Errorf("%v, %v", list, err)
	}
	st, err := c.Status(ctx, struct{}{})
	if err != nil || st.Journal.Error == "" || st.Journal.ID != "" {
		t.Errorf("%+v, %v", st.Journal, err)
	}
}
