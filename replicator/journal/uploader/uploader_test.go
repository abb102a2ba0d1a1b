package uploader

import (
	"context"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/journal"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
)

// rig is a journal on a disk of memory and a store.
type rig struct {
	t     *testing.T
	fs    vfs.FS
	j     *journal.Journal
	store objstore.Store
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, fs: vfs.NewMem()}
	if err := r.fs.MkdirAll("/remote", 0o755); err != nil {
		t.Fatal(err)
	}
	var err error
	if r.store, err = objstore.Open(context.Background(), "file:///remote", objstore.Options{FS: r.fs}); err != nil {
		t.Fatal(err)
	}
	r.open()
	t.Cleanup(func() { _ = r.j.Close() })
	return r
}

func (r *rig) open() {
	var err error
	r.j, err = journal.Open(context.Background(), journal.Options{Dir: "/j", FS: r.fs, Targets: []string{"x"},
		Required: []string{"x"}, Election: 5 * time.Millisecond, LogSegmentBytes: 1 << 20})
	if err != nil {
		r.t.Fatal(err)
	}
}

// run starts an uploader and returns a function that stops it and tells how it
// ended.
func (r *rig) run() (u *Uploader, stop func() error) {
	u = New(Options{Target: "x", Journal: r.j, Term: r.j.Term(),
		Store: objstore.WithRetry(r.store, objstore.Policy{Retryable: Retryable})})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- u.Run(ctx) }()
	return u, func() error { cancel(); return <-done }
}

func (r *rig) propose(n int) {
	for range n {
		if _, err := r.j.Propose(state.KindHeartbeat, state.Heartbeat{}); err != nil {
			r.t.Fatal(err)
		}
	}
}

// await polls until the target has everything.
func (r *rig) await() {
	for deadline := time.Now().Add(20 * time.Second); r.j.Target("x").Index < r.j.LastIndex(); {
		if time.Now().After(deadline) {
			r.t.Fatalf("the target stays at %+v, the journal is at %d", r.j.Target("x"), r.j.LastIndex())
		}
		time.Sleep(time.Millisecond)
	}
}

// alien creates an object of another writer at a position.
func (r *rig) alien(pos uint64, token segment.Token, typ segment.Type) {
	id, _, _ := r.j.ID()
	kind, doc := state.KindFence, any(state.Fence{NextIndex: 1})
	h := segment.Head{Type: typ, Journal: id, Token: token, Position: pos, FirstIndex: 1}
	if err := r.store.Create(context.Background(), objlog.ObjectName(pos), segment.Document(h, kind, doc)); err != nil {
		r.t.Fatal(err)
	}
}

func TestUploadsEverythingInOrder(t *testing.T) {
	r := newRig(t)
	_, stop := r.run()
	r.propose(50)
	r.await()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	next := uint64(1)
	for pos := uint64(1); pos < r.j.Target("x").Position; pos++ {
		x, err := objlog.ReadIndex(context.Background(), r.store, pos)
		if err != nil {
			t.Fatal(err)
		}
		if x.Type == segment.Segment {
			if x.FirstIndex != next {
				t.Fatalf("position %d begins at index %d, want %d", pos, x.FirstIndex, next)
			}
			next = x.LastIndex + 1
		}
	}
	if next != r.j.LastIndex()+1 {
		t.Errorf("the log ends before index %d, the journal at %d", next, r.j.LastIndex())
	}
}

// TestZombieIsSteppedOver: an object that a fenced writer creates beyond our
// fence is void, and costs nothing but its position.
func TestZombieIsSteppedOver(t *testing.T) {
	r := newRig(t)
	for _, pos := range []uint64{3, 4, 6} {
		r.alien(pos, segment.Token{Epoch: 1, Term: 1, Writer: uuid.New()}, segment.Fence)
	}
	_, stop := r.run()
	for range 8 {
		r.propose(1)
		r.await()
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for _, pos := range []uint64{2, 5, 7} {
		x, err := objlog.ReadIndex(context.Background(), r.store, pos)
		if err != nil || x.Type != segment.Segment || x.Position != pos {
			t.Errorf("position %d: %+v, %v", pos, x, err)
		}
	}
}

// TestHigherTokenFences: who meets a newer writer stops, and says so.
func TestHigherTokenFences(t *testing.T) {
	for name, pos := range map[string]uint64{"at the start": 1, "on the way": 4} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.alien(pos, segment.Token{Epoch: 9, Term: 1, Writer: uuid.New()}, segment.Fence)
			u, stop := r.run()
			r.propose(1)
			for deadline := time.Now().Add(20 * time.Second); !u.Status().Stopped; r.propose(1) {
				if time.Now().After(deadline) {
					t.Fatal("it goes on")
				}
			}
			if err := stop(); !fail.Is(err, fail.Fenced) || !u.Status().Fenced {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

// TestAdoptsWhatLanded: objects that were created, but not committed as uploaded
// before the stop, are taken over by the next writer and not written twice.
func TestAdoptsWhatLanded(t *testing.T) {
	r := newRig(t)
	_, stop := r.run()
	r.propose(5)
	r.await()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	// The next entry lands under the old token; its Uploaded does not.
	r.propose(1)
	tgt := r.j.Target("x")
	id, _, _ := r.j.ID()
	var e journal.Entry
	if err := r.j.Entries(tgt.Index+1, func(x journal.Entry) bool { e = x; return false }); err != nil {
		t.Fatal(err)
	}
	h := segment.Head{Type: segment.Segment, Journal: id, Token: tgt.Token, Position: tgt.Position,
		FirstIndex: e.Index, LastIndex: e.Index}
	obj, err := segment.Build(h, []segment.Entry{e.Entry}, nil,
		func(_ int, dst []byte) error { return r.j.Fetch(&e, dst) })
	if err != nil {
		t.Fatal(err)
	}
	if err := r.store.Create(context.Background(), objlog.ObjectName(tgt.Position), obj); err != nil {
		t.Fatal(err)
	}
	if err := r.j.Close(); err != nil {
		t.Fatal(err)
	}
	r.open()
	_, stop = r.run()
	r.propose(1)
	r.await()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	x, err := objlog.ReadIndex(context.Background(), r.store, tgt.Position+1)
	if err != nil || x.Type != segment.Fence || x.FirstIndex != e.Index+1 {
		t.Errorf("after the adopted object: %+v, %v; want the new writer's fence for index %d", x, err, e.Index+1)
	}
}

// TestAnotherJournalIsRefused: a prefix belongs to one journal.
func TestAnotherJournalIsRefused(t *testing.T) {
	r := newRig(t)
	h := segment.Head{Type: segment.Identity, Journal: uuid.New(), Token: segment.Token{Epoch: 1}, FirstIndex: 1}
	if err := r.store.Create(context.Background(), objlog.ObjectName(0), segment.Document(h, state.KindIdentity,
		state.Identity{Journal: h.Journal, Format: state.FormatVersion})); err != nil {
		t.Fatal(err)
	}
	u, stop := r.run()
	for deadline := time.Now().Add(20 * time.Second); !u.Status().Stopped && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if err := stop(); !fail.Is(err, fail.Fenced) {
		t.Errorf("ended with %v", err)
	}
}
