package promote

import (
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/control/node"
	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/metafile"
	"github.com/pollux-dr/pollux/replicator/objlog/claim"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/state"
)

// intent is what a failover is about, durable before its first step, and how far it is. A repeat
// takes from it what was decided, whatever it is told: the writer's id above all, without which
// its own fence would be another's.
type intent struct {
	Version  int       `json:"version"`
	ID       uuid.UUID `json:"id"`
	Began    time.Time `json:"began"`
	Journal  uuid.UUID `json:"journal"`
	FromSite string    `json:"from_site"`
	Target   string    `json:"target"`
	// Token is the one that the log is fenced with.
	Token segment.Token `json:"token"`
	// HandOver is the one that is taken up; nil: it is taken without the former seat.
	HandOver *HandOver `json:"hand_over,omitempty"`
	Site     string    `json:"site"`
	At       string    `json:"at,omitempty"`
	// Agents are those whose streams go on here.
	Agents   []string          `json:"agents"`
	Backings map[string]string `json:"backings,omitempty"` // by volume
	// Fence is set when the log is fenced: where history goes on.
	Fence *fenced `json:"fence,omitempty"`
	// Points are where each stream ended in the log, and where its volumes go on.
	Points map[change.StreamID]branch `json:"points,omitempty"`
	// Images are the volumes that have theirs.
	Images map[string]bool `json:"images,omitempty"`
	// WaitForData: no volume is served before all of it is here.
	WaitForData bool `json:"wait_for_data,omitempty"`
	// Hydrates are the volumes that are filled while they serve, and Keeps the bookmarks that keep
	// the points they are filled with: group/name to LSN. The agent removes those in the end.
	Hydrates map[string]bool   `json:"hydrates,omitempty"`
	Keeps    map[string]uint64 `json:"keeps,omitempty"`
	// CaughtUp: what the standby here had is used. Warm are the volumes whose backings its
	// images are.
	CaughtUp bool            `json:"caught_up,omitempty"`
	Warm     map[string]bool `json:"warm,omitempty"`
	// Done is when the agent's state was complete.
	Done time.Time `json:"done,omitzero"`
}

// HandOver is a hand-over as a standby read it.
type HandOver struct {
	ID    uuid.UUID   `json:"id"`
	From  uint64      `json:"from,omitempty"` // the epoch of the seat that hands over
	Index uint64      `json:"index"`          // journal index of the entry that hands over
	At    claim.Place `json:"at"`             // a place of the log at or before it
	// Back is where the streams go back to, of a hand-over that is a rollback; those that it does not
	// name go on where they are.
	Back map[change.StreamID]uint64 `json:"back,omitempty"`
}

// goesBack reports whether a hand-over is a rollback.
func (h *HandOver) goesBack() bool { return h != nil && h.Back != nil }

// how the seat moves.
func (in *intent) how() string {
	if in.HandOver != nil {
		return state.MovePlanned
	}
	return state.MoveForced
}

// claim is the walk to the fence, of a log that was read up to an end: it need not be walked again, one request
// after another. Where our fence may be in it, it is.
func (in *intent) claim(end claim.Place) claim.Claim {
	if h := in.HandOver; h != nil {
		return claim.TakeOver(in.Token, h.At, h.Index)
	}
	if end.Token.Epoch >= in.Token.Epoch {
		return claim.Arrive(in.Token)
	}
	return claim.TakeOver(in.Token, end, 0)
}

// overtaken reports whether what was decided was to take up a hand-over that is over, since the log
// has another one behind it: a fence that was created for it would have ended that epoch. One before
// it, which a standby sees that has not read so far again, says nothing: the fence may be there.
func (r *run) overtaken() bool {
	in := r.intent
	return in != nil && in.Fence == nil && in.HandOver != nil && r.HandOver != nil &&
		in.HandOver.Index < r.HandOver.Index
}

// forget drops the record of a hand-over that was taken back: nothing was changed.
func (r *run) forget() error {
	r.intent = nil
	return atomicfile.Remove(r.fs, node.FailoverPath(r.conf.State))
}

// fenced is a claim that is done.
type fenced struct {
	Position uint64    `json:"position"` // of the fence
	Next     uint64    `json:"next"`     // the journal index behind it
	At       time.Time `json:"at"`
}

// branch is where a stream ended, and the point whose content its volumes have: an earlier one
// where that was asked for, or where the newest was none. To is then where the stream goes on,
// behind a gap.
type branch struct {
	Head change.Point `json:"head"`
	LSN  uint64       `json:"lsn"`
	Time time.Time    `json:"time"`
	To   change.Point `json:"to,omitzero"`
	Note string       `json:"note,omitempty"` // why the point is not the newest
}

// back reports whether the volumes go back before the stream's end.
func (b *branch) back() bool { return b.LSN != b.Head.LSN }

// place is the claim's at its end.
func (f *fenced) place() claim.Place { return claim.Place{Position: f.Position + 1, Next: f.Next} }

func (r *run) saveIntent() error {
	r.intent.Version = metafile.Version
	return metafile.Save(r.fs, node.FailoverPath(r.conf.State), r.intent)
}

func loadIntent(fs vfs.FS, state string) (*intent, error) {
	in := &intent{}
	found, err := metafile.Load(fs, node.FailoverPath(state), "the record of a failover is damaged: "+
		"move the state directory away and repeat the verb; its fence stands, and the next has a higher epoch", in)
	if err != nil || !found {
		return nil, err
	}
	if in.Token.Epoch == 0 || in.Journal == uuid.Nil {
		return nil, fail.New(fail.Damaged, "load", node.FailoverPath(state), "it names no journal or epoch")
	}
	return in, nil
}
