package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/agent/backing"
	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/transport"
)

// fakeJournal speaks a journal's protocol, and does what a test says.
type fakeJournal struct {
	dials, resyncs atomic.Int64

	mu          sync.Mutex
	down        bool
	points      map[change.StreamID]change.Point
	resyncing   map[change.StreamID]bool
	gaps        map[change.StreamID]change.Point // where the newest gap leads to
	durable     map[change.StreamID]uint64
	slowStore   bool          // nothing becomes durable by itself
	dieOnResync bool          // it takes ResyncBegin, and dies before its answer
	dieOnEnd    bool          // it takes ResyncEnd, and hangs up before its answer
	stall       chan struct{} // appends wait until it is closed; nil: they do not
	mute        bool          // it takes appends, and its acks are lost
	refused     int           // ends of a resync that it did not take
	delay       time.Duration
	conns       []*transport.Conn
}

func newFakeJournal() *fakeJournal {
	return &fakeJournal{points: map[change.StreamID]change.Point{}, resyncing: map[change.StreamID]bool{},
		gaps: map[change.StreamID]change.Point{}, durable: map[change.StreamID]uint64{}}
}

func (j *fakeJournal) dial(context.Context) (net.Conn, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.down {
		return nil, errors.New("no journal")
	}
	j.dials.Add(1)
	a, b := net.Pipe()
	c := transport.NewConn(b, time.Minute)
	j.conns = append(j.conns, c)
	go j.serve(c)
	return a, nil
}

func (j *fakeJournal) setDown(down bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.down = down; down {
		j.cutLocked()
	}
}

func (j *fakeJournal) cutLocked() {
	for _, c := range j.conns {
		c.Close()
	}
	j.conns = nil
}

func (j *fakeJournal) at(id change.StreamID) (p change.Point, resyncing bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.points[id], j.resyncing[id]
}

func (j *fakeJournal) attached(id change.StreamID) change.Attached {
	j.mu.Lock()
	defer j.mu.Unlock()
	return change.Attached{Stream: id, Lease: change.Lease{Epoch: 1, Number: uint64(j.dials.Load())},
		Committed: j.points[id], Released: j.points[id].LSN, Durable: j.durable[id],
		Voters: 3, Unsound: j.resyncing[id], Gap: j.gaps[id]}
}

// serve answers in the order of the requests, but never keeps a request waiting for
// the reader of an answer.
func (j *fakeJournal) serve(c *transport.Conn) {
	defer c.Close()
	type answer struct {
		typ change.MessageType
		v   any
	}
	answers := make(chan answer, 1<<16)
	defer close(answers)
	go func() {
		for a := range answers {
			_ = c.Send(uint16(a.typ), change.Encode(a.v))
		}
	}()
	say := func(typ change.MessageType, v any) { answers <- answer{typ, v} }
	for {
		typ, b, err := c.Recv()
		if err != nil {
			return
		}
		switch change.MessageType(typ) {
		case change.MsgHello:
			say(change.MsgWelcome, change.Welcome{Journal: uuid.NewString(), Epoch: 1})
		case change.MsgAttach:
			var r change.Attach
			_ = change.Decode(b, &r)
			say(change.MsgAttached, j.attached(r.Stream))
		case change.MsgResync:
			var r change.Resync
			_ = change.Decode(b, &r)
			switch alive, begun := j.resync(&r); {
			case !alive:
				return
			case begun:
				say(change.MsgAttached, j.attached(r.Stream))
			default:
				say(change.MsgAck, j.ack(r.Stream))
			}
		case change.MsgAppend:
			a, err := change.ParseAppend(b)
			if err != nil || !j.append(&a) {
				return
			}
			if !j.isMute() {
				say(change.MsgAck, j.ack(a.Stream))
			}
		}
	}
}

func (j *fakeJournal) isMute() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.mute
}

func (j *fakeJournal) setMute(mute bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.mute = mute
}

func (j *fakeJournal) ack(id change.StreamID) change.Ack {
	at := j.attached(id)
	return change.Ack{Stream: id, Committed: at.Committed, Released: at.Released, Durable: at.Durable,
		Voters: 3, Unsound: at.Unsound}
}

// resync refuses what the journal refuses, and hangs up as it does.
func (j *fakeJournal) resync(r *change.Resync) (alive, begun bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if r.End > 0 {
		if j.resyncing[r.Stream] && (j.gaps[r.Stream] != r.To || r.End > j.points[r.Stream].LSN) {
			j.refused++
			return false, false
		}
		j.resyncing[r.Stream] = false
		alive, j.dieOnEnd = !j.dieOnEnd, false
		return alive, false
	}
	if j.points[r.Stream] != r.From || r.To.LSN <= r.From.LSN {
		return false, false
	}
	j.points[r.Stream], j.resyncing[r.Stream], j.gaps[r.Stream] = r.To, true, r.To
	j.resyncs.Add(1)
	if j.dieOnResync {
		j.dieOnResync, j.down = false, true
		return false, false
	}
	return true, true
}

func (j *fakeJournal) append(a *change.Append) bool {
	j.mu.Lock()
	stall, delay := j.stall, j.delay
	j.mu.Unlock()
	if stall != nil {
		<-stall
	}
	time.Sleep(delay)
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range a.Items {
		h, hash, err := change.ParseHeader(a.Items[i].Header)
		at := j.points[a.Stream]
		if err != nil || h.Stream != a.Stream || (h.LastLSN > at.LSN && h.Follows(at) != nil) {
			return false
		}
		if h.LastLSN > j.points[a.Stream].LSN {
			j.points[a.Stream] = change.Point{LSN: h.LastLSN, Hash: hash}
		}
	}
	if !j.slowStore {
		j.durable[a.Stream] = j.points[a.Stream].LSN
	}
	return true
}

// overflowing are options with which a WAL overflows soon.
func overflowing(t *testing.T, j *fakeJournal) Options {
	o := regressOpts(t)
	o.WALBudgetBytes, o.WALSegmentBytes, o.WALReserveBytes, o.NoCompression = 16<<20, 1<<20, 1<<20, true
	o.CheckpointInterval, o.SpillAfter = 10*time.Millisecond, 200*time.Millisecond
	o.Dial = j.dial
	return o
}

const fakeVolumeBytes = 8 << 20

// addGroup makes a group with one volume, named like it.
func addGroup(t *testing.T, a *Agent, group string, number uint32, overflow string) (StreamConf, block.Device) {
	t.Helper()
	s := StreamConf{ID: uuid.New(), Number: number, Group: group, Policy: Policy{Overflow: overflow}}
	if err := a.AddStream(s); err != nil {
		t.Fatal(err)
	}
	vc := VolumeConf{Name: group, Number: number + 1, Group: group, Stream: s.ID, SizeBytes: fakeVolumeBytes,
		Backing: filepath.Join(t.TempDir(), "v")}
	if _, err := a.AddVolume(context.Background(), vc); err != nil {
		t.Fatal(err)
	}
	dev, err := a.Device(group)
	if err != nil {
		t.Fatal(err)
	}
	return s, dev
}

func streamStatus(a *Agent, id change.StreamID) StreamStatus {
	for _, s := range a.Status().Streams {
		if s.Conf.ID == id {
			return s
		}
	}
	return StreamStatus{}
}

// fillBlocks writes n times 64 random blocks, each time with a flush.
func fillBlocks(t *testing.T, dev block.Device, n int) {
	t.Helper()
	data := make([]byte, 4096)
	for range n {
		for range 64 {
			data[0], data[1] = byte(rand.Uint32()), 1
			writeDevice(t, dev, data, rand.Int64N(fakeVolumeBytes/4096)*4096)
		}
		if err := dev.Flush(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not in time", what)
		}
	}
}

// shipped waits until the journal has all of a stream, and no overflow is left.
func shipped(t *testing.T, a *Agent, id change.StreamID) {
	t.Helper()
	eventually(t, "the journal has all", func() bool {
		s := streamStatus(a, id)
		return s.Committed.LSN == s.LastLSN && s.Overflow == nil
	})
}

// faultyBacking fails reads, or stops one.
type faultyBacking struct {
	backing.Backing
	fail *atomic.Bool
	gate *atomic.Pointer[readGate]
}

// readGate stops the first read of a byte after the bytes were read.
type readGate struct {
	off              int64
	entered, release chan struct{}
	once             sync.Once
}

func (b faultyBacking) ReadAt(p []byte, off int64) error {
	if b.fail.Load() {
		return errors.New("EIO")
	}
	err := b.Backing.ReadAt(p, off)
	if g := b.gate.Load(); g != nil && off <= g.off && off+int64(len(p)) > g.off {
		g.once.Do(func() {
			close(g.entered)
			<-g.release
		})
	}
	return err
}
