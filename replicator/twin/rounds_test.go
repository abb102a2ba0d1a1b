package twin

import (
	"context"
	"testing"

	"github.com/pollux-dr/pollux/replicator/logtest"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
)

// long is a log of n objects behind its fence, each with a command and a frame.
func long(t *testing.T, n int) *history {
	h := begun(t)
	h.control(streamA)
	for i := range n {
		if i > 0 {
			h.command(state.KindGroupPut, state.Group{Name: "g"})
		}
		h.frame(streamA, fill(2, int64(i%100)*512, 512, byte(i+1)))
		h.segment()
	}
	return h
}

// TestOpenRounds: a log is opened with one request for each of its objects, as many of
// them at a time as there are connections.
func TestOpenRounds(t *testing.T) {
	const objects = 192
	h := long(t, objects)
	requests, rounds := logtest.Cost(t, h.store, func(ctx context.Context, s objstore.Store) {
		l, err := Open(ctx, s, nil)
		if err != nil || l.Damage != nil || l.End != objects+2 {
			t.Errorf("%v, %+v", err, l)
		}
	})
	// The catalogs' list; the log's list, and beside it the identity; then a request for each
	// other object.
	if wantRequests, wantRounds := int64(2+1+1+objects),
		int64(2+(1+objects+readers-1)/readers); requests > wantRequests || rounds > wantRounds {
		t.Errorf("%d requests in %d rounds, %d in %d would do", requests, rounds, wantRequests, wantRounds)
	}
}

// TestVerifyRounds: the footers that are examined are asked for as they are.
func TestVerifyRounds(t *testing.T) {
	const objects = 192
	h := long(t, objects)
	requests, rounds := logtest.Cost(t, h.store, func(ctx context.Context, s objstore.Store) {
		if _, found, err := survey(ctx, s); err != nil || len(found) != objects+2 {
			t.Errorf("%v, %d objects", err, len(found))
		}
	})
	if wantRequests, wantRounds := int64(2+2+objects),
		int64(2+(2+objects+readers-1)/readers); requests > wantRequests || rounds > wantRounds {
		t.Errorf("%d requests in %d rounds, %d in %d would do", requests, rounds, wantRequests, wantRounds)
	}
}
