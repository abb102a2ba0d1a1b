package twin

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/fold"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	testJournal = uuid.MustParse("10000000-0000-0000-0000-00000000000a")
	streamA     = uuid.MustParse("20000000-0000-0000-0000-00000000000a")
	streamB     = uuid.MustParse("20000000-0000-0000-0000-00000000000b")
	epochStart  = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
)

func token(epoch, term uint64, writer byte) segment.Token {
	return segment.Token{Epoch: epoch, Term: term, Writer: uuid.UUID{writer}}
}

// history is a writer's view of a log: forks of one may share a store.
type history struct {
	t      testing.TB
	store  objstore.Store
	dir    string
	token  segment.Token
	pos    uint64 // next position
	next   uint64 // next journal index
	points map[change.StreamID]change.Point
	clock  time.Time

	entries []segment.Entry // of the coming segment
	bodies  [][]byte
	folding bool // what may be folded is, when the segment is written
}

func newHistory(t testing.TB) *history {
	t.Helper()
	dir := t.TempDir()
	s, err := objstore.Open(t.Context(), "file://"+dir, objstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return &history{t: t, store: s, dir: dir, token: token(1, 1, 1), next: 1,
		points: map[change.StreamID]change.Point{}, clock: epochStart}
}

// begun has an identity and a first fence.
func begun(t testing.TB) *history {
	t.Helper()
	h := newHistory(t)
	h.identity(state.Identity{Journal: testJournal, Format: state.FormatVersion, Site: "remote"})
	h.fence(h.next)
	return h
}

// fork is another writer who knows the same.
func (h *history) fork(tok segment.Token) *history {
	f := *h
	f.token, f.points = tok, maps.Clone(h.points)
	f.entries, f.bodies = nil, nil
	return &f
}

func (h *history) put(pos uint64, obj []byte) {
	h.t.Helper()
	if err := h.store.Create(h.t.Context(), objlog.ObjectName(pos), obj); err != nil {
		h.t.Fatal(err)
	}
}

func (h *history) identity(id state.Identity) {
	h.t.Helper()
	h.put(h.pos, segment.Document(
		segment.Head{Type: segment.Identity, Journal: testJournal, Token: segment.Token{Epoch: 1}, FirstIndex: 1},
		state.KindIdentity, id))
	h.pos++
}

// fence takes the log over at a journal index.
func (h *history) fence(index uint64) {
	h.t.Helper()
	h.next = index
	h.put(h.pos, segment.Document(segment.Head{Type: segment.Fence, Journal: testJournal, Token: h.token,
		Position: h.pos, DurablePosition: h.pos, FirstIndex: index},
		state.KindFence, state.Fence{NextIndex: index, Streams: h.points, Reason: "test"}))
	h.pos++
}

func (h *history) command(kind state.Kind, v any) {
	b := state.Encode(kind, v)
	h.entries = append(h.entries, segment.Entry{Kind: segment.CommandEntry, Command: kind, Bytes: uint32(len(b))})
	h.bodies = append(h.bodies, b)
}

// frame adds a frame, a second after the one before; it took half of it.
func (h *history) frame(id change.StreamID, changes ...change.Change) {
	at := h.points[id]
	h.clock = h.clock.Add(time.Second)
	head := change.Header{Stream: id, FirstLSN: at.LSN + 1, FirstTime: h.clock.Add(-time.Second / 2).UnixNano(),
		LastTime: h.clock.UnixNano(),
		Epoch:    h.token.Epoch, Lease: 1, Prev: at.Hash}
	e := change.Encoder{Codec: change.CodecS2}
	b, hash := e.Encode(&head, changes)
	h.points[id] = change.Point{LSN: head.LastLSN, Hash: hash}
	h.entries = append(h.entries, segment.FrameEntryOf(&head, hash))
	h.bodies = append(h.bodies, bytes.Clone(b))
}

// segment writes what was added, as the next object.
func (h *history) segment() {
	h.t.Helper()
	n := uint64(len(h.entries))
	if h.folding {
		h.fold()
	}
	h.put(h.pos, h.build(h.next+n-1))
	h.next += n
	h.pos++
	h.entries, h.bodies = nil, nil
}

// fold replaces each run of a stream's frames by a fold, as the uploader does.
func (h *history) fold() {
	h.t.Helper()
	var entries []segment.Entry
	var bodies [][]byte
	runs := map[change.StreamID][]int{}
	end := func(id change.StreamID) {
		if run := runs[id]; len(run) > 0 {
			b, fh, err := fold.Frames(h.t.Context(), nil, len(run), change.Quick,
				func(i int, buf []byte) ([]byte, error) {
					return append(buf, h.bodies[run[i]]...), nil
				})
			if err != nil {
				h.t.Fatal(err)
			}
			e := segment.FoldEntryOf(fh)
			e.Index = h.next + uint64(run[len(run)-1])
			entries, bodies = append(entries, e), append(bodies, b)
			delete(runs, id)
		}
	}
	for i := range h.entries {
		e := h.entries[i]
		if e.Kind == segment.FrameEntry && e.Flags&change.FlagMarks == 0 {
			runs[e.Stream] = append(runs[e.Stream], i)
			continue
		}
		end(e.Stream)
		e.Index, e.Covers = h.next+uint64(i), 1
		entries, bodies = append(entries, e), append(bodies, h.bodies[i])
	}
	for id := range runs {
		end(id)
	}
	order := make([]int, len(entries))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(entries[a].Index, entries[b].Index) })
	h.entries, h.bodies = nil, nil
	for _, i := range order {
		h.entries, h.bodies = append(h.entries, entries[i]), append(h.bodies, bodies[i])
	}
}

func (h *history) build(last uint64) []byte {
	h.t.Helper()
	head := segment.Head{Type: segment.Segment, Journal: testJournal, Token: h.token, Position: h.pos,
		DurablePosition: h.pos,
		FirstIndex:      h.next, LastIndex: last}
	obj, err := segment.Build(head, h.entries, nil, func(i int, dst []byte) error {
		copy(dst, h.bodies[i])
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return obj
}

// open wants all of the log.
func (h *history) open() (*Log, error) {
	l, err := Open(context.Background(), h.store, nil)
	if err == nil {
		err = l.Damage
	}
	return l, err
}

func (h *history) mustOpen() *Log {
	h.t.Helper()
	l, err := h.open()
	if err != nil {
		h.t.Fatal(err)
	}
	return l
}

// file is an object's file, to be damaged.
func (h *history) file(pos uint64) string { return filepath.Join(h.dir, objlog.ObjectName(pos)) }

func (h *history) remove(pos uint64) {
	h.t.Helper()
	if err := os.Remove(h.file(pos)); err != nil {
		h.t.Fatal(err)
	}
}

func (h *history) flip(pos uint64, off int) {
	h.t.Helper()
	b, err := os.ReadFile(h.file(pos))
	if err != nil {
		h.t.Fatal(err)
	}
	b[off] ^= 0x10
	if err := os.WriteFile(h.file(pos), b, 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// control makes group g with a stream per id, and one volume in each, ready
// from LSN 1 on and numbered by the state.
func (h *history) control(ids ...change.StreamID) {
	h.command(state.KindGroupPut, state.Group{Name: "g"})
	for i, id := range ids {
		agent := string(rune('a' + i))
		h.command(state.KindStreamCreate, state.Stream{ID: id, Group: "g", Agent: agent})
		h.volume("vol"+agent, id, agent)
	}
}

func (h *history) volume(name string, id change.StreamID, agent string) {
	h.command(state.KindVolumeCreate, state.Volume{Name: name, Group: "g", Stream: id, Agent: agent, SizeBytes: 1 << 20,
		Backing: "/" + name, Created: epochStart})
	h.command(state.KindVolumeReady, state.VolumeReady{Name: name, FirstLSN: 1})
}

// fill is a change that fills n bytes with value.
func fill(volume uint32, off int64, n int, value byte) change.Change {
	return change.Change{Kind: change.Write, Volume: volume, Off: off, Len: uint32(n),
		Data: [][]byte{bytes.Repeat([]byte{value}, n)}}
}

// image restores a volume into memory.
func image(t testing.TB, l *Log, p Point) []byte {
	t.Helper()
	img := make(memory, p.Volume.SizeBytes)
	if _, err := l.Restore(context.Background(), p, img); err != nil {
		t.Fatal(err)
	}
	return img
}

type memory []byte

func (m memory) WriteAt(b []byte, off int64) (int, error) {
	return copy(m[off:off+int64(len(b))], b), nil
}

func (m memory) Zero(off, n int64) error {
	clear(m[off : off+n])
	return nil
}
