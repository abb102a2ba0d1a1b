package change

import (
	"encoding/binary"
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

// AppendItem is one frame of an Append: its header and, unless the session is
// by reference, its body. Ref is the frame's index in the agent's WAL.
type AppendItem struct {
	Ref    uint64
	Header []byte // HeaderBytes long
	Body   []byte // nil by reference
	Offset int    // of the header in a parsed message; the body follows it
}

// Append carries frames of one stream, in order, without gaps.
type Append struct {
	Stream StreamID
	Lease  Lease
	Items  []AppendItem
}

const (
	appendHead = 40
	itemHead   = 16
	// MaxAppendItems and MaxAppendBytes bound one Append.
	MaxAppendItems = 1024
	MaxAppendBytes = MaxFrameBytes + 1<<20
)

// Parts returns the payload as slices to be written one after another, so that
// bodies are not copied:
//
//	 0 16 stream   16 8 lease epoch   24 8 lease number   32 4 items   36 4 reserved
//	per item: 0 8 ref   8 4 body bytes (0: by reference)   12 4 reserved   header   body
func (a *Append) Parts() [][]byte {
	le := binary.LittleEndian
	head := make([]byte, appendHead+len(a.Items)*(itemHead+HeaderBytes))
	copy(head, a.Stream[:])
	le.PutUint64(head[16:], a.Lease.Epoch)
	le.PutUint64(head[24:], a.Lease.Number)
	le.PutUint32(head[32:], uint32(len(a.Items)))
	parts := make([][]byte, 0, 2*len(a.Items)+1)
	from, at := 0, appendHead
	for i := range a.Items {
		it := &a.Items[i]
		le.PutUint64(head[at:], it.Ref)
		le.PutUint32(head[at+8:], uint32(len(it.Body)))
		copy(head[at+itemHead:], it.Header[:HeaderBytes])
		at += itemHead + HeaderBytes
		if len(it.Body) > 0 {
			parts = append(parts, head[from:at], it.Body)
			from = at
		}
	}
	if from < at {
		parts = append(parts, head[from:at])
	}
	return parts
}

// ParseAppend decodes an Append. The items refer to b.
func ParseAppend(b []byte) (Append, error) {
	var a Append
	if len(b) < appendHead {
		return a, damaged(len(b), "append message cut short")
	}
	le := binary.LittleEndian
	copy(a.Stream[:], b)
	a.Lease = Lease{le.Uint64(b[16:]), le.Uint64(b[24:])}
	n := le.Uint32(b[32:])
	if n == 0 || n > MaxAppendItems {
		return a, damaged(32, "append of %d frames", n)
	}
	a.Items = make([]AppendItem, n)
	at := appendHead
	for i := range a.Items {
		if len(b)-at < itemHead+HeaderBytes {
			return a, damaged(at, "append message cut short in frame %d", i)
		}
		ref, body := le.Uint64(b[at:]), int(le.Uint32(b[at+8:]))
		at += itemHead
		a.Items[i] = AppendItem{Ref: ref, Header: b[at : at+HeaderBytes], Offset: at}
		at += HeaderBytes
		if body > len(b)-at {
			return a, damaged(at, "append message cut short in frame %d's body", i)
		}
		if body > 0 {
			a.Items[i].Body = b[at : at+body]
			at += body
		}
	}
	if at != len(b) {
		return a, damaged(at, "append message has %d bytes too many", len(b)-at)
	}
	return a, nil
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
