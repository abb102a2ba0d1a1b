package journal

import (
	"net"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/transport"
)

// TestPace: what one session asks Raft's log to take, appends apart, has a rate; what an
// agent asks for when it starts passes at once.
func TestPace(t *testing.T) {
	const more = 100
	c := newClusterTest(t, 1)
	c.form()
	j := c.leader()
	for _, tt := range []struct {
		hello, typ, answer change.MessageType
		ask                func(i int) []byte
	}{
		{change.MsgFollow, change.MsgPropose, change.MsgProposed, func(i int) []byte {
			return change.Encode(change.Propose{ID: uint64(i),
				Command: state.Encode(state.KindVolumeRemove, state.VolumeRemove{Name: "none"})})
		}},
		{change.MsgHello, change.MsgAttach, change.MsgAttached, func(int) []byte {
			return change.Encode(change.Attach{Stream: change.StreamID{1}}) // there is none
		}},
	} {
		raw, err := net.Dial("tcp", c.addrs[0])
		if err != nil {
			t.Fatal(err)
		}
		conn := transport.NewConn(raw, 30*time.Second)
		if err := conn.Send(uint16(tt.hello), change.Encode(change.Hello{Agent: "a"})); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		go func() {
			for i := range commandsAtOnce + more {
				if conn.Send(uint16(tt.typ), tt.ask(i)) != nil {
					return
				}
			}
		}()
		for n := 0; n < commandsAtOnce+more; {
			typ, _, err := conn.Recv()
			if err != nil {
				t.Fatalf("%v: %v after %d answers", tt.hello, err, n)
			}
			if change.MessageType(typ) == tt.answer {
				n++
			}
		}
		if took := time.Since(began); took < more*time.Second/commandsPerSecond*9/10 {
			t.Errorf("%v: %d commands in %v", tt.hello, commandsAtOnce+more, took)
		}
		conn.Close()
	}
	if !j.Leads() {
		t.Error("it does not lead any more")
	}
}
