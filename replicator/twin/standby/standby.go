package standby

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/notify"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
)

// Volume is one that is wanted, and where its image is to be: a file, or a block device.
type Volume struct {
	Name string
	Path string
}

// Options are what Open needs. All but Store, Dir and Want have defaults.
type Options struct {
	Store objstore.Store // with retries: what fails here is shown, and tried again
	Dir   string         // cursor, control state and staged objects; nobody else's
	FS    vfs.FS         // of Dir; nil is vfs.Default
	// Want says which volumes are followed, by the control state of the log. It must not
	// keep the state. What it no longer names stays as a file, and is followed no more.
	Want func(*state.State) []Volume
	// Delay is how old an object must be before it is applied: by the time at which the
	// journal wrote it, against Now. 0: at once.
	Delay time.Duration
	// BytesPerSecond bounds what copies read from the store; 0 does not.
	BytesPerSecond int64
	// StageBytes bounds what is staged, but for one object and what is being applied;
	// default 1 GiB.
	StageBytes int64
	// MinPoll and MaxPoll bound how often a position that is not there is asked for; 50 ms
	// and 1 s. Hint, if set, wakes it.
	MinPoll, MaxPoll time.Duration
	Hint             <-chan struct{}
	Logger           *slog.Logger     // nil: none
	Now              func() time.Time // nil is the clock

	disk disk // nil is the system's files and devices
}

func (o *Options) setDefaults() {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.StageBytes <= 0 {
		o.StageBytes = 1 << 30
	}
	if o.MinPoll <= 0 {
		o.MinPoll = 50 * time.Millisecond
	}
	if o.MaxPoll <= 0 {
		o.MaxPoll = time.Second
	}
	o.MaxPoll = max(o.MaxPoll, o.MinPoll)
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if o.Now == nil {
		o.Now = clock.Now
	}
	if o.disk == nil {
		o.disk = osDisk{}
	}
}

// Held is what an image holds: a consistent recovery point of a volume.
type Held struct {
	Path   string
	Stream change.StreamID
	LSN    uint64
	Hash   change.Hash // of the frame that ends at LSN
	Epoch  uint64      // of the log
}

// Standby follows one log. Open makes one, Run follows, CatchUp ends it.
type Standby struct {
	o     Options
	delay time.Duration // o's, which CatchUp changes under whoever asks for the status

	// Of whoever follows: Run's goroutine, or CatchUp's once that has ended.
	stage    *stage
	fetched  uint64    // the first position behind the cursor that is not staged
	seen     time.Time // when an object, or the newest catalog, last showed that no position was freed
	missed   time.Time // since when the next position is missing; zero: it is not known to be
	passed   uint64    // the newest catalog that was looked at, plus one
	width    int       // how many objects are asked for at once
	coming   []*coming // those, from fetched on
	ahead    bool      // they may come while others are applied
	decoder  decoder
	gathered gather // memory of the batch that is written
	whole    bool   // only whole images count: CatchUp has begun

	mu    sync.Mutex // of what follows; held while a batch is applied, or the last step of a copy made
	cur   *cursor    // nil before the log was opened for the first time
	state *state.State
	files map[string]file // open images of volumes that are followed
	retry map[string]time.Time

	wake chan struct{} // for the copier: there is something to bring

	running sync.Mutex // held by Run
	stop    context.CancelFunc
	stopped bool
	// fetching are the requests for objects.
	fetching sync.WaitGroup
	control  sync.Mutex // of stop and stopped

	shown shown
	// Data that was written to images since the start: by copies and by what differed, and by following.
	brought, applied atomic.Int64
	taken            notify.Notifier // after every batch
}

// Open reads what an earlier run left, and asks the store for nothing. Errors: fail.Damaged where
// the cursor is, fail.Unsupported where it is of a later release, fail.Denied.
func Open(o Options) (*Standby, error) {
	o.setDefaults()
	s := &Standby{o: o, delay: o.Delay, files: map[string]file{}, retry: map[string]time.Time{},
		wake: make(chan struct{}, 1), width: 1, gathered: gather{limit: gatherBytes}}
	var err error
	if err = o.FS.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fail.Wrap(fail.Denied, "create", o.Dir, err)
	}
	if err := atomicfile.SyncDir(o.FS, o.FS.PathDir(o.Dir)); err != nil {
		return nil, fail.Wrap(fail.Full, "sync", o.FS.PathDir(o.Dir), err)
	}
	if s.stage, err = openStage(o.FS, o.FS.PathJoin(o.Dir, "staged")); err != nil {
		return nil, err
	}
	c := &cursor{}
	found, err := loadFile(o.FS, s.cursorPath(), c)
	if err != nil {
		return nil, err
	}
	if found {
		if s.state, err = loadState(o.FS, o.FS.PathJoin(o.Dir, c.State)); err != nil {
			return nil, err
		}
		s.cur = c
		s.resume()
		s.want()
	}
	s.publish()
	return s, nil
}

// now is the present cursor, nil where there is none yet. Cursors are replaced, and what of one is
// read here does not change.
func (s *Standby) now() *cursor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cur
}

func (s *Standby) cursorPath() string { return s.o.FS.PathJoin(s.o.Dir, "cursor.json") }

// resume finds out which of the staged objects follow the cursor.
func (s *Standby) resume() {
	s.stage.drop(s.cur.Position, s.held())
	for s.fetched = s.cur.Position; s.stage.has(s.fetched); s.fetched++ {
	}
}

// held are the staged positions before the cursor's that are needed.
func (s *Standby) held() map[uint64]bool {
	out := map[uint64]bool{}
	for _, st := range s.cur.Streams {
		for _, p := range st.Held {
			out[p.Position] = true
		}
	}
	return out
}

// save makes a cursor durable, and with it the control state where that has changed.
func (s *Standby) save(c *cursor, stateChanged bool) error {
	old := ""
	if s.cur != nil {
		old = s.cur.State
	}
	if stateChanged {
		c.State = stateName(c.Position)
		if err := saveState(s.o.FS, s.o.FS.PathJoin(s.o.Dir, c.State), s.state); err != nil {
			return err
		}
	}
	c.Version = fileVersion
	if err := saveFile(s.o.FS, s.cursorPath(), c); err != nil {
		return err
	}
	s.cur = c
	if old != "" && old != c.State {
		_ = s.o.FS.Remove(s.o.FS.PathJoin(s.o.Dir, old)) // in nobody's way
	}
	return nil
}

// Run follows until the context ends. What fails is shown in Status and tried again: its only
// error is that it runs already, or that CatchUp stopped the standby.
func (s *Standby) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s.control.Lock()
	if s.stopped {
		s.control.Unlock()
		return fail.New(fail.Refused, "follow", s.o.Store.URL(), "the standby was stopped")
	}
	if !s.running.TryLock() {
		s.control.Unlock()
		return fail.New(fail.Refused, "follow", s.o.Store.URL(), "the standby is running")
	}
	s.stop = stop
	s.control.Unlock()
	defer s.running.Unlock()
	var copies sync.WaitGroup
	copies.Go(func() { s.copyAll(ctx) })
	defer s.closeFiles()
	defer copies.Wait()
	defer s.endFetching()
	s.ahead = true
	poll := s.o.MinPoll
	for ctx.Err() == nil {
		busy, err := s.step(ctx)
		if ctx.Err() != nil {
			break
		}
		s.noteError(err)
		switch {
		case busy:
			poll = s.o.MinPoll
			continue
		case err != nil:
			poll = s.o.MaxPoll
		}
		s.wait(ctx, s.pollFor(poll))
		poll = min(2*poll, s.o.MaxPoll)
	}
	return nil
}

// wait is for the next poll, or a hint.
func (s *Standby) wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.o.Hint:
	case <-ctx.Done():
	}
}

// step does what there is to do; busy is that there may be more at once.
func (s *Standby) step(ctx context.Context) (busy bool, err error) {
	c := s.now()
	if c == nil {
		return true, s.begin(ctx)
	}
	fetched, ferr := 0, error(nil)
	if !c.torn() { // else what is noted comes first, and is here
		fetched, ferr = s.fetch(ctx)
	}
	applied, err := s.applyDue(ctx, everything, s.o.Now().Add(-s.o.Delay))
	if err == nil {
		err = ferr
	}
	if fetched > 0 && !applied {
		s.mu.Lock()
		s.publish()
		s.mu.Unlock()
	}
	return err == nil && (fetched > 0 || applied), err
}

const everything = ^uint64(0)

func (s *Standby) closeFiles() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.files {
		s.closeFile(name)
	}
}

func (s *Standby) closeFile(name string) {
	if f := s.files[name]; f != nil {
		if err := f.Close(); err != nil {
			s.o.Logger.Warn("an image did not close", "volume", name, "err", err)
		}
		delete(s.files, name)
	}
}
