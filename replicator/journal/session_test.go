package journal

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/transport"
)

// TestAttachedComesFirst attaches streams while others move. What an agent hears of
// a stream before its Attached goes nowhere: were that the last there is to say, the
// agent would never know that its writes are durable.
func TestAttachedComesFirst(t *testing.T) {
	fs := vfs.NewMem()
	if err := fs.MkdirAll("/j", 0o700); err != nil {
		t.Fatal(err)
	}
	j, err := openTest(fs)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	g := state.Group{Name: "g", Ack: "local", Overflow: "throttle", PITR: state.PITRFold, Owner: "a"}
	if _, err := j.Propose(state.KindGroupPut, g); err != nil {
		t.Fatal(err)
	}
	id := change.StreamID(uuid.New())
	if _, err := j.Propose(state.KindStreamCreate, state.Stream{ID: id, Group: "g", Agent: "a"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { // the stream moves all the time
		for lsn := uint64(1); ctx.Err() == nil; lsn++ {
			alterFSM(j, func(f *fsm) { f.points[id] = change.Point{LSN: lsn} })
			j.changed.Broadcast()
		}
	})
	for round := range 3000 {
		here, there := net.Pipe()
		s := &session{server: &j.server, agent: "a", conn: transport.NewConn(here, time.Second),
			leases: map[change.StreamID]change.Lease{}, told: map[change.StreamID]change.Ack{}}
		sctx, end := context.WithCancel(ctx)
		var both sync.WaitGroup
		both.Go(func() { _ = s.report(sctx) })
		both.Go(func() { _ = s.attached(id, nil) })
		typ, _, err := transport.NewConn(there, time.Second).Recv()
		end()
		_ = there.Close()
		both.Wait()
		if err != nil || change.MessageType(typ) != change.MsgAttached {
			t.Fatalf("round %d: message %d comes first, %v", round, typ, err)
		}
	}
}
