package change

import (
	"encoding/json"
	"fmt"

	"github.com/pollux-dr/pollux/internal/fail"
)

// MessageType names what an agent and a journal say to each other. All are JSON
// but Append, which is binary because it carries the load. The first message of a
// connection decides what it is for: MsgHello a session of an agent, and those of
// message_journal.go. docs/formats/transport.md has the exchanges.
type MessageType uint16

const (
	MsgHello    MessageType = 1 // agent: who I am
	MsgWelcome  MessageType = 2 // journal: who I am, or why not
	MsgAttach   MessageType = 3 // agent: I want to extend this stream
	MsgAttached MessageType = 4 // journal: with this lease, from here, or why not
	MsgAppend   MessageType = 5 // agent: the next frames of a stream
	MsgAck      MessageType = 6 // journal: how far a stream has come

	MsgResync MessageType = 19 // agent: a gap in a stream, answered by MsgAttached; or its end
)

func (t MessageType) String() string { return fmt.Sprintf("message(%d)", uint16(t)) }

// Hello opens a session.
type Hello struct {
	Agent string `json:"agent"`
	// Reference asks to send headers only, because this journal can read the
	// agent's WAL itself (it runs in the same process).
	Reference bool `json:"reference,omitempty"`
}

// Welcome answers Hello.
type Welcome struct {
	Journal   string `json:"journal"` // UUID
	Epoch     uint64 `json:"epoch"`
	Reference bool   `json:"reference,omitempty"`
	// Leader is the address of the member to ask instead, where it is known and
	// this one does not lead.
	Leader string `json:"leader,omitempty"`
	Error  *Fault `json:"error,omitempty"`
}

// Attach asks for a lease on a stream.
type Attach struct {
	Stream StreamID `json:"stream"`
}

// Attached grants a lease, or says why not. The agent continues after
// Committed, once it has found that point in its own history.
type Attached struct {
	Stream    StreamID `json:"stream"`
	Lease     Lease    `json:"lease"`
	Committed Point    `json:"committed"`
	Released  uint64   `json:"released"`
	Durable   uint64   `json:"durable"`
	Voters    int      `json:"voters"`
	Unsound   bool     `json:"unsound,omitempty"` // a resync has not ended
	Gap       Point    `json:"gap,omitzero"`      // where the stream's newest gap leads to
	Error     *Fault   `json:"error,omitempty"`
}

// Resync begins a resync: the stream's LSNs after From, where the journal stands,
// up to To are left out, and it goes on behind To. Or it ends the one with that To: End
// is the LSN from which on the log has points again.
type Resync struct {
	Stream StreamID `json:"stream"`
	From   Point    `json:"from,omitzero"`
	To     Point    `json:"to,omitzero"`
	End    uint64   `json:"end,omitempty"`
}

// Lease is the right to extend a stream: a journal's epoch and a number that
// only grows. A higher one fences every lower one.
type Lease struct {
	Epoch  uint64 `json:"epoch"`
	Number uint64 `json:"number"`
}

// Fault is an error on its way over a connection.
type Fault struct {
	Kind string `json:"kind"`
	Text string `json:"text"`
	Hint string `json:"hint,omitempty"`
}

// FaultOf turns an error into what is sent; nil stays nil.
func FaultOf(err error) *Fault {
	if err == nil {
		return nil
	}
	return &Fault{Kind: fail.KindOf(err).String(), Text: err.Error(), Hint: fail.HintOf(err)}
}

// Err turns what was received back into an error; nil stays nil.
func (f *Fault) Err(op, object string) error {
	if f == nil {
		return nil
	}
	return fail.New(fail.ParseKind(f.Kind), op, object, f.Text).WithHint(f.Hint)
}

// Encode returns a JSON message's payload.
func Encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own plain structs
	}
	return b
}

// Decode parses a JSON message's payload.
func Decode(b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fail.Wrap(fail.Damaged, "decode", fmt.Sprintf("%T", v), err)
	}
	return nil
}

// Ack tells an agent how far a stream has come. Fault is set when the journal
// refuses it for good; the session then ends.
type Ack struct {
	Stream    StreamID `json:"stream"`
	Committed Point    `json:"committed"`         // accepted by the journal
	Released  uint64   `json:"released"`          // the journal no longer needs the agent's bytes up to here
	Durable   uint64   `json:"durable"`           // in every required target
	Voters    int      `json:"voters"`            // a majority of these holds what is committed
	Unsound   bool     `json:"unsound,omitempty"` // a resync has not ended
	Fault     *Fault   `json:"fault,omitempty"`
}
