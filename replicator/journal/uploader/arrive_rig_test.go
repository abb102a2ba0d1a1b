package uploader

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/seed"
	"github.com/pollux-dr/pollux/replicator/journal"
	"github.com/pollux-dr/pollux/replicator/logtest"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/gc"
)

// sites is a journal that was at site a and wrote two logs, with other objects in each. What it
// wrote is in a third one, from which they are made.
type sites struct {
	rig     // of the journal at site b; its store is log b
	a       objstore.Store
	r       *rand.Rand
	log     *logtest.Log
	scratch objstore.Store
	logA    *framer
	logB    *framer
	pair    []string // the targets
	s       *sender
	fenced  bool // another writer has log a, and its uploader ends
}

// siteVolume is small: all of it is restored at each point.
const siteVolume = 128 << 10

func newSites(t *testing.T) *sites {
	x := &sites{rig: rig{t: t, fs: vfs.NewMem()}, r: rand.New(rand.NewPCG(seed.New(t), 1)), pair: []string{"b", "a"}}
	for dir, s := range map[string]*objstore.Store{"/a": &x.a, "/b": &x.store, "/scratch": &x.scratch} {
		if err := x.fs.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if *s, err = objstore.Open(t.Context(), "file://"+dir, objstore.Options{FS: x.fs}); err != nil {
			t.Fatal(err)
		}
	}
	x.log = logtest.New(t, x.scratch)
	x.log.Keeping, x.log.Step = true, time.Minute
	x.log.Command(state.KindGroupPut, state.Group{Name: "g", Ack: "local", Overflow: "throttle",
		PITR: "every-write", Retention: &state.Retention{EveryWriteSeconds: 3600}})
	x.log.Volume("v", siteVolume)
	x.logA, x.logB = newFramer(x, x.a), newFramer(x, x.store)
	return x
}

// framer makes a log of what the scratch log has, under a token of its own.
type framer struct {
	x     *sites
	store objstore.Store
	token segment.Token
	pos   uint64
	next  uint64
	// known is how much the scratch log's entries are.
	entries []segment.Entry
	bodies  [][]byte
	read    uint64 // objects of the scratch log
}

func newFramer(x *sites, s objstore.Store) *framer {
	return &framer{x: x, store: s, next: 1, token: segment.Token{Epoch: 1, Term: 1, Writer: uuid.New()}}
}

func (f *framer) put(obj []byte) {
	f.x.t.Helper()
	if err := f.store.Create(context.Background(), objlog.ObjectName(f.pos), obj); err != nil {
		f.x.t.Fatal(err)
	}
	f.pos++
}

func (f *framer) fence() {
	f.token.Term, f.token.Writer = f.token.Term+1, uuid.New()
	f.put(segment.Document(segment.Head{Type: segment.Fence, Journal: logtest.Journal, Token: f.token, ChecksTail: true,
		Position: f.pos, DurablePosition: f.pos, FirstIndex: f.next}, state.KindFence, state.Fence{NextIndex: f.next}))
}

// taken puts the fence of a site that took the log over under the next epoch, and gave that up.
func (f *framer) taken() {
	f.token = segment.Token{Epoch: f.token.Epoch + 1, Writer: uuid.New()}
	f.put(segment.Document(segment.Head{Type: segment.Fence, Journal: logtest.Journal, Token: f.token, ChecksTail: true,
		Position: f.pos, DurablePosition: f.pos, FirstIndex: f.next}, state.KindFence,
		state.Fence{NextIndex: f.next, Site: "c"}))
}

// upTo writes all up to a journal index, in objects of random sizes.
func (f *framer) upTo(index uint64) {
	t := f.x.t
	t.Helper()
	if f.pos == 0 {
		f.put(segment.Document(segment.Head{Type: segment.Identity, Journal: logtest.Journal,
			Token: segment.Token{Epoch: 1}, FirstIndex: 1}, state.KindIdentity,
			state.Identity{Journal: logtest.Journal, Format: state.FormatVersion, Site: "remote"}))
		f.fence()
	}
	for ; f.read < f.x.log.Position; f.read++ {
		obj, err := f.x.scratch.Read(context.Background(), objlog.ObjectName(f.read), 0, -1, nil)
		if err != nil {
			t.Fatal(err)
		}
		x, err := segment.Walk(obj, func(int, segment.Checked) {})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range x.Entries {
			if x.Type == segment.Segment {
				f.entries, f.bodies = append(f.entries, e), append(f.bodies, obj[e.Offset:][:e.Bytes])
			}
		}
	}
	for f.next <= index {
		n := min(index+1-f.next, uint64(1+f.x.r.IntN(9)))
		h := segment.Head{Type: segment.Segment, Journal: logtest.Journal, Token: f.token, ChecksTail: true,
			Position: f.pos, DurablePosition: f.pos, FirstIndex: f.next, LastIndex: f.next + n - 1,
			Time: f.x.log.Clock.UnixNano()}
		from := f.next - 1
		obj, err := segment.Build(h, slices.Clone(f.entries[from:from+n]), nil,
			func(i int, dst []byte) error { copy(dst, f.bodies[from+uint64(i)]); return nil })
		if err != nil {
			t.Fatal(err)
		}
		f.put(obj)
		if f.next += n; f.x.r.IntN(15) == 0 {
			f.fence()
		}
	}
}

// write adds random frames, and says which journal index they end at.
func (x *sites) write(n int) uint64 {
	x.log.Random(x.r, n)
	f := newFramer(x, x.scratch)
	for pos := uint64(1); pos < x.log.Position; pos++ {
		h, err := objlog.ReadIndex(context.Background(), x.scratch, pos)
		if err != nil {
			x.t.Fatal(err)
		}
		if h.Type == segment.Segment {
			f.next = h.LastIndex + 1
		}
	}
	return f.next - 1
}

// collect makes a catalog of a log and has garbage collected, now and then.
func (x *sites) collect(s objstore.Store, all bool) {
	x.t.Helper()
	now := func() time.Time { return x.log.Clock }
	if _, err := gc.Catalog(context.Background(), s, gc.Options{Dir: x.t.TempDir(), Now: now}); err != nil {
		x.t.Fatal(err)
	}
	for n := 0; all && n < 3; n++ {
		rep, err := gc.Collect(context.Background(), s, gc.CollectOptions{SparseBelow: gc.DefaultSparseBelow,
			Options: gc.Options{Dir: x.t.TempDir(), Now: now}})
		if err != nil {
			x.t.Fatal(err)
		}
		x.t.Logf("gc: floor %d of %d, %d deleted, %d packs", rep.Floor, rep.Position, rep.Deleted.Objects,
			rep.Packs.Objects)
	}
}

// moveHorizon says what the journal says: what the stream had a window ago.
func (x *sites) moveHorizon() {
	at := x.log.Clock.Add(-time.Hour)
	h := state.StreamHorizon{Groups: map[string]time.Time{"g": at}, Streams: map[change.StreamID]uint64{}}
	for lsn, t := range x.log.Times {
		if !t.After(at) && lsn > h.Streams[x.log.Stream] {
			h.Streams[x.log.Stream] = lsn
		}
	}
	x.log.Command(state.KindStreamHorizon, h)
	x.log.Segment()
}

// dead writes what only log a gets: it stays in the scratch log behind what is common.
func (x *sites) dead(n int) (last uint64) {
	common := *x.log
	common.Images = map[string][]byte{"v": bytes.Clone(x.log.Images["v"])}
	common.History, common.Times, common.Exact = maps.Clone(x.log.History), maps.Clone(x.log.Times),
		maps.Clone(x.log.Exact)
	last = x.write(n)
	*x.log, common = common, *x.log
	x.log.Position = common.Position // of the scratch log
	return last
}

// failOver has the journal go on at site b, from log b.
func (x *sites) failOver() {
	t := x.t
	t.Helper()
	l, err := twin.Open(t.Context(), x.store, nil)
	if err != nil || l.Damage != nil {
		t.Fatal(err, l)
	}
	end := l.ReadPoint(x.log.Clock)
	token := segment.Token{Epoch: 2, Writer: uuid.New()}
	points := map[change.StreamID]change.Point{x.log.Stream: x.log.Point}
	if err := x.store.Create(t.Context(), objlog.ObjectName(end.Position), segment.Document(segment.Head{
		Type: segment.Fence, Journal: logtest.Journal, Token: token, ChecksTail: true, Position: end.Position,
		DurablePosition: end.Position, FirstIndex: end.Index + 1}, state.KindFence,
		state.Fence{NextIndex: end.Index + 1, Streams: points, Site: "b"})); err != nil {
		t.Fatal(err)
	}
	h := &journal.Heritage{Journal: logtest.Journal, Created: x.log.Clock, Epoch: 2, Site: "b", Next: end.Index + 1,
		How: state.MoveForced, Time: x.log.Clock, State: l.State, Points: points,
		Targets: map[string]journal.InheritedTarget{
			"b": {Target: journal.Target{Required: true, Position: end.Position + 1, Index: end.Index, Token: token},
				Streams: points},
			"a": {Target: journal.Target{Required: true, LetGo: &journal.LetGo{Reason: "for a test"}}}}}
	if err := journal.Inherit(x.fs, "/j", h); err != nil {
		t.Fatal(err)
	}
	x.openSites()
	t.Cleanup(func() { _ = x.j.Close() })
}

func (x *sites) openSites() {
	var err error
	if x.j, err = journal.Open(context.Background(), journal.Options{Dir: "/j", FS: x.fs, Targets: x.pair,
		Required: x.pair, Site: "b", Election: 5 * time.Millisecond, LogSegmentBytes: 1 << 20,
		Places: map[string]journal.TargetPlace{"a": {Site: "a"}, "b": {Site: "b"}}}); err != nil {
		x.t.Fatal(err)
	}
}

// cutStore carries out so many creates, and the answer to the last is lost.
type cutStore struct {
	objstore.Store
	left atomic.Int64
}

var errCut = fail.New(fail.Retry, "reach", "store", "it is cut off")

func (c *cutStore) Create(ctx context.Context, name string, body []byte) error {
	n := c.left.Add(-1)
	if n < 0 {
		return errCut
	}
	err := c.Store.Create(ctx, name, body)
	if n == 0 && err == nil {
		return errCut
	}
	return err
}

// run starts both uploaders.
func (x *sites) run(a objstore.Store) (up *Uploader, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	with := func(s objstore.Store) objstore.Store {
		return objstore.WithRetry(s, objstore.Policy{Retryable: Retryable, MinBackoff: time.Millisecond})
	}
	stores := map[string]objstore.Store{"a": with(a), "b": with(x.store)}
	for name, s := range stores {
		o := Options{Target: name, Journal: x.j, Term: x.j.Term(), Store: s, SegmentBytes: 1 << 15,
			Siblings: maps.Clone(stores)}
		delete(o.Siblings, name)
		u := New(o)
		if name == "a" {
			up = u
		}
		go func() { done <- u.Run(ctx) }()
	}
	return up, func() {
		cancel()
		for range stores {
			if err := <-done; err != nil && !(x.fenced && fail.Is(err, fail.Fenced)) {
				x.t.Error(err)
			}
		}
	}
}

// more has the journal at site b accept frames.
func (x *sites) more(n int) {
	x.t.Helper()
	if x.s == nil {
		for !x.j.Leads() {
			time.Sleep(time.Millisecond)
		}
		x.s = x.connect(&sender{t: x.t, id: x.log.Stream, at: x.log.Point})
	}
	for range n {
		data := make([]byte, 1+x.r.IntN(30000))
		for i := range data {
			data[i] = byte(x.r.Uint32())
		}
		x.s.send(x.s.frame(x.log.Write("v", x.r.Int64N(siteVolume-int64(len(data))), data)))
		x.log.Point = x.s.at
		x.log.Keep()
	}
}

func (x *sites) inLine(up *Uploader) {
	x.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		a, last := x.j.Target("a"), x.j.LastIndex()
		if a.LetGo == nil && a.Index == last && x.j.Target("b").Index == last {
			return
		}
		if time.Now().After(deadline) {
			x.t.Fatalf("a %+v, b %+v of %d; %+v", a, x.j.Target("b"), last, up.Status())
		}
	}
}

// equal holds each point of a log against what the volume had there, and returns them; those from
// first on must be points.
func (x *sites) equal(s objstore.Store, first uint64) (points []uint64) {
	t := x.t
	t.Helper()
	l, err := twin.Open(t.Context(), s, nil)
	if err != nil || l.Damage != nil {
		t.Fatal(err, l.Damage)
	}
	v, err := l.Volume("v")
	if err != nil {
		t.Fatal(err)
	}
	for lsn, want := range x.log.History {
		if want["v"] == nil {
			continue
		}
		p, err := l.Resolve(t.Context(), v, fmt.Sprint(lsn), x.log.Clock)
		got := memory(make([]byte, siteVolume))
		if err == nil {
			_, err = l.Restore(t.Context(), p, got)
		}
		if err != nil {
			if lsn >= first {
				t.Errorf("%s: LSN %d, from %d on are points: %v", s.URL(), lsn, first, err)
			}
			continue
		}
		if points = append(points, lsn); !bytes.Equal(got, want["v"]) {
			t.Errorf("%s: LSN %d differs", s.URL(), lsn)
		}
	}
	if r, ok := l.RangeOf(x.log.Stream); !ok || r.LastLSN != x.log.Point.LSN || len(points) == 0 {
		t.Errorf("%s: points %+v, the stream ends at %v; %d read", s.URL(), r, x.log.Point, len(points))
	}
	totals, err := twin.Examine(t.Context(), s, func(*twin.Object) error { return nil })
	if err == nil {
		err = totals.Err()
	}
	if err != nil {
		t.Errorf("%s: %v", s.URL(), err)
	}
	slices.Sort(points)
	return points
}

type memory []byte

func (m memory) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

// oldest is the first LSN that is a point of a log.
func (x *sites) oldest(s objstore.Store) uint64 {
	l, err := twin.Open(x.t.Context(), s, nil)
	if err != nil {
		x.t.Fatal(err)
	}
	r, _ := l.RangeOf(x.log.Stream)
	return r.FirstLSN
}
