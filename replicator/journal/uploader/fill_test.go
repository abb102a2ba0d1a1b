package uploader

import (
	"bytes"
	"context"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/journal"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
)

// pair is a journal with a required target, x, and an optional one, spare, whose store
// can be away.
type pair struct {
	rig
	away  atomic.Bool
	spare objstore.Store
	noise *rand.ChaCha8
}

const pairBudget = 8 << 20

func newPair(t *testing.T) *pair {
	p := &pair{rig: rig{t: t}, noise: rand.NewChaCha8([32]byte{1})}
	p.fs = errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if p.away.Load() && strings.HasPrefix(op.Path, "/spare") {
			return syscall.EIO
		}
		return nil
	}))
	for dir, s := range map[string]*objstore.Store{"/remote": &p.store, "/spare": &p.spare} {
		if err := p.fs.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if *s, err = objstore.Open(context.Background(), "file://"+dir, objstore.Options{FS: p.fs}); err != nil {
			t.Fatal(err)
		}
	}
	p.open()
	t.Cleanup(func() { _ = p.j.Close() })
	return p
}

func (p *pair) open() { p.openWith("x", "spare") }

// reopen starts the journal again, with these targets.
func (p *pair) reopen(targets ...string) {
	p.t.Helper()
	if err := p.j.Close(); err != nil {
		p.t.Fatal(err)
	}
	p.openWith(targets...)
}

func (p *pair) openWith(targets ...string) {
	var err error
	p.j, err = journal.Open(context.Background(), journal.Options{Dir: "/j", FS: p.fs, Targets: targets,
		Required: []string{"x"}, Election: 5 * time.Millisecond, LogSegmentBytes: 1 << 20, LogBudgetBytes: pairBudget,
		SnapshotBytes: 1 << 20})
	if err != nil {
		p.t.Fatal(err)
	}
}

// start runs both uploaders until the function that it returns is called.
func (p *pair) start() (spare *Uploader, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	with := func(s objstore.Store, notify func(error)) objstore.Store {
		return objstore.WithRetry(s, objstore.Policy{Retryable: Retryable, Notify: notify})
	}
	x := New(Options{Target: "x", Journal: p.j, Term: p.j.Term(), Store: with(p.store, nil)})
	spare = New(Options{Target: "spare", Journal: p.j, Term: p.j.Term(), SegmentBytes: 1 << 20,
		Store:    with(p.spare, func(err error) { spare.Notify(err) }),
		Siblings: map[string]objstore.Store{"x": with(p.store, nil)}})
	for _, u := range []*Uploader{x, spare} {
		go func() { done <- u.Run(ctx) }()
	}
	return spare, func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				p.t.Error(err)
			}
		}
	}
}

// write has the journal accept a number of bytes, in frames of 64 KiB.
func (p *pair) write(s *sender, bytes int) {
	p.t.Helper()
	for ; bytes > 0; bytes -= 64 << 10 {
		data := make([]byte, 64<<10)
		_, _ = p.noise.Read(data)
		s.send(s.frame(change.Change{Kind: change.Write, Volume: 1, Len: uint32(len(data)), Data: [][]byte{data}}))
	}
}

func (p *pair) until(what string, ok func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("%s does not come; x %+v, spare %+v, last %d", what, p.j.Target("x"),
				p.j.Target("spare"), p.j.LastIndex())
		}
	}
}

// hashes are the frames of a log in order; it fails unless the log is whole.
func (p *pair) hashes(s objstore.Store, position uint64) (out []change.Hash) {
	p.t.Helper()
	next, cur := uint64(1), segment.Token{}
	for pos := uint64(1); pos < position; pos++ {
		obj, err := s.Read(context.Background(), objlog.ObjectName(pos), 0, -1, nil)
		if err != nil {
			p.t.Fatal(err)
		}
		x, err := segment.Walk(obj, func(int, segment.Checked) {})
		if err != nil {
			p.t.Fatal(err)
		}
		if x.Position != pos || x.Token.Compare(cur) < 0 {
			p.t.Fatalf("position %d says %d, %v after %v", pos, x.Position, x.Token, cur)
		}
		if cur = x.Token; x.Type != segment.Segment {
			continue
		}
		if x.FirstIndex != next {
			p.t.Fatalf("position %d begins at index %d, %d is next", pos, x.FirstIndex, next)
		}
		next = x.LastIndex + 1
		for _, e := range x.Entries {
			if e.OfStream() {
				out = append(out, e.Hash)
			}
		}
	}
	if next != p.j.LastIndex()+1 {
		p.t.Fatalf("the log ends at index %d, the journal at %d", next-1, p.j.LastIndex())
	}
	return out
}

// TestOptionalAwayHoldsNothingBack writes many times the journal's budget while the
// optional store is away, with a restart in between. No append waits for that store; it
// is let go, and filled from the other one under load when it is back.
func TestOptionalAwayHoldsNothingBack(t *testing.T) {
	p := newPair(t)
	_, stop := p.start()
	s := p.sender("every-write")
	p.write(s, 1<<20)
	p.until("the spare store's first part", func() bool { return p.j.Target("spare").Index == p.j.LastIndex() })
	p.away.Store(true)
	p.write(s, 3*pairBudget)
	p.until("the letting go", func() bool { return p.j.Target("spare").LetGo != nil })
	// What only that target needed is freed a moment later.
	p.until("room in the log", func() bool { return p.j.Status().LogBytes <= pairBudget })
	if st := p.j.Status(); p.j.Target("x").LetGo != nil {
		t.Errorf("%d bytes of log; %+v", st.LogBytes, st.Targets)
	}
	why := *p.j.Target("spare").LetGo
	if !strings.Contains(why.Reason, "optional") || why.Bytes < pairBudget/4 ||
		why.Time.IsZero() || why.Oldest.IsZero() {
		t.Errorf("let go for %+v", why)
	}

	stop()
	if err := p.j.Close(); err != nil {
		t.Fatal(err)
	}
	p.open()
	if got := p.j.Target("spare"); got.LetGo == nil || *got.LetGo != why {
		t.Fatalf("after a restart: %+v", got)
	}
	_, stop = p.start()
	s2 := p.again(s)
	p.write(s2, 2*pairBudget)
	p.away.Store(false)
	for filled := p.j.Target("spare"); filled.LetGo != nil; filled = p.j.Target("spare") { // under load
		p.write(s2, 256<<10)
		p.until("more in the spare store", func() bool {
			now := p.j.Target("spare")
			return now.Index > filled.Index || now.LetGo == nil
		})
	}
	p.write(s2, 1<<20)
	p.until("all of it in the spare store", func() bool {
		last := p.j.LastIndex()
		return p.j.Target("spare").Index == last && p.j.Target("x").Index == last
	})
	stop()
	want, got := p.hashes(p.store, p.j.Target("x").Position), p.hashes(p.spare, p.j.Target("spare").Position)
	if len(want) != len(got) {
		t.Fatalf("%d frames in the spare store, %d in the other", len(got), len(want))
	}
	for i := range want {
		if want[i] != got[i] {
			t.Fatalf("frame %d differs", i)
		}
	}
	if p.j.TargetPoints("spare")[s2.id] != s2.at {
		t.Errorf("the spare store's point is %v, want %v", p.j.TargetPoints("spare")[s2.id], s2.at)
	}
}

// again attaches a sender's stream after a restart.
func (p *pair) again(old *sender) *sender {
	s := p.connect(&sender{t: p.t, id: old.id})
	s.at = old.at
	return s
}

// TestNobodyHasItAnyMore: where garbage collection has freed what the target lacks, it
// stays let go, and says why and what to do.
func TestNobodyHasItAnyMore(t *testing.T) {
	p := newPair(t)
	_, stop := p.start()
	s := p.sender("every-write")
	p.write(s, 1<<20)
	p.until("the spare store's first part", func() bool { return p.j.Target("spare").Index == p.j.LastIndex() })
	p.away.Store(true)
	p.write(s, 2*pairBudget)
	p.until("the letting go", func() bool { return p.j.Target("spare").LetGo != nil })
	p.until("the required one", func() bool { return p.j.Target("x").Index == p.j.LastIndex() })
	stop()
	end := p.j.Target("spare").Index
	for pos := uint64(1); pos < p.j.Target("x").Position; pos++ {
		x, err := objlog.ReadIndex(context.Background(), p.store, pos)
		if err != nil {
			t.Fatal(err)
		}
		if x.Type == segment.Segment && x.FirstIndex <= end+5 {
			if err := p.store.Delete(context.Background(), objlog.ObjectName(pos)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := p.j.Close(); err != nil {
		t.Fatal(err)
	}
	p.open()
	p.away.Store(false)
	u, stop := p.start()
	defer stop()
	p.until("the reason", func() bool { return fail.Is(u.Status().Err, fail.Refused) })
	if err := u.Status().Err; !strings.Contains(err.Error(), "not in that log any more") ||
		!strings.Contains(fail.HintOf(err), "new, empty prefix") {
		t.Errorf("%v (%s)", err, fail.HintOf(err))
	}
	s2 := p.again(s)
	p.write(s2, 2*pairBudget) // and holds nothing back
	if p.j.Target("spare").LetGo == nil || u.Status().Stopped {
		t.Errorf("%+v, %+v", p.j.Target("spare"), u.Status())
	}
}

// TestWanted: of a sibling's object just the entries from the next one on are taken, of
// a void one none, and none where the entries before would be lost or said twice.
func TestWanted(t *testing.T) {
	cur := segment.Token{Epoch: 1, Term: 5}
	head := func(first, last uint64) segment.Head {
		return segment.Head{Type: segment.Segment, Token: cur, Position: 7, FirstIndex: first, LastIndex: last}
	}
	frame := func(index uint64) segment.Entry {
		return segment.Entry{Kind: segment.FrameEntry, Index: index, Covers: 1}
	}
	fold := func(index uint64, covers uint32) segment.Entry {
		return segment.Entry{Kind: segment.FoldEntry, Index: index, Covers: covers}
	}
	plain := []segment.Entry{frame(10), frame(11), frame(12)}
	folded := []segment.Entry{frame(11), fold(13, 2), fold(14, 2)} // 10 and 13, 12 and 14
	void := head(10, 12)
	void.Token.Term = 4
	fence := head(10, 9)
	fence.Type = segment.Fence
	for name, c := range map[string]struct {
		x    *segment.Index
		next uint64
		want int // -1: not there any more
	}{
		"whole":            {&segment.Index{Head: head(10, 12), Entries: plain}, 10, 3},
		"its end":          {&segment.Index{Head: head(10, 12), Entries: plain}, 12, 1},
		"before":           {&segment.Index{Head: head(10, 12), Entries: plain}, 13, 0},
		"beyond":           {&segment.Index{Head: head(10, 12), Entries: plain}, 9, -1},
		"void":             {&segment.Index{Head: void, Entries: plain}, 10, 0},
		"void, and beyond": {&segment.Index{Head: void, Entries: plain}, 9, 0},
		"a fence":          {&segment.Index{Head: fence}, 10, 0},
		"gone":             {nil, 10, 0},
		"folds":            {&segment.Index{Head: head(10, 14), Entries: folded}, 10, 3},
		"across a fold":    {&segment.Index{Head: head(10, 14), Entries: folded}, 12, -1},
		"inside a fold":    {&segment.Index{Head: head(10, 14), Entries: folded}, 14, -1},
	} {
		f := &filler{store: newPairStore(t), cur: cur}
		got, err := f.wanted(c.x, c.next)
		if c.want < 0 && !fail.Is(err, fail.NotFound) || c.want >= 0 && (err != nil || len(got) != c.want) {
			t.Errorf("%s: %d entries, %v; want %d", name, len(got), err, c.want)
		}
	}
}

func newPairStore(t *testing.T) objstore.Store {
	s, err := objstore.Open(t.Context(), "file:///s", objstore.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestFindPassesTheFences finds the place in a log with fences, void objects and a
// beginning that is gone.
func TestFindPassesTheFences(t *testing.T) {
	r := newRig(t)
	id, _, _ := r.j.ID()
	first := map[uint64]uint64{} // journal index -> position
	beat := state.Encode(state.KindHeartbeat, state.Heartbeat{})
	put := func(pos uint64, term, from, to uint64, typ segment.Type) {
		h := segment.Head{Type: typ, Journal: id, Token: segment.Token{Epoch: 1, Term: term}, Position: pos,
			FirstIndex: from, LastIndex: to}
		var entries []segment.Entry
		for range to + 1 - from {
			entries = append(entries,
				segment.Entry{Kind: segment.CommandEntry, Command: state.KindHeartbeat, Bytes: uint32(len(beat))})
		}
		b, err := segment.Build(h, entries, nil, func(_ int, dst []byte) error { copy(dst, beat); return nil })
		if err == nil && typ == segment.Fence {
			b = segment.Document(h, state.KindFence, state.Fence{NextIndex: from})
		}
		if err == nil {
			err = r.store.Create(t.Context(), objlog.ObjectName(pos), b)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	index, end := uint64(1), uint64(1)
	for term := uint64(2); term < 8; term++ {
		put(end, term, index, index-1, segment.Fence)
		end++
		for k := range uint64(30) {
			if k > 0 && k < 12 && k%3 == 0 { // of the fenced writer, further on in the journal
				put(end, term-1, index+40, index+41, segment.Segment)
				end++
			}
			put(end, term, index, index+1, segment.Segment)
			first[index] = end
			index, end = index+2, end+1
		}
	}
	const freed = 31
	for pos := range uint64(freed) {
		if err := r.store.Delete(t.Context(), objlog.ObjectName(pos)); err != nil && !fail.Is(err, fail.NotFound) {
			t.Fatal(err)
		}
	}
	u := New(Options{Target: "x", Journal: r.j, Term: 9, Store: r.store, SegmentBytes: 1})
	for want, pos := range first {
		u.next = want + 1
		got, last, err := u.take(t.Context(), &filler{store: r.store}, end)
		switch {
		case pos < freed && !fail.Is(err, fail.NotFound):
			t.Errorf("index %d, which is gone: %v", want, err)
		case pos >= freed && (err != nil || got[0].pos != pos || last != want+1 || len(got[0].entries) != 1):
			t.Errorf("index %d at %d: found %+v, %v", want, pos, got, err)
		}
	}
}

// TestFillBehindSettledFence: a void object whose fence garbage collection has deleted is not
// taken for a valid one when another target is filled from that log.
func TestFillBehindSettledFence(t *testing.T) {
	p := newPair(t)
	p.reopen("x")
	run := func(n int) {
		_, stop := p.run()
		p.propose(n)
		p.await()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
	run(3)
	was := p.j.Target("x")
	id, _, _ := p.j.ID()
	body := state.Encode(state.KindHeartbeat, state.Heartbeat{Time: time.Unix(1, 0).UTC()})
	h := segment.Head{Type: segment.Segment, Journal: id, Token: was.Token, ChecksTail: true,
		Position: was.Position + 1, DurablePosition: was.Position, FirstIndex: was.Index + 1,
		LastIndex: was.Index + 1, Time: 1}
	void, err := segment.Build(h,
		[]segment.Entry{{Kind: segment.CommandEntry, Command: state.KindHeartbeat, Bytes: uint32(len(body))}}, nil,
		func(_ int, dst []byte) error { copy(dst, body); return nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := p.store.Create(t.Context(), objlog.ObjectName(was.Position+1), void); err != nil {
		t.Fatal(err)
	}
	p.reopen("x")
	run(4)
	at := p.j.Target("x")
	c := &catalog.Catalog{Journal: id, ReadPoints: []catalog.ReadPoint{{Position: was.Position + 1,
		Durable: was.Position + 1, Index: was.Index, Token: at.Token}}}
	if err := catalog.Create(t.Context(), p.store, c); err != nil {
		t.Fatal(err)
	}
	if err := p.store.Delete(t.Context(), objlog.ObjectName(was.Position)); err != nil {
		t.Fatal(err)
	}
	p.reopen("x", "spare")
	spare, stop := p.start()
	p.until("a word of the spare",
		func() bool { return spare.Status().Err != nil || p.j.Target("spare").Index > was.Index })
	stop()
	for pos := uint64(1); ; pos++ {
		x, err := objlog.ReadIndex(t.Context(), p.spare, pos)
		if fail.Is(err, fail.NotFound) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		for i := range x.Entries {
			e := &x.Entries[i]
			if e.Index != was.Index+1 {
				continue
			}
			if b, err := p.spare.Read(t.Context(), objlog.ObjectName(pos), e.Offset, int64(e.Bytes), nil); err != nil ||
				bytes.Equal(b, body) {
				t.Errorf("position %d has the void entry; %v", pos, err)
			}
		}
	}
}
