package journal

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/transport"
)

// TestNonsense: whatever a peer that may connect says, first or in a session, the journal
// lives on, has the members that it had, and serves those who make sense.
func TestNonsense(t *testing.T) {
	c := newClusterTest(t, 1)
	c.form()
	c.write(2)
	bodies := []string{"", "null", "{}", "[]", `"x"`, "{", strings.Repeat("[", 20000),
		`{"id":-1}`, `{"id":1e99}`, `{"stream":"x"}`, `{"member":"m"}`, `{"member":"m","address":"a"}`,
		`{"member":"m","address":"\n","fresh":true,"targets":["x"]}`,
		`{"address":"127.0.0.1:1","fresh":true,"targets":["x"]}`,
		`{"agent":"a","x":` + strings.Repeat(`[`, 100) + strings.Repeat(`]`, 100) + `}`,
		`{"journal":"` + c.leader().member.journalID().String() + `"}`, `{"command":""}`, `{"command":"AAAA"}`,
		`{"stream":"` + c.stream.String() + `","from":{"lsn":18446744073709551615},"to":{"lsn":1},` +
			`"end":18446744073709551615}`}
	for hello := range change.MessageType(3) { // of none, a session and a follower
		for typ := range change.MessageType(22) {
			for _, b := range bodies {
				raw, err := net.Dial("tcp", c.addrs[0])
				if err != nil {
					t.Fatal(err)
				}
				conn := transport.NewConn(raw, time.Second)
				if hello > 0 {
					first := []change.MessageType{change.MsgHello, change.MsgFollow}[hello-1]
					if err := conn.Send(uint16(first), change.Encode(change.Hello{Agent: "other"})); err != nil {
						t.Fatal(err)
					}
				}
				_ = conn.Send(uint16(typ), []byte(b))
				_ = raw.(*net.TCPConn).CloseWrite()
				_ = raw.SetReadDeadline(time.Now().Add(5 * time.Second))
				for err = nil; err == nil; { // until it hangs up
					_, _, err = conn.Recv()
				}
				conn.Close()
			}
		}
	}
	j := c.leader()
	if n := len(serversOf(j.raft)); n != 1 || j.Err() != nil {
		t.Errorf("%d members, %v", n, j.Err())
	}
	c.write(1)
}

// TestJoinAlone: a journal that is alone cannot reach others, and says so to whoever wants
// to join it.
func TestJoinAlone(t *testing.T) {
	fs := vfs.NewMem()
	if err := fs.MkdirAll("/j", 0o700); err != nil {
		t.Fatal(err)
	}
	j, err := openTest(fs)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { _ = j.Serve(ctx, l) })
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn := transport.NewConn(raw, 10*time.Second)
	defer conn.Close()
	var got change.Joined
	join := change.Join{Member: "m", Address: "127.0.0.1:1", Fresh: true}
	if err := ask(conn, change.MsgJoin, join, change.MsgJoined, &got); err != nil {
		t.Fatal(err)
	}
	if err := got.Error.Err("join", "journal"); !fail.Is(err, fail.Refused) {
		t.Errorf("a journal that is alone answers: %v", err)
	}
}
