package twin

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
)

// firstByte is what volume vola holds at its beginning, at the newest point.
func firstByte(t *testing.T, l *Log) byte {
	t.Helper()
	v, err := l.Volume("vola")
	if err != nil {
		t.Fatal(err)
	}
	p, err := l.Resolve(context.Background(), v, "", epochStart)
	if err != nil {
		t.Fatal(err)
	}
	return image(t, l, p)[0]
}

func started(t testing.TB) *history {
	h := begun(t)
	h.control(streamA)
	h.frame(streamA, fill(2, 0, 512, 1))
	h.segment()
	return h
}

// TestFencedWriter: what a fenced writer still creates is void, wherever it
// lands among the objects of its successor.
func TestFencedWriter(t *testing.T) {
	h := started(t)
	old := h.fork(h.token)
	h.token = token(1, 2, 2)
	h.fence(h.next)
	zombie := func(value byte) {
		old.frame(streamA, fill(2, 0, 512, value))
		old.pos = h.pos
		old.segment()
		h.pos = old.pos
	}
	zombie(66)
	h.frame(streamA, fill(2, 0, 512, 2))
	h.segment()
	zombie(67)
	zombie(68)
	h.frame(streamA, fill(2, 0, 512, 3))
	h.segment()
	l := h.mustOpen()
	if l.Void != 3 || len(l.Objects) != 3 || firstByte(t, l) != 3 {
		t.Errorf("%d void, %d valid, first byte %d", l.Void, len(l.Objects), firstByte(t, l))
	}
}

// TestRivals: of two writers with one epoch and term, the first fence counts.
func TestRivals(t *testing.T) {
	h := started(t)
	rival := h.fork(token(1, 2, 9))
	h.token = token(1, 2, 2)
	h.fence(h.next)
	rival.pos = h.pos
	rival.fence(rival.next)
	rival.frame(streamA, fill(2, 0, 512, 66))
	rival.segment()
	h.pos = rival.pos
	h.frame(streamA, fill(2, 0, 512, 2))
	h.segment()
	l := h.mustOpen()
	if l.Void != 2 || firstByte(t, l) != 2 {
		t.Errorf("%d void, first byte %d", l.Void, firstByte(t, l))
	}
}

// TestFenceCuts: a new epoch goes on at a lower index; what lay beyond is a dead
// branch, commands and parts of objects included.
func TestFenceCuts(t *testing.T) {
	h := started(t)
	h.frame(streamA, fill(2, 0, 512, 2))
	branch := h.fork(token(2, 1, 2)) // knows only the first of the segment's entries
	branch.next++
	h.frame(streamA, fill(2, 0, 512, 66))
	h.command(state.KindBookmarkAdd, state.Bookmark{Name: "dead", Group: "g", Stream: streamA, LSN: 3})
	h.segment()
	h.frame(streamA, fill(2, 0, 512, 67))
	h.segment()
	branch.pos = h.pos
	branch.fence(branch.next)
	l := branch.mustOpen()
	if r, _ := l.RangeOf(streamA); r.LastLSN != 2 || firstByte(t, l) != 2 || l.Epoch != 2 ||
		len(l.State.Bookmarks) != 0 {
		t.Errorf("LSN %d, first byte %d, epoch %d, %d bookmarks", r.LastLSN, firstByte(t, l), l.Epoch,
			len(l.State.Bookmarks))
	}
	branch.frame(streamA, fill(2, 0, 512, 3))
	branch.segment()
	if l := branch.mustOpen(); firstByte(t, l) != 3 {
		t.Errorf("first byte %d after the branch went on", firstByte(t, l))
	}
	// A fence that cuts at an object's very beginning drops it whole.
	again := branch.fork(token(3, 1, 3))
	again.points[streamA] = l.pointAt(streamA, 2)
	again.fence(branch.next - 1)
	if l := again.mustOpen(); firstByte(t, l) != 2 || len(l.Objects) != 2 {
		t.Errorf("first byte %d of %d objects", firstByte(t, l), len(l.Objects))
	}
}

// TestBrokenLogs: each must be refused, with the object's name and the kind.
func TestBrokenLogs(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(h *history) *history
		pos  uint64
		kind fail.Kind
		text string
	}{
		{"index gap", func(h *history) *history {
			h.next += 3
			h.frame(streamA, fill(2, 0, 512, 2))
			h.segment()
			return h
		}, 3, fail.Damaged, "begins at journal index 9, 6 must follow"},
		{"index repeats", func(h *history) *history {
			h.next--
			h.frame(streamA, fill(2, 0, 512, 2))
			h.segment()
			return h
		}, 3, fail.Damaged, "5, 6 must follow"},
		{"no fence", func(h *history) *history {
			h.token = token(1, 7, 7)
			h.frame(streamA, fill(2, 0, 512, 2))
			h.segment()
			return h
		}, 3, fail.Damaged, "without a fence"},
		{"fence ahead", func(h *history) *history {
			h.token = token(1, 7, 7)
			h.fence(h.next + 1)
			return h
		}, 3, fail.Damaged, "goes on at journal index 7, the log reached 6"},
		{"identity again", func(h *history) *history {
			h.put(3, segment.Document(segment.Head{Type: segment.Identity, Journal: testJournal, Token: h.token,
				Position: 3, FirstIndex: 1},
				state.KindIdentity, state.Identity{}))
			return h
		}, 3, fail.Damaged, "identity in the middle"},
		{"another journal", func(h *history) *history {
			h.put(3, segment.Document(segment.Head{Type: segment.Fence, Token: token(9, 9, 9), Position: 3,
				FirstIndex: 6}, state.KindFence, state.Fence{NextIndex: 6}))
			return h
		}, 3, fail.Damaged, "of journal 00000000"},
		{"wrong position", func(h *history) *history {
			h.frame(streamA, fill(2, 0, 512, 2))
			h.put(3, h.fork(h.token).fakePosition(h, 8))
			return h
		}, 3, fail.Damaged, "says that it is position log/00000000000000000008"},
		{"refused command", func(h *history) *history {
			h.control(streamA)
			h.segment()
			return h
		}, 3, fail.Damaged, "stream-create"},
		{"unknown command", func(h *history) *history {
			h.command(77, state.Group{})
			h.segment()
			return h
		}, 3, fail.Unsupported, "command(77)"},
	} {
		h := tt.do(started(t))
		_, err := h.open()
		if !fail.Is(err, tt.kind) || !strings.Contains(err.Error(), objlog.ObjectName(tt.pos)) ||
			!strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v", tt.name, err)
		}
		// Examine names the same object.
		found, totals := examine(t, h)
		if totals.Err() == nil || fail.KindOf(totals.Err()) != tt.kind || found[tt.pos] == nil ||
			found[tt.pos].Err == nil {
			t.Errorf("%s: examine: %v", tt.name, totals.Err())
		}
	}
}

// fakePosition builds from's segment under another position.
func (h *history) fakePosition(from *history, pos uint64) []byte {
	h.entries, h.bodies, h.pos = from.entries, from.bodies, pos
	return h.build(h.next + uint64(len(h.entries)) - 1)
}

func TestIdentity(t *testing.T) {
	h := newHistory(t)
	if _, err := h.open(); !fail.Is(err, fail.NotFound) {
		t.Errorf("empty store: %v", err)
	}
	h.identity(state.Identity{Journal: testJournal, Format: 2})
	if _, err := h.open(); !fail.Is(err, fail.Unsupported) || !strings.Contains(err.Error(), "format 2") {
		t.Errorf("format 2: %v", err)
	}
	h = newHistory(t)
	h.identity(state.Identity{Journal: streamA, Format: 1})
	if _, err := h.open(); !fail.Is(err, fail.Damaged) {
		t.Errorf("identity of another journal: %v", err)
	}
	h = newHistory(t)
	h.fence(1)
	if _, err := h.open(); !fail.Is(err, fail.Damaged) || !strings.Contains(err.Error(), "not the log's identity") {
		t.Errorf("fence at 0: %v", err)
	}
}

// TestMissing: a position that was durable once is named; one that may still be
// on its way is not.
func TestMissing(t *testing.T) {
	long := func() *history {
		h := started(t)
		for i := range 8 {
			h.frame(streamA, fill(2, 0, 512, byte(i)))
			h.segment()
		}
		return h
	}
	for _, pos := range []uint64{0, 1, 2, 5, 9} {
		h := long()
		h.remove(pos)
		_, err := h.open()
		if !fail.Is(err, fail.Damaged) || !strings.Contains(err.Error(), objlog.ObjectName(pos)) ||
			fail.HintOf(err) == "" {
			t.Errorf("without %d: %v", pos, err)
		}
		found, totals := examine(t, h)
		if found[pos] == nil || found[pos].Standing != Missing || totals.Standings["missing"] != 1 {
			t.Errorf("without %d: examine: %v", pos, totals.Standings)
		}
	}
	h := long()
	last := h.pos
	h.pos++ // the one between is on its way
	h.next++
	h.frame(streamA, fill(2, 0, 512, 77))
	obj := h.build(h.next + uint64(len(h.entries)) - 1)
	if err := segment.Move(obj, h.pos); err != nil {
		t.Fatal(err)
	}
	h.put(h.pos, rehead(t, h, last))
	l := h.mustOpen()
	if l.End != last || l.Beyond != 1 || firstByte(t, l) != 7 {
		t.Errorf("end %d, %d beyond, first byte %d", l.End, l.Beyond, firstByte(t, l))
	}
	if _, totals := examine(t, h); totals.Err() != nil || totals.Standings["beyond"] != 1 {
		t.Errorf("examine: %v, %v", totals.Err(), totals.Standings)
	}
	far := last + segment.MaxInFlight + 1
	h.pos = far
	h.put(far, rehead(t, h, last))
	if _, err := h.open(); !fail.Is(err, fail.Damaged) {
		t.Errorf("with position %d: %v", far, err)
	}
}

// rehead builds h's coming segment by a writer that knew `durable` positions.
func rehead(t *testing.T, h *history, durable uint64) []byte {
	t.Helper()
	head := segment.Head{Type: segment.Segment, Journal: testJournal, Token: h.token, Position: h.pos,
		DurablePosition: durable,
		FirstIndex:      h.next, LastIndex: h.next + uint64(len(h.entries)) - 1}
	obj, err := segment.Build(head, h.entries, nil, func(i int, dst []byte) error {
		copy(dst, h.bodies[i])
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return obj
}

// TestCancelled: an interrupted Open says so.
func TestCancelled(t *testing.T) {
	h := started(t)
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := Open(ctx, cancelling{h.store, cancel}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("open: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	if _, err := Examine(ctx, cancelling{h.store, cancel}, func(*Object) error { return nil }); !errors.Is(err,
		context.Canceled) {
		t.Errorf("examine: %v", err)
	}
}

// cancelling cancels once the list is through.
type cancelling struct {
	objstore.Store
	cancel func()
}

func (c cancelling) List(ctx context.Context, prefix, after string, fn func(objstore.Info) error) error {
	defer c.cancel()
	return c.Store.List(ctx, prefix, after, fn)
}

// TestForeign: files that are no positions are nobody's business.
func TestForeign(t *testing.T) {
	h := started(t)
	for _, name := range []string{"log/7", "log/x", "log/00000000000000000003.old", "other/1"} {
		if err := h.store.Create(t.Context(), name, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if l := h.mustOpen(); l.End != 3 || l.Beyond != 0 {
		t.Errorf("end %d, %d beyond", l.End, l.Beyond)
	}
}
