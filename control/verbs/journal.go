package verbs

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/journal/journalclient"
	"github.com/pollux-dr/pollux/replicator/journal/journalnode"
	"github.com/pollux-dr/pollux/replicator/state"
)

// Journal is the journal as the verbs use it. Elsewhere, Joined, Member and Embedded make
// one; what differs between them is an answer, so that no verb asks which it has.
type Journal interface {
	// View calls fn with the control state under the lock that the journal's own work takes:
	// fn copies what it needs, and calls nothing that could wait.
	View(fn func(*state.State))
	// Changed returns a channel that is closed when the control state changes next.
	Changed() <-chan struct{}
	// Propose applies a command, and returns its journal index. View has its effect by then.
	Propose(kind state.Kind, v any) (uint64, error)
	// Submit is Propose through whichever member leads; it does not wait for long.
	Submit(kind state.Kind, v any) error
	ID() (id uuid.UUID, epoch uint64, site string)
	// Info is where the journal and its targets stood when that was heard of last.
	Info() change.JournalInfo
	// Superseded is Info's, and costs nothing: it may be asked after every change.
	Superseded() *change.Superseded
	// Err says why the journal does not go on in this process, or cannot be reached from it.
	Err() error
	// Leads reports whether the leader is in this process.
	Leads() bool
	// Alone reports whether the only member is in this process: it is never out of reach, and
	// no other host has volumes in its groups.
	Alone() bool
	// Synced reports whether the control state is known here; AwaitSync waits a moment for it,
	// and refuses to call nothing what is only not known.
	Synced() bool
	AwaitSync(ctx context.Context) error
	// Progress is how far the journal has a stream, and how far every remote target; false
	// where that is not known here.
	Progress(id change.StreamID) (last, durable uint64, known bool)
}

// Member is a member in this process whose journal has others, or may have.
func Member(h *journalnode.Host) Journal { return member{h} }

type member struct{ *journalnode.Host }

func (member) Alone() bool                     { return false }
func (member) Synced() bool                    { return true }
func (member) AwaitSync(context.Context) error { return nil }

func (m member) Progress(id change.StreamID) (last, durable uint64, known bool) {
	return m.Point(id).LSN, m.Durable(id), true
}

// Embedded is the only member, in this process.
func Embedded(h *journalnode.Host) Journal { return embedded{member{h}} }

type embedded struct{ member }

func (embedded) Alone() bool { return true }

// Elsewhere is a journal on other hosts.
func Elsewhere(c *journalclient.Client) Journal { return elsewhere{c} }

type elsewhere struct{ *journalclient.Client }

func (elsewhere) Leads() bool { return false }
func (elsewhere) Alone() bool { return false }

func (elsewhere) Progress(change.StreamID) (last, durable uint64, known bool) { return 0, 0, false }

// syncWait is how long a verb waits for a journal that was not heard of yet.
const syncWait = 3 * time.Second

func (j elsewhere) AwaitSync(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, syncWait)
	defer cancel()
	for {
		changed := j.Changed()
		if j.Synced() {
			return nil
		}
		select {
		case <-changed:
			continue
		case <-ctx.Done():
		}
		e := fail.New(fail.Retry, "ask", "journal", "it has not been heard of since the agent started")
		if err := j.Err(); err != nil {
			return e.WithHint(err.Error())
		}
		return e
	}
}

// Joined is a journal of several hosts with a member in this process. Verbs go through the
// session with the leader, wherever that is.
func Joined(c *journalclient.Client, h *journalnode.Host) Journal {
	return joined{elsewhere{c}, member{h}}
}

type joined struct {
	elsewhere
	own member
}

func (j joined) Leads() bool { return j.own.Leads() }

func (j joined) Progress(id change.StreamID) (last, durable uint64, known bool) {
	return j.own.Progress(id)
}
