package journal

import (
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
)

// FrameSource reads frames that the journal holds by reference: appended to buf,
// as an agent in the same process has them in its WAL.
type FrameSource func(ref uint64, buf []byte) ([]byte, error)

// Options configure a Journal.
type Options struct {
	Dir    string
	FS     vfs.FS // default vfs.Default
	Logger *slog.Logger
	Site   string // where this member is; "": nothing is said of it
	// Targets that the journal keeps entries for, and which of them a record
	// must be in to count as durable remotely.
	Targets  []string
	Required []string
	// Places are where they are, by name.
	Places map[string]TargetPlace

	LogBudgetBytes int64 // of Raft's log; appends wait above it
	// OptionalBytes is how much may be kept for an optional target alone: beyond
	// it, the target is let go. Default half of LogBudgetBytes.
	OptionalBytes   int64
	LogSegmentBytes int64
	// SnapshotBytes is how far Raft's log grows before a snapshot lets it shrink.
	SnapshotBytes int64
	Heartbeat     time.Duration
	// TrailingLogs is how many entries Raft keeps behind a snapshot.
	TrailingLogs uint64
	// OnSync is told how long each fdatasync of Raft's log took.
	OnSync func(time.Duration)
	// Election is how long a member waits for a leader before it stands for
	// election; the one of an embedded journal, before it elects itself.
	Election time.Duration
	// Cluster makes the journal one of several members; nil: it is alone, and
	// starts by itself.
	Cluster *Cluster
	// Version is shown to other members.
	Version string

	knows int // the feature level that this release knows; a test's may be lower
}

const (
	defaultLogBudgetBytes  = 8 << 30
	defaultLogSegmentBytes = 16 << 20
	defaultSnapshotBytes   = 64 << 20
	defaultHeartbeat       = time.Minute
	defaultElection        = 50 * time.Millisecond
	applyTimeout           = 30 * time.Second
	defaultTrailingLogs    = 64
	// A snapshot contains what is not yet uploaded, so it is taken only while that
	// is little.
	snapshotMaxPending      = 100_000
	snapshotMaxPendingBytes = 32 << 20
)

func (o *Options) setDefaults() {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.knows == 0 {
		o.knows = state.Level
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	for p, v := range map[*int64]int64{&o.LogBudgetBytes: defaultLogBudgetBytes,
		&o.LogSegmentBytes: defaultLogSegmentBytes, &o.SnapshotBytes: defaultSnapshotBytes} {
		if *p == 0 {
			*p = v
		}
	}
	if o.OptionalBytes == 0 {
		o.OptionalBytes = o.LogBudgetBytes / 2
	}
	if o.Heartbeat == 0 {
		o.Heartbeat = defaultHeartbeat
	}
	if o.TrailingLogs == 0 {
		o.TrailingLogs = defaultTrailingLogs
	}
	if o.Election == 0 {
		o.Election = defaultElection
		if o.Cluster != nil {
			o.Election = defaultClusterElection
		}
	}
}

// stateLost refuses a state store that lost what was durable.
func (o *Options) stateLost(why string) error {
	return fail.New(fail.Damaged, "open", filepath.Join(o.Dir, "state"), why).
		WithHint("the journal's state is damaged: " + o.instead())
}

// instead is what to do with a directory that is no good.
func (o *Options) instead() string {
	if o.Cluster != nil {
		return "delete " + o.Dir + " as a whole; this host then joins as a new member"
	}
	return "restore the volumes from the object store"
}

// targetSpec is this member's configuration in the words of targetSpec.
func (o *Options) targetSpec() []string {
	var out []string
	for _, name := range o.Targets {
		out = append(out, targetText(name, slices.Contains(o.Required, name)))
	}
	slices.Sort(out)
	return out
}
