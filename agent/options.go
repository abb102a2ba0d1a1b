package agent

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/agent/backing"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/clock"
)

// Options configure an Agent. Zero values take the defaults below.
type Options struct {
	Name        string // unique among the journal's agents
	StateDir    string // durable: manifest, checkpoints, WAL
	ArenaPath   string // on tmpfs
	FS          vfs.FS // default vfs.Default
	Logger      *slog.Logger
	Now         func() time.Time
	MemoryBytes int64 // arena, default 128 MiB

	WALBudgetBytes  int64 // default 8 GiB
	WALReserveBytes int64
	WALSegmentBytes int64

	// OnSync is told how long each fdatasync of the WAL took.
	OnSync func(time.Duration)
	// Linger is how long an open frame waits for more before it is sealed.
	Linger time.Duration
	// CheckpointInterval and CheckpointBytes say how often the backing is synced.
	CheckpointInterval time.Duration
	CheckpointBytes    int64

	// Dial connects to the journal.
	Dial func(ctx context.Context) (net.Conn, error)
	// SetLeader, if set, is told where the journal's leader is when the one that was
	// dialled does not lead; "" that it is lost.
	SetLeader func(leader string)
	// Heartbeats says that the journal says something every change.BeatEvery, because a
	// network lies between.
	Heartbeats bool
	// DegradeAfter is how long a flush waits for a promise that LossDegrade gives up
	// then; default 5 s.
	DegradeAfter time.Duration
	// SpillAfter is for how long the journal must not have taken anything before
	// OverflowBitmap drops frames; default 5 s.
	SpillAfter time.Duration
	// Reference asks the journal to read frames from this agent's WAL.
	Reference bool
	// Committed, if set, returns what the journal has accepted of a stream. A WAL
	// that does not hold it has lost what was durable: Open then refuses.
	Committed func(change.StreamID) change.Point
	// Remote, where the journal runs in this process, tells at a start how much of a
	// stream every remote target holds. Without it that is known only once there
	// is a session, which a paused group has none of.
	Remote func(change.StreamID) uint64
	// NoCompression stores blocks as they are.
	NoCompression bool
	// CreateBacking and OpenBacking make and open a volume's backing; default
	// backing.Create and backing.Open.
	CreateBacking func(path string, sizeBytes int64) (existed bool, err error)
	OpenBacking   func(path string, sizeBytes int64) (backing.Backing, error)
}

const (
	defaultMemoryBytes     = 128 << 20
	defaultWALBudgetBytes  = 8 << 30
	defaultWALReserveBytes = 64 << 20
	defaultWALSegmentBytes = 32 << 20
	defaultLinger          = 2 * time.Millisecond
	defaultCheckpoint      = 5 * time.Second
	defaultCheckpointBytes = 128 << 20

	// walSpares is how many written segments are kept: what is appended at full
	// speed between two checkpoints, and until the journal has released it.
	walSpares = 16

	// sealBytes is the size at which a frame is sealed without waiting: large
	// enough to compress well, small enough for Raft (64-256 KiB do best).
	sealBytes = 256 << 10
	// sealRecords bounds a frame of tiny or empty records.
	sealRecords = 4096
	// applyBatchBytes is how much one round of the applier coalesces.
	applyBatchBytes = 8 << 20
	// maxZeroBytes bounds the length of one zero or trim record.
	maxZeroBytes = 1 << 30
)

func (o *Options) setDefaults() {
	def := func(p *int64, v int64) {
		if *p == 0 {
			*p = v
		}
	}
	def(&o.MemoryBytes, defaultMemoryBytes)
	def(&o.WALBudgetBytes, defaultWALBudgetBytes)
	def(&o.WALReserveBytes, defaultWALReserveBytes)
	def(&o.WALSegmentBytes, defaultWALSegmentBytes)
	def(&o.CheckpointBytes, defaultCheckpointBytes)
	def((*int64)(&o.Linger), int64(defaultLinger))
	def((*int64)(&o.CheckpointInterval), int64(defaultCheckpoint))
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.DegradeAfter == 0 {
		o.DegradeAfter = defaultDegradeAfter
	}
	if o.SpillAfter == 0 {
		o.SpillAfter = defaultSpillAfter
	}
	if o.SetLeader == nil {
		o.SetLeader = func(string) {}
	}
	if o.Now == nil {
		o.Now = clock.Now
	}
	if o.CreateBacking == nil {
		o.CreateBacking = backing.Create
	}
	if o.OpenBacking == nil {
		o.OpenBacking = backing.Open
	}
}

// codec is the frames' compression.
func (o *Options) codec() change.Codec {
	if o.NoCompression {
		return change.CodecNone
	}
	return change.CodecS2
}
