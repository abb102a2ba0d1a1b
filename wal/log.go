package wal

import (
	"context"
	"fmt"
	"io"
	"sort"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/fail"
)

const (
	// MaxEntryBytes bounds one entry, whatever the segment size.
	MaxEntryBytes = 16 << 20
	// DefaultSegmentBytes is used where Options.SegmentBytes is 0.
	DefaultSegmentBytes = 64 << 20
	// MinSegmentBytes and MaxSegmentBytes bound Options.SegmentBytes.
	MinSegmentBytes = 4 * blockBytes
	MaxSegmentBytes = 2 << 30

	maxBatchEntries = 1 << 16
	defaultSpares   = 2
	// keepScratchBytes is the largest encoding buffer kept between appends.
	keepScratchBytes = 4 << 20
)

// Options says where a log lies and how large it may grow.
type Options struct {
	FS  vfs.FS // nil: the operating system's
	Dir string // created if missing; the log owns every file in it

	// SegmentBytes is the size of a segment file: a multiple of 4096 from
	// MinSegmentBytes to MaxSegmentBytes; 0 means DefaultSegmentBytes. It may
	// differ from one Open to the next. Half of it at most should be one entry:
	// MaxEntry says what is refused.
	SegmentBytes int64
	// BudgetBytes bounds the live bytes (from First to the end, with headers
	// and padding) that Append may reach; 0 means no bound. Files take up to
	// three segments more.
	BudgetBytes int64
	// ReserveBytes may be used on top of BudgetBytes by AppendReserved only.
	ReserveBytes int64

	// PreallocateInBackground keeps one zeroed and synced segment ready, so that
	// an append that fills a segment does not wait for a new one.
	PreallocateInBackground bool

	// MaxSpares is how many written segments are kept for reuse; 0 means 2. A
	// writer that outruns its truncation for a while needs as many as it fills in
	// that time: a segment that must be zeroed first costs its bytes twice.
	MaxSpares int

	// OnSync, where it is set, is told how long each fdatasync of the log took. It
	// is called with a lock held and must return at once.
	OnSync func(time.Duration)

	// ReadOnly opens without changing, creating or locking anything, even while
	// another process writes. What has been written by then is seen, no more.
	ReadOnly bool

	// Salt returns random bits for the segment with this sequence; nil means
	// crypto/rand. Tests pass a seeded source. It must not repeat itself over
	// the life of the directory.
	Salt func(sequence uint64) uint64
}

// Recovery tells what Open found.
type Recovery struct {
	Clean            bool   // the log had been closed in order, or was new
	TornFile         string // file of the torn tail that was passed over; "" if there was none
	TornOffsetBytes  int64
	TornReason       string
	RewrittenEntries int // entries of uncertain durability, written and synced anew
}

// Stats are counters since Open and present sizes.
type Stats struct {
	First, Last, Durable uint64
	LiveBytes            int64 // from First to the end, with headers and padding
	BudgetBytes          int64
	ReserveBytes         int64
	Segments             int
	Spares               int
	Freed                int // dropped segments that await recycling
	Appends              uint64
	AppendedEntries      uint64
	AppendedBytes        uint64 // payload only
	Batches              uint64 // writes
	Syncs                uint64
	SyncSeconds          float64
	Rollovers            uint64
	RolloversInline      uint64 // of these, how many found no spare
	Poisoned             bool
	MaintenanceErr       error // why recycling or preallocating last failed; nil after success
}

// Log is an open log. Make one with Open.
type Log struct {
	opt  Options
	fs   vfs.FS
	dir  string
	info Recovery

	lockFile io.Closer
	dirFile  vfs.File

	// wmu serialises whatever writes to the newest segment or replaces it. It is
	// taken before mu and may be held over file operations; mu never is.
	wmu        sync.Mutex
	writeOff   int64  // where the next batch goes in the newest segment
	chain      uint32 // crc of the header before it
	sealed     bool   // the newest segment ends in a seal
	nextSeq    uint64
	scratch    []byte
	maxPayload int64

	mu       sync.Mutex
	segments []*segment // ascending; the last one is written to
	front    uint64     // first index
	last     uint64
	durable  uint64
	used     int64 // bytes of all batches in segments
	poison   error
	closed   bool
	syncing  bool
	waiters  []*waiter     // for an index to become durable, through Sync
	advanced chan struct{} // closed when durable, poison, cuts or closed change; nil if nobody waits
	cuts     cutList
	freed    []*segment // ascending; dropped, not yet recycled
	stuck    bool       // a directory sync failed: no recycling any more
	spares   []*spare
	spareSeq uint64

	lastRollover time.Time
	fillTime     time.Duration // how long the segment before took to fill
	stats        Stats

	kick chan struct{} // wakes the background goroutine
	stop chan struct{}
	done sync.WaitGroup
}

// Open opens the log in opt.Dir, creating it if there is none, and brings it
// into order after an unclean stop. Errors: fail.Damaged names file and offset;
// fail.Unsupported a file of a later version; fail.Refused when another process
// has the log open; fail.Full when there is no room for a new segment.
func Open(opt Options) (*Log, error) {
	if err := opt.check(); err != nil {
		return nil, err
	}
	l := &Log{
		opt:  opt,
		fs:   opt.FS,
		dir:  opt.Dir,
		kick: make(chan struct{}, 1),
		stop: make(chan struct{}),
	}
	l.maxPayload = min(MaxEntryBytes+entryHeaderBytes, opt.SegmentBytes-segmentHeaderBytes-blockBytes-batchHeaderBytes)
	var err error
	if opt.ReadOnly {
		err = l.recoverReadOnly()
	} else {
		err = l.openForWriting()
	}
	if err != nil {
		l.closeFiles()
		return nil, err
	}
	l.stats = Stats{MaintenanceErr: l.stats.MaintenanceErr} // making the first segment does not count
	if opt.PreallocateInBackground && !opt.ReadOnly {
		l.done.Add(1)
		go l.maintain()
	}
	return l, nil
}

func (o *Options) check() error {
	const op = "open wal"
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = DefaultSegmentBytes
	}
	if o.Salt == nil {
		o.Salt = randomSalt
	}
	if o.MaxSpares == 0 {
		o.MaxSpares = defaultSpares
	}
	switch {
	case o.Dir == "":
		return fail.New(fail.Invalid, op, "", "no directory given")
	case o.SegmentBytes%blockBytes != 0 || o.SegmentBytes < MinSegmentBytes || o.SegmentBytes > MaxSegmentBytes:
		return fail.New(fail.Invalid, op, o.Dir, fmt.Sprintf("segment size %d is not a multiple of %d from %d to %d",
			o.SegmentBytes, blockBytes, MinSegmentBytes, int64(MaxSegmentBytes)))
	case o.BudgetBytes < 0 || o.ReserveBytes < 0:
		return fail.New(fail.Invalid, op, o.Dir, "negative budget or reserve")
	}
	return nil
}

// Recovery tells what Open found and did.
func (l *Log) Recovery() Recovery { return l.info }

// MaxEntry returns the size in bytes of the largest entry that Append takes:
// MaxEntryBytes, or less where segments are small.
func (l *Log) MaxEntry() int { return int(l.maxPayload - entryHeaderBytes) }

// First returns the index of the first entry; Last()+1 when the log is empty.
func (l *Log) First() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.front
}

// Last returns the index of the last entry written, durable or not.
func (l *Log) Last() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// Durable returns the highest index through which everything is durable.
func (l *Log) Durable() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.durable
}

// Stats returns present sizes, and counters since Open.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	s.First, s.Last, s.Durable = l.front, l.last, l.durable
	s.LiveBytes = l.liveLocked()
	s.BudgetBytes, s.ReserveBytes = l.opt.BudgetBytes, l.opt.ReserveBytes
	s.Segments, s.Spares, s.Freed = len(l.segments), len(l.spares), len(l.freed)
	s.Poisoned = l.poison != nil
	return s
}

// liveLocked returns the bytes from the first entry to the end.
func (l *Log) liveLocked() int64 {
	if len(l.segments) == 0 {
		return 0
	}
	s := l.segments[0]
	if l.front <= s.base {
		return l.used
	}
	if l.front > s.lastIndex() {
		return l.used - (s.endBytes - segmentHeaderBytes)
	}
	return l.used - (int64(s.offsets[l.front-s.base]) - segmentHeaderBytes)
}

// active returns the segment that is written to.
func (l *Log) active() *segment { return l.segments[len(l.segments)-1] }

// findLocked returns the segment that holds index, which is in [front, last].
func (l *Log) findLocked(index uint64) *segment {
	if s := l.active(); index >= s.base {
		return s
	}
	i := sort.Search(len(l.segments), func(i int) bool { return l.segments[i].base > index })
	return l.segments[i-1]
}

// usableLocked returns the reason why op, which changes the log, is refused.
func (l *Log) usableLocked(op string) error {
	switch {
	case l.closed:
		return fail.Wrap(fail.Refused, op, l.dir, ErrClosed)
	case l.opt.ReadOnly:
		return fail.Wrap(fail.Refused, op, l.dir, ErrReadOnly)
	}
	return l.poison
}

// poisonLocked ends all acknowledgement by this handle.
func (l *Log) poisonLocked(op, file string, cause error) error {
	if l.poison == nil {
		l.poison = poisonedError(op, file, cause)
		l.wakeAllLocked()
	}
	return l.poison
}

func (l *Log) poisonNow(op, file string, cause error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.poisonLocked(op, file, cause)
}

// Close makes everything durable, marks the log as closed in order and releases
// it. Whoever waits gets ErrClosed. A poisoned log is closed without a mark. A
// second Close returns ErrClosed.
func (l *Log) Close() error {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return fail.Wrap(fail.Refused, "close wal", l.dir, ErrClosed)
	}
	l.mu.Unlock()
	close(l.stop)
	l.done.Wait()
	var err error
	if !l.opt.ReadOnly {
		err = l.seal()
	}
	l.mu.Lock()
	l.closed = true
	l.wakeAllLocked()
	for l.syncing { // a leader still uses the file
		ch := l.advancedLocked()
		l.mu.Unlock()
		<-ch
		l.mu.Lock()
	}
	l.mu.Unlock()
	l.closeFiles()
	return err
}

// seal writes and syncs the mark of a clean stop.
func (l *Log) seal() error {
	l.mu.Lock()
	err := l.poison
	if err == nil {
		err = l.syncLocked(context.Background(), l.last)
	}
	s, h := l.active(), l.batchHeaderLocked(flagSeal)
	l.mu.Unlock()
	if err != nil || l.sealed || l.writeOff+blockBytes > s.sizeBytes {
		return err
	}
	buf, _ := encodeBatch(l.scratch, h, parts{})
	if _, err := s.file.WriteAt(buf, l.writeOff); err != nil {
		return l.poisonNow("seal wal", s.path, err)
	}
	if err := s.file.SyncData(); err != nil {
		return l.poisonNow("seal wal", s.path, err)
	}
	return nil
}

// closeFiles closes everything; a segment that is being read is closed by its
// last reader.
func (l *Log) closeFiles() {
	l.mu.Lock()
	segments := append(l.segments, l.freed...)
	spares := l.spares
	l.freed, l.spares = nil, nil
	l.mu.Unlock()
	for _, s := range segments {
		s.retire()
	}
	for _, s := range spares {
		_ = s.file.Close()
	}
	if l.dirFile != nil {
		_ = l.dirFile.Close()
	}
	if l.lockFile != nil {
		_ = l.lockFile.Close()
	}
}

// observeSyncLocked counts one sync that began at start.
func (l *Log) observeSyncLocked(start time.Time) {
	l.stats.Syncs++
	took := time.Since(start)
	l.stats.SyncSeconds += took.Seconds()
	if l.opt.OnSync != nil {
		l.opt.OnSync(took)
	}
}
