package uploader

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/journal"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// Options configure an Uploader. Zero values take the defaults.
type Options struct {
	Target  string
	Journal *journal.Journal
	Term    uint64 // of the lead under which it runs; see journal.Lead
	// Store retries whatever is Retryable, until its context ends, and compares
	// after a lost reply (objstore.WithRetry).
	Store objstore.Store
	// Siblings are the journal's other targets, as Store is. The target is filled
	// from them where the journal no longer has what it lacks.
	Siblings map[string]objstore.Store
	// Dates collects the times of Store's answers.
	Dates *objstore.Dates
	// SinceBoot is the machine's age; nil is the real one.
	SinceBoot func() time.Duration
	Logger    *slog.Logger
	// RequestsPerSecond and Burst bound the objects created; 0 per second is
	// unlimited.
	RequestsPerSecond float64
	Burst             int
	// InFlight is the number of objects on their way, up to segment.MaxInFlight.
	InFlight int
	// SegmentBytes is the size at which an object is closed.
	SegmentBytes int
	// FoldFromBytes is the backlog from which on frames are folded where that is
	// faster than the link. Below 0 (for tests) all are that may be.
	FoldFromBytes int64
}

const (
	defaultInFlight     = 4
	defaultSegmentBytes = 8 << 20
	// pipelineBytes: while an object is on its way, the next one starts only
	// when it has this much. Below, waiting makes it larger at no cost in lag.
	pipelineBytes = 1 << 20
	// maxFlyingBytes: with so much on its way nothing is added, to bound memory.
	maxFlyingBytes = 32 << 20
)

// Uploader writes one object log.
type Uploader struct {
	o     Options
	token segment.Token
	store *objstore.Limited
	tail  tail
	// unknown: the journal knew nothing of the log when it was claimed.
	unknown bool
	// points are where the log brings each stream, with what is on its way.
	points map[change.StreamID]change.Point
	// reached is that at the end of the catalog from which a log is walked to which it arrives.
	reached map[change.StreamID]change.Point

	pos  uint64 // next position to use
	next uint64 // next journal index to upload

	batch      []journal.Entry // collected for the next object
	batchBytes int
	batchFull  bool
	catching   bool // what waits is being folded
	window     int  // bytes of frames that may be folded into one object

	filler  *filler // reads a sibling's log; nil while the journal has what is next
	nearEnd bool    // it has read up to where the sibling was

	careful int // objects still to be created one at a time

	mu                  sync.Mutex
	status              Status
	pace                pace
	flying, flyingBytes int
	pipeline            int // bytes; pipelineBytes but for a test
	hurried             bool
	began               map[uint64]time.Time // by position: objects under way
	landed              chan struct{}        // an object was created, or counts

	order chan *object // in the order of positions
	pool  sync.Pool
}

// Status is where the target's log stands.
type Status struct {
	Target      string
	URL         string
	Position    uint64 // objects in the log
	Index       uint64 // last journal index in it
	LastSuccess time.Time
	Err         error // why it does not go on just now
	Fenced      bool  // for good: another writer owns the log
	Stopped     bool  // for good, as Err says
	Filling     bool  // from a sibling's log
	Claimed     bool  // the log is ours
	// SeedBytes of SeedTotal were copied from a sibling's log to begin this one; 0 of 0: none are to be.
	SeedBytes, SeedTotal int64
	// OldestRequest is when the oldest object under way was sent; zero: none is.
	OldestRequest time.Time
	Objects       int64 // created by this process
	Bytes         int64
	// FoldedFrom bytes of frames became FoldedTo bytes of folds.
	FoldedFrom, FoldedTo int64
}

// New prepares an uploader; Run does the work.
func New(o Options) *Uploader {
	if o.InFlight == 0 {
		o.InFlight = defaultInFlight
	}
	o.InFlight = min(o.InFlight, segment.MaxInFlight)
	if o.SegmentBytes == 0 {
		o.SegmentBytes = defaultSegmentBytes
	}
	if o.FoldFromBytes == 0 {
		o.FoldFromBytes = defaultFoldFrom
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	_, epoch, _ := o.Journal.ID()
	u := &Uploader{o: o, token: segment.Token{Epoch: epoch, Term: o.Term, Writer: uuid.New()},
		store: objstore.WithRequests(o.Store, o.RequestsPerSecond, o.Burst), landed: make(chan struct{}, 1),
		careful: segment.MaxInFlight, order: make(chan *object, segment.MaxInFlight)}
	u.tail = newTail(o.Dates, o.SinceBoot)
	u.window, u.pipeline = maxWindowBytes, pipelineBytes
	u.began, u.pace = map[uint64]time.Time{}, newPace()
	u.points = map[change.StreamID]change.Point{}
	t := o.Journal.Target(o.Target)
	u.status = Status{Target: o.Target, URL: o.Store.URL(), Position: t.Position, Index: t.Index}
	return u
}

// Status returns a copy.
func (u *Uploader) Status() Status {
	u.mu.Lock()
	defer u.mu.Unlock()
	st := u.status
	for _, began := range u.began {
		if st.OldestRequest.IsZero() || began.Before(st.OldestRequest) {
			st.OldestRequest = began
		}
	}
	return st
}

// Hurry says that somebody waits for what the journal has now: until it is called again with
// false, an object does not wait for the one before it, nor for the request budget.
func (u *Uploader) Hurry(on bool) {
	u.mu.Lock()
	u.hurried = on
	u.mu.Unlock()
	u.store.Hurry(on)
}

// Token is the fence token that this uploader writes under.
func (u *Uploader) Token() segment.Token { return u.token }

// Run claims the log and feeds it until ctx ends, or until that is over for good:
// another writer has taken the log over (fail.Fenced), or this build cannot write it.
func (u *Uploader) Run(ctx context.Context) error {
	err := u.until(ctx, func() error { return u.claim(ctx) })
	if err == nil {
		err = u.feed(ctx)
	}
	if ctx.Err() != nil {
		return nil
	}
	u.note(err)
	u.mu.Lock()
	u.status.Stopped = true
	u.mu.Unlock()
	return err
}

// Waits between attempts: the first, doubled each time up to the longest.
const (
	firstWait   = 10 * time.Millisecond
	longestWait = 2 * time.Second
)

// until has f try until it succeeds, ctx ends or trying is no use. A log that is not there
// (a mount may be missing), an object that cannot be read, a journal whose disk is full:
// whatever may pass is waited out, and Status says what it is.
func (u *Uploader) until(ctx context.Context, f func() error) error {
	for wait := firstWait; ; wait = min(2*wait, longestWait) {
		err := f()
		if err == nil || final(err) || ctx.Err() != nil {
			return err
		}
		u.note(err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
	}
}

// final reports whether an error stays, under this lead at least.
func final(err error) bool {
	switch fail.KindOf(err) {
	case fail.Fenced, fail.Unsupported, fail.Refused:
		return true
	}
	return false
}

// commit has the journal record progress, in objects that are there by now. A repeat changes
// nothing.
func (u *Uploader) commit(ctx context.Context, up journal.Uploaded) error {
	if u.tail.due() && !u.adopting(up) {
		first := u.o.Journal.Target(u.o.Target).Position
		if first <= 1 { // its log was new to the journal, which has compared what it found there
			first = up.Position - 1
		}
		if err := u.until(ctx, func() error { return u.checkTail(ctx, first) }); err != nil {
			return err
		}
	}
	return u.until(ctx, func() error { return u.o.Journal.Uploaded(up) })
}

// adopting reports whether progress is in an object that was found in a log new to the journal.
func (u *Uploader) adopting(up journal.Uploaded) bool {
	return u.unknown && up.Token != u.token
}

// timed runs one Create and lets Status know since when.
func (u *Uploader) timed(pos uint64, create func() error) error {
	u.mu.Lock()
	u.began[pos] = time.Now()
	u.mu.Unlock()
	err := create()
	u.mu.Lock()
	delete(u.began, pos)
	u.mu.Unlock()
	return err
}

// note records success or what is wrong.
func (u *Uploader) note(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch was := u.status.Err; {
	case err != nil && was == nil:
		u.o.Logger.Warn("the target takes no objects; they collect here", "target", u.o.Target, "err", err,
			"hint", fail.HintOf(err))
	case err == nil && was != nil:
		u.o.Logger.Info("the target takes objects again", "target", u.o.Target)
	}
	u.status.Err = err
	if err == nil {
		u.status.LastSuccess = time.Now()
	} else if fail.Is(err, fail.Fenced) {
		u.status.Fenced = true
	}
}

// Retryable is the policy for a target's store: everything is waited out but
// what tells something about the log itself. Wrong credentials, a missing bucket
// or a full disk are for the operator to mend, while the entries wait.
func Retryable(err error) bool {
	switch fail.KindOf(err) {
	case fail.Exists, fail.NotFound, fail.Fenced, fail.Damaged, fail.Unsupported, fail.Refused:
		return false
	}
	return true
}

// Notify is for objstore.WithRetry: what is wrong while it retries.
func (u *Uploader) Notify(err error) { u.note(err) }

func streamsOf(entries []journal.Entry) map[change.StreamID]change.Point {
	m := map[change.StreamID]change.Point{}
	for i := range entries {
		if entries[i].OfStream() {
			m[entries[i].Stream] = change.Point{LSN: entries[i].LastLSN, Hash: entries[i].Hash}
		}
	}
	return m
}
