package logtest

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/fold"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
)

// Journal is the id of every log's journal.
var Journal = uuid.MustParse("10000000-0000-0000-0000-00000000000a")

// Log writes one group's stream: frames into a buffer, buffers into segments.
type Log struct {
	T       testing.TB
	Store   objstore.Store
	Stream  change.StreamID
	Clock   time.Time // of the next frame
	Step    time.Duration
	Skew    time.Duration // how far the agent's clock is ahead
	Codec   change.Codec
	Folding bool // what may be folded is
	Keeping bool // Random keeps what the volumes hold at each frame
	// Unchecked: the writer is of a release that did not check its tail.
	Unchecked bool

	Volumes map[string]uint32 // numbers by name
	Sizes   map[string]int64
	// Images are what each volume holds now; History what it held at LSNs that were
	// kept by Keep.
	Images  map[string][]byte
	History map[uint64]map[string][]byte
	Times   map[uint64]time.Time
	Exact   map[uint64]bool // LSNs at which a frame ends

	Point    change.Point
	Position uint64       // of the next object
	index    uint64       // of the next entry
	gap      change.Point // to which the newest Leap leads
	leaps    int
	token    segment.Token
	number   uint32
	entries  []segment.Entry
	bodies   [][]byte
}

// New begins a log in s, with group g.
func New(t testing.TB, s objstore.Store) *Log {
	t.Helper()
	l := &Log{T: t, Store: s, Stream: uuid.MustParse("20000000-0000-0000-0000-00000000000a"),
		Clock: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Step: time.Second,
		Codec: change.CodecS2, Volumes: map[string]uint32{}, Sizes: map[string]int64{}, Images: map[string][]byte{},
		History: map[uint64]map[string][]byte{},
		Times:   map[uint64]time.Time{}, Exact: map[uint64]bool{}, index: 1,
		token: segment.Token{Epoch: 1, Term: 1, Writer: uuid.UUID{1}}, number: 1}
	l.put(segment.Document(segment.Head{Type: segment.Identity, Journal: Journal, Token: segment.Token{Epoch: 1},
		FirstIndex: 1}, state.KindIdentity,
		state.Identity{Journal: Journal, Format: state.FormatVersion, Site: "remote"}))
	l.Fence()
	l.Command(state.KindGroupPut, state.Group{Name: "g", Ack: "local", Overflow: "throttle", PITR: state.PITRFold})
	l.Command(state.KindStreamCreate, state.Stream{ID: l.Stream, Group: "g", Agent: "a"})
	l.number++ // the stream has one
	return l
}

func (l *Log) put(obj []byte) {
	l.T.Helper()
	if err := l.Store.Create(context.Background(), objlog.ObjectName(l.Position), obj); err != nil {
		l.T.Fatal(err)
	}
	l.Position++
}

// Fence takes the log over under the next term.
func (l *Log) Fence() {
	l.T.Helper()
	l.token.Term++
	l.token.Writer[1]++
	l.put(segment.Document(segment.Head{Type: segment.Fence, Journal: Journal, Token: l.token, ChecksTail: !l.Unchecked,
		Position: l.Position, DurablePosition: l.Position, FirstIndex: l.index},
		state.KindFence, state.Fence{NextIndex: l.index, Streams: map[change.StreamID]change.Point{l.Stream: l.Point},
			Reason: "test"}))
}

// Command adds a command.
func (l *Log) Command(kind state.Kind, v any) {
	b := state.Encode(kind, v)
	l.entries = append(l.entries, segment.Entry{Kind: segment.CommandEntry, Command: kind, Bytes: uint32(len(b))})
	l.bodies = append(l.bodies, b)
}

// Volume protects a volume of zeros from here on.
func (l *Log) Volume(name string, size int64) {
	l.Command(state.KindVolumeCreate,
		state.Volume{Name: name, Group: "g", Stream: l.Stream, Agent: "a", SizeBytes: size, Backing: "/" + name,
			Created: l.Clock})
	l.Command(state.KindVolumeReady, state.VolumeReady{Name: name, FirstLSN: l.Point.LSN + 1})
	l.Volumes[name], l.Sizes[name], l.Images[name] = l.number, size, make([]byte, size)
	l.number++
}

// Write, Zero and Mark are changes for Frame.
func (l *Log) Write(volume string, off int64, data []byte) change.Change {
	copy(l.Images[volume][off:], data)
	return change.Change{Kind: change.Write, Volume: l.Volumes[volume], Off: off, Len: uint32(len(data)),
		Data: [][]byte{data}}
}

// Zero makes a range zeros.
func (l *Log) Zero(volume string, off, n int64) change.Change {
	clear(l.Images[volume][off : off+n])
	return change.Change{Kind: change.Trim, Volume: l.Volumes[volume], Off: off, Len: uint32(n)}
}

// Frame adds a frame of changes.
func (l *Log) Frame(changes ...change.Change) {
	l.Clock = l.Clock.Add(l.Step)
	now := l.Clock.Add(l.Skew).UnixNano()
	h := change.Header{Stream: l.Stream, FirstLSN: l.Point.LSN + 1, FirstTime: now, LastTime: now, Epoch: 1, Lease: 1,
		Prev: l.Point.Hash}
	e := change.Encoder{Codec: l.Codec}
	b, hash := e.Encode(&h, changes)
	l.Point = change.Point{LSN: h.LastLSN, Hash: hash}
	l.Exact[h.LastLSN], l.Times[h.LastLSN] = true, l.Clock
	l.entries = append(l.entries, segment.FrameEntryOf(&h, hash))
	l.bodies = append(l.bodies, bytes.Clone(b))
}

// Bookmark adds a mark and its command, and keeps what the volumes hold.
func (l *Log) Bookmark(name string) {
	l.Frame(change.Change{Kind: change.Mark, Data: [][]byte{[]byte(name)}})
	l.Command(state.KindBookmarkAdd, state.Bookmark{Name: name, Group: "g", Stream: l.Stream, LSN: l.Point.LSN,
		Epoch: 1, Time: l.Clock})
	l.Keep()
}

// Keep remembers what the volumes hold at the present LSN.
func (l *Log) Keep() {
	now := map[string][]byte{}
	for name, img := range l.Images {
		now[name] = bytes.Clone(img)
	}
	l.History[l.Point.LSN] = now
}

// Segment writes what was added as the next object.
func (l *Log) Segment() {
	l.T.Helper()
	n := uint64(len(l.entries))
	if n == 0 {
		return
	}
	if l.Folding {
		l.fold()
	}
	h := segment.Head{Type: segment.Segment, Journal: Journal, Token: l.token, ChecksTail: !l.Unchecked,
		Position: l.Position, DurablePosition: l.Position, FirstIndex: l.index, LastIndex: l.index + n - 1,
		Time: l.Clock.UnixNano()}
	obj, err := segment.Build(h, l.entries, nil, func(i int, dst []byte) error { copy(dst, l.bodies[i]); return nil })
	if err != nil {
		l.T.Fatal(err)
	}
	l.put(obj)
	l.index += n
	l.entries, l.bodies = nil, nil
}

// fold replaces each run of frames by a fold, as the uploader does.
func (l *Log) fold() {
	l.T.Helper()
	entries, bodies := map[uint64]segment.Entry{}, map[uint64][]byte{}
	var run []int
	end := func() {
		if len(run) == 0 {
			return
		}
		b, h, err := fold.Frames(context.Background(), nil, len(run), change.Quick,
			func(i int, buf []byte) ([]byte, error) {
				return append(buf, l.bodies[run[i]]...), nil
			})
		if err != nil {
			l.T.Fatal(err)
		}
		for _, i := range run[:len(run)-1] {
			delete(l.Exact, l.entries[i].LastLSN)
			delete(l.History, l.entries[i].LastLSN)
		}
		e := segment.FoldEntryOf(h)
		e.Index = l.index + uint64(run[len(run)-1])
		entries[e.Index], bodies[e.Index] = e, b
		run = nil
	}
	for i, e := range l.entries {
		if e.Kind == segment.FrameEntry && e.Flags&change.FlagMarks == 0 {
			run = append(run, i)
			continue
		}
		if e.Kind == segment.FrameEntry {
			end()
		}
		e.Index, e.Covers = l.index+uint64(i), 1
		entries[e.Index], bodies[e.Index] = e, l.bodies[i]
	}
	end()
	l.entries, l.bodies = nil, nil
	for _, index := range slices.SortedFunc(maps.Keys(entries), cmp.Compare[uint64]) {
		l.entries, l.bodies = append(l.entries, entries[index]), append(l.bodies, bodies[index])
	}
}

// Random adds n frames of random changes, and segments of random sizes.
func (l *Log) Random(r *rand.Rand, n int) {
	l.T.Helper()
	names := slices.Sorted(maps.Keys(l.Volumes))
	for range n {
		var changes []change.Change
		for range 1 + r.IntN(6) {
			changes = append(changes, l.change(r, names[r.IntN(len(names))]))
		}
		l.Frame(changes...)
		if l.Keeping {
			l.Keep()
		}
		if r.IntN(4) == 0 {
			l.Segment()
		}
		if r.IntN(40) == 0 {
			l.Segment()
			l.Fence()
		}
	}
	l.Segment()
}

func (l *Log) change(r *rand.Rand, name string) change.Change {
	size := l.Sizes[name]
	off := r.Int64N(size)
	n := 1 + r.Int64N(min(size-off, []int64{600, 9000, 200000}[r.IntN(3)]))
	if r.IntN(3) > 0 {
		off = off / 4096 * 4096
		n = min((n+4095)/4096*4096, size-off)
	}
	if r.IntN(8) == 0 {
		return l.Zero(name, off, min(size-off, 4*n))
	}
	b := bytes.Repeat([]byte{byte(1 + r.IntN(255))}, int(n))
	for range r.IntN(int(n)) / 4 {
		b[r.IntN(len(b))] = byte(r.Uint32())
	}
	return l.Write(name, off, b)
}
