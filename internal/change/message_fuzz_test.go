package change

import (
	"bytes"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/internal/fail"
)

// messages are what a message of each type is decoded into; Append is binary, and
// MsgRaftReady and MsgBeat are empty.
var messages = map[MessageType]reflect.Type{
	MsgHello: reflect.TypeFor[Hello](), MsgWelcome: reflect.TypeFor[Welcome](), MsgAttach: reflect.TypeFor[Attach](),
	MsgAttached: reflect.TypeFor[Attached](), MsgAck: reflect.TypeFor[Ack](), MsgResync: reflect.TypeFor[Resync](),
	MsgFollow: reflect.TypeFor[Follow](), MsgState: reflect.TypeFor[StateUpdate](),
	MsgPropose:  reflect.TypeFor[Propose](),
	MsgProposed: reflect.TypeFor[Proposed](), MsgJoin: reflect.TypeFor[Join](), MsgJoined: reflect.TypeFor[Joined](),
	MsgRaft: reflect.TypeFor[RaftHello](), MsgMember: reflect.TypeFor[struct{}](),
	MsgMemberStatus: reflect.TypeFor[MemberStatus](),
	MsgSubmit:       reflect.TypeFor[Propose](),
}

// FuzzMessage: whatever a peer sends is decoded or refused as damaged, and what was decoded
// can be sent again: it comes out the same.
func FuzzMessage(f *testing.F) {
	for typ, of := range messages {
		f.Add(uint16(typ), Encode(reflect.New(of).Interface()))
	}
	f.Add(uint16(MsgAttached), Encode(
		Attached{Stream: testStream, Lease: Lease{1, 2}, Committed: Point{LSN: 3, Hash: Hash{4}}, Voters: 3,
			Gap: Point{LSN: 2}, Error: &Fault{Kind: "fenced", Text: "x", Hint: "y"}}))
	f.Add(uint16(MsgState), Encode(
		StateUpdate{Reset: true, Keys: []StateKey{{Key: "group/g", Value: []byte(`{"a":[1]}`)}},
			Info: &JournalInfo{Targets: []TargetInfo{{Name: "x"}}}}))
	f.Add(uint16(MsgPropose), Encode(Propose{ID: 1, Command: []byte("command")}))
	f.Add(uint16(MsgJoin), Encode(Join{Member: "m", Address: "a:1", Targets: []string{"x", "y"}}))
	f.Add(uint16(MsgAck), []byte(`{"stream":"x","voters":1e99}`))
	f.Add(uint16(MsgResync), []byte(strings.Repeat("[", 20000)))
	f.Fuzz(func(t *testing.T, typ uint16, b []byte) {
		of := messages[MessageType(typ)]
		if of == nil {
			return
		}
		v := reflect.New(of).Interface()
		if err := Decode(b, v); err != nil {
			if !fail.Is(err, fail.Damaged) {
				t.Fatalf("%v of kind %v", err, fail.KindOf(err))
			}
			return
		}
		again := reflect.New(of).Interface()
		sent := Encode(v)
		if err := Decode(sent, again); err != nil {
			t.Fatalf("%s: sent again as %s: %v", b, sent, err)
		}
		if !bytes.Equal(sent, Encode(again)) {
			t.Fatalf("%s is not %s", Encode(again), sent)
		}
	})
}

// TestMessageMemory: a message takes memory by its length, whatever it says.
func TestMessageMemory(t *testing.T) {
	const many = 1 << 16
	for name, c := range map[string]struct {
		typ  MessageType
		text string
	}{
		"keys":    {MsgState, `{"keys":[{}` + strings.Repeat(",{}", many) + `]}`},
		"targets": {MsgState, `{"info":{"targets":[{}` + strings.Repeat(",{}", many/16) + `]}}`},
		"joining": {MsgJoin, `{"targets":[""` + strings.Repeat(`,""`, many) + `]}`},
		"deep":    {MsgPropose, `{"command":` + strings.Repeat("[", many)},
		"unknown": {MsgHello, `{"x":[{}` + strings.Repeat(",{}", many) + `]}`},
		"command": {MsgPropose, `{"command":"` + strings.Repeat("AAAA", many) + `"}`},
	} {
		var before, after runtime.MemStats
		v := reflect.New(messages[c.typ]).Interface()
		runtime.ReadMemStats(&before)
		_ = Decode([]byte(c.text), v)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 512*uint64(len(c.text)) {
			t.Errorf("%s: %d bytes of memory for %d", name, n, len(c.text))
		}
	}
}
