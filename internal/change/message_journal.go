package change

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"
)

// What is said to a journal beside an agent's session. The first message of a
// connection is one of MsgFollow, MsgJoin, MsgRaft and MsgMember; MsgWelcome
// answers where the journal refuses.
const (
	MsgFollow       MessageType = 7  // agent: send me the control state, and take my commands
	MsgState        MessageType = 8  // journal: what has changed in it
	MsgPropose      MessageType = 9  // agent: a command
	MsgProposed     MessageType = 10 // journal: its index, or why not
	MsgJoin         MessageType = 11 // a new member: let me in
	MsgJoined       MessageType = 12 // the leader: you are, or why not
	MsgRaft         MessageType = 13 // a member: what follows is Raft's
	MsgRaftReady    MessageType = 14 // the other: go on
	MsgMember       MessageType = 15 // who are you?
	MsgMemberStatus MessageType = 16
	MsgBeat         MessageType = 17 // journal: I am here; nothing has changed
	MsgSubmit       MessageType = 18 // a member to the leader: one Propose, answered by MsgProposed
)

// BeatEvery is how often a journal that is reached over a network says something,
// and BeatLimit how long it may be silent before a session counts as lost.
const (
	BeatEvery = time.Second
	BeatLimit = 5 * time.Second
)

// Follow opens a control session.
type Follow struct {
	Agent string `json:"agent"`
	// Level is the feature level that it knows: no keys above it are sent.
	Level int `json:"level,omitempty"`
}

// StateUpdate brings a follower's copy of the control state up to date: each key
// replaces what it had. Reset says that the copy begins anew.
type StateUpdate struct {
	Reset bool         `json:"reset,omitempty"`
	Keys  []StateKey   `json:"keys,omitempty"`
	Info  *JournalInfo `json:"info,omitempty"`
}

// StateKey is one thing of the control state, as state.Save encodes it.
type StateKey struct {
	Key   string          `json:"key"`
	Value json.RawMessage `json:"value"`
}

// JournalInfo is where a journal stands, for status.
type JournalInfo struct {
	Journal   uuid.UUID    `json:"journal"`
	Epoch     uint64       `json:"epoch"`
	Site      string       `json:"site"`
	Term      uint64       `json:"term"`
	Leader    string       `json:"leader"` // address
	Voters    int          `json:"voters"`
	Members   int          `json:"members"`
	LogBytes  int64        `json:"log_bytes"`
	LogBudget int64        `json:"log_budget_bytes"`
	Targets   []TargetInfo `json:"targets"`
	// Superseded is set once the journal is known to have its seat elsewhere.
	Superseded *Superseded `json:"superseded,omitempty"`
}

// Superseded says where and how a journal went on without the seat that says so: nothing that it
// wrote behind the branch point is a part of the journal's history.
type Superseded struct {
	Own    uint64 `json:"own_epoch"`
	Epoch  uint64 `json:"epoch"`            // of the seat that follows
	Target string `json:"target"`           // whose log says so
	Site   string `json:"site,omitempty"`   // of the seat that follows; "" while it is not known
	How    string `json:"how,omitempty"`    // the seat moved: forced, or planned
	Branch uint64 `json:"branch,omitempty"` // the first journal index that is not common; 0 while it is not known
	// Streams are where the common history ends, by stream.
	Streams map[StreamID]Point `json:"streams,omitempty"`
	Time    time.Time          `json:"time"` // when it was noticed
}

// States of a target for which the journal no longer kept what it lacked.
const (
	TargetLetGo   = "let go"  // it is in no way of getting it
	TargetFilling = "filling" // it gets it from another target
)

// TargetInfo is where a target's object log stands, as the leader sees it.
type TargetInfo struct {
	Name        string    `json:"name"`
	URL         string    `json:"url"`
	Site        string    `json:"site"`
	Optional    bool      `json:"optional,omitempty"`
	Position    uint64    `json:"position"`
	Index       uint64    `json:"index"`
	LastSuccess time.Time `json:"last_success,omitzero"`
	Error       string    `json:"error,omitempty"`
	// State is TargetLetGo or TargetFilling, and Reason why, where the journal has not kept all
	// that the target lacks.
	State         string    `json:"state,omitempty"`
	Reason        string    `json:"reason,omitempty"`
	Filled        string    `json:"filled,omitempty"` // how far, in words, while it is
	Fenced        bool      `json:"fenced,omitempty"`
	Stopped       bool      `json:"stopped,omitempty"`
	OldestRequest time.Time `json:"oldest_request,omitzero"`
	Objects       int64     `json:"objects"`
	Bytes         int64     `json:"bytes"`
	LagSeconds    float64   `json:"lag_seconds"` // age of the oldest frame that it lacks
	BacklogBytes  int64     `json:"backlog_bytes"`
	// FoldedFrom bytes of frames went as FoldedTo bytes of folds, since the start.
	FoldedFrom int64 `json:"folded_from_bytes,omitempty"`
	FoldedTo   int64 `json:"folded_to_bytes,omitempty"`
	// Catalog is what the leader knows of the log's newest catalog; nil is nothing.
	Catalog *CatalogInfo `json:"catalog,omitempty"`
}

// CatalogInfo is where the newest catalog of a log stands.
type CatalogInfo struct {
	Position uint64    `json:"position"`        // that it covers: objects; 0 where there is none
	Time     time.Time `json:"time,omitzero"`   // when it was made
	Error    string    `json:"error,omitempty"` // why the leader cannot make the next one
}

// Propose asks for a command; Command is its envelope. ID is the asker's.
type Propose struct {
	ID      uint64 `json:"id"`
	Command []byte `json:"command"`
}

// Proposed answers a Propose, after the state that the command led to.
type Proposed struct {
	ID    uint64 `json:"id"`
	Index uint64 `json:"index,omitempty"`
	Error *Fault `json:"error,omitempty"`
}

// Join asks for membership.
type Join struct {
	Member  string   `json:"member"`          // born with its directory
	Address string   `json:"address"`         // where other members reach it
	Fresh   bool     `json:"fresh"`           // its directory is new
	Level   int      `json:"level,omitempty"` // the feature level that its release knows
	Targets []string `json:"targets"`         // of its configuration
}

// Joined grants it.
type Joined struct {
	Journal uuid.UUID `json:"journal"`
	Leader  string    `json:"leader,omitempty"` // ask there
	Error   *Fault    `json:"error,omitempty"`
}

// RaftHello opens a connection for Raft, from one member to another.
type RaftHello struct {
	Journal uuid.UUID `json:"journal"`
	From    string    `json:"from"`
	To      string    `json:"to"`
}

// MemberStatus is where one member stands.
type MemberStatus struct {
	Journal uuid.UUID `json:"journal"`
	Member  string    `json:"member"`
	Version string    `json:"version"`
	Level   int       `json:"level,omitempty"` // the feature level that its release knows
	// Site and TargetSites are what its configuration says of where it and its targets are.
	Site        string            `json:"site,omitempty"`
	TargetSites map[string]string `json:"target_sites,omitempty"`
	State       string            `json:"state"` // leader, follower, candidate, waiting
	Term        uint64            `json:"term"`
	Last        uint64            `json:"last"`    // of Raft's log
	Applied     uint64            `json:"applied"` // Raft index
	LogBytes    int64             `json:"log_bytes"`
	Error       *Fault            `json:"error,omitempty"`
}
