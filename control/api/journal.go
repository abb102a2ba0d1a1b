package api

import (
	"context"

	"github.com/google/uuid"
)

// JournalName is a journal's name for people, who type it where it is asked for.
func JournalName(journal uuid.UUID) string { return journal.String()[:8] }

// JournalMember is one of a journal's members.
type JournalMember struct {
	ID       string `json:"id"`
	Address  string `json:"address"`
	Role     string `json:"role"` // leader, voter, or joining: no vote yet
	Self     bool   `json:"self"` // the one that was asked
	State    string `json:"state"`
	Version  string `json:"version"`
	Level    int    `json:"feature_level"` // that its release knows
	Term     uint64 `json:"term"`
	Last     uint64 `json:"last"`    // newest entry of its Raft log
	Applied  uint64 `json:"applied"` // newest entry that it has applied
	LogBytes int64  `json:"log_bytes"`
	Error    string `json:"error"`
}

// JournalMembers are a journal's members as one of them sees it.
type JournalMembers struct {
	Journal string          `json:"journal"`
	Leader  string          `json:"leader"` // address; "" where none is known
	Members []JournalMember `json:"members"`
	// Waiting says why the member that was asked is in no journal yet.
	Waiting string `json:"waiting,omitempty"`
}

// JournalInit makes the member that is asked the first one of a new journal.
type JournalInit struct {
	DryRun bool   `json:"dry_run,omitempty"`
	By     string `json:"by,omitempty"`
}

// JournalJoin has the member that is asked join the journal of the one at Address.
type JournalJoin struct {
	Address string `json:"address"`
	DryRun  bool   `json:"dry_run,omitempty"`
	By      string `json:"by,omitempty"`
}

// JournalRemove ends a membership, by id or address.
type JournalRemove struct {
	Member string `json:"member"`
	DryRun bool   `json:"dry_run,omitempty"`
	By     string `json:"by,omitempty"`
}

// JournalTransfer hands the lead over; to any voter where Member is "".
type JournalTransfer struct {
	Member string `json:"member,omitempty"`
	DryRun bool   `json:"dry_run,omitempty"`
	By     string `json:"by,omitempty"`
}

// Members is what can be done with a journal's members.
type Members interface {
	JournalList(ctx context.Context, _ struct{}) (JournalMembers, error)
	JournalInit(ctx context.Context, r JournalInit) (JournalMembers, error)
	JournalJoin(ctx context.Context, r JournalJoin) (JournalMembers, error)
	JournalRemove(ctx context.Context, r JournalRemove) (JournalMembers, error)
	JournalTransfer(ctx context.Context, r JournalTransfer) (JournalMembers, error)
}

// JournalService is what the daemon of a journal's member can do for operators.
type JournalService interface {
	Members
	Status(ctx context.Context, _ struct{}) (Status, error)
	GroupList(ctx context.Context, r List) ([]Group, error)
	AuditList(ctx context.Context, r AuditQuery) ([]AuditEntry, error)
}
