package journal

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/segment"
	"github.com/pollux-dr/pollux/replicator/state"
)

// A Raft entry's data begins with what it is.
const (
	tagCommand  = 'C' // a command envelope
	tagAppend   = 'A' // an append message
	tagUploaded = 'U' // JSON of Uploaded
	tagLazy     = 'u' // the same; see lazy
	tagTarget   = 'T' // JSON of targetPut
)

// Uploaded records that a target holds the journal up to Index, in positions
// below Position.
type Uploaded struct {
	Target   string                           `json:"target"`
	Position uint64                           `json:"position"` // the next one
	Index    uint64                           `json:"index"`    // the last one uploaded
	Token    segment.Token                    `json:"token"`    // of the fence that holds there
	Streams  map[change.StreamID]change.Point `json:"streams"`  // where it brings each stream
}

// targetPut names the targets that entries are kept for.
type targetPut struct {
	Targets []string `json:"targets"`
}

// Target is how far an object log has come.
type Target struct {
	Position uint64 `json:"position"`
	Index    uint64 `json:"index"`
	// Token is of the newest fence below Position: older writers' objects
	// beyond it are void.
	Token segment.Token `json:"token"`
}

// fsm is what the log's entries did. All state is in Pebble; mirrors of the small
// part serve reads. Writes come from Raft's one FSM goroutine.
type fsm struct {
	db *pebble.DB

	mu      sync.RWMutex
	applied uint64 // Raft index
	firm    uint64 // newest applied index whose entry was durable before it counted; see lazy
	next    uint64 // journal index
	state   *state.State
	points  map[change.StreamID]change.Point
	targets map[string]*Target
	durable map[string]map[change.StreamID]change.Point // target -> stream -> what it holds
	floor   uint64                                      // frame index entries below are gone
	recent  recent                                      // the newest entries once more

	stopped error        // an entry of a later release came; nothing is applied from there on
	syncLog func() error // makes Raft's log durable
	changed func()       // after every batch
	fatal   func(error)
}

// result is what Apply returns to the proposer.
type result struct {
	point change.Point // of an append: where the stream stands
	index uint64       // of a command: its journal index
	err   error
}

var _ raft.BatchingFSM = (*fsm)(nil)

func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch applies entries and commits their effects together with the
// applied index. The commit is not synced: what a crash loses is in the Raft log,
// and is applied again.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	out := make([]any, len(logs))
	b := f.db.NewBatch()
	defer b.Close()
	f.mu.Lock()
	for i, l := range logs {
		if l.Index <= f.applied {
			out[i] = result{err: fail.New(fail.Internal, "apply", "Raft entry", "applied before")}
			continue
		}
		if l.Type == raft.LogCommand && f.stopped == nil {
			out[i] = f.applyOne(b, l.Data)
		}
		if f.stopped != nil {
			out[i] = result{err: f.stopped}
			continue
		}
		f.applied = l.Index
		if !lazy(l) {
			f.firm = l.Index
		}
	}
	f.putApplied(b)
	err := b.Commit(pebble.NoSync)
	f.mu.Unlock()
	if err != nil {
		f.fatal(fail.Wrap(fail.Internal, "commit", "journal state", err))
	}
	f.changed()
	return out
}

// rewind takes back the applied index to last, the newest entry of Raft's log,
// where only lazy entries are missing there. What they did stays: it is true of
// the store, whether Raft remembers it or not.
func (f *fsm) rewind(last uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.applied <= last || f.firm > last {
		return nil
	}
	f.applied = last
	b := f.db.NewBatch()
	defer b.Close()
	f.putApplied(b)
	return fail.Wrap(fail.Internal, "commit", "journal state", b.Commit(pebble.Sync))
}

func (f *fsm) putApplied(b *pebble.Batch) {
	v := binary.LittleEndian.AppendUint64(make([]byte, 0, 24), f.applied)
	v = binary.LittleEndian.AppendUint64(v, f.next)
	v = binary.LittleEndian.AppendUint64(v, f.floor)
	_ = b.Set(keyApplied, v, nil) // a batch's Set does not fail
	_ = b.Set(keyFirm, binary.LittleEndian.AppendUint64(make([]byte, 0, 8), f.firm), nil)
}

func (f *fsm) applyOne(b *pebble.Batch, data []byte) result {
	if len(data) == 0 {
		return result{err: fail.New(fail.Damaged, "apply", "Raft entry", "empty")}
	}
	body := data[1:]
	switch data[0] {
	case tagCommand:
		return f.applyCommand(b, body)
	case tagAppend:
		return f.applyAppend(b, body)
	case tagUploaded, tagLazy:
		return f.applyUploaded(b, body)
	case tagTarget:
		return f.applyTargets(b, body)
	}
	err := fail.New(fail.Unsupported, "apply", "Raft entry", fmt.Sprintf("tag %q", data[0]))
	f.stop(err)
	return result{err: err}
}

// stop ends the journal at an entry of a later release, before it counts as
// applied: going on would make this member's state differ, now or after the
// upgrade.
func (f *fsm) stop(err error) {
	f.stopped = err
	f.fatal(err)
}

func (f *fsm) applyCommand(b *pebble.Batch, data []byte) result {
	kind, body, err := state.Open(data)
	var changed []string
	if err == nil {
		changed, err = f.state.Apply(kind, body)
	}
	if fail.Is(err, fail.Unsupported) {
		f.stop(err)
	}
	if err != nil {
		return result{err: err}
	}
	for _, key := range changed {
		_ = b.Set(append(append([]byte{}, keyControl...), key...), f.state.Save(key), nil)
	}
	return result{index: f.index(b, append([]byte{tagCommand}, data...))}
}

// index gives an accepted entry the next journal index.
func (f *fsm) index(b *pebble.Batch, entry []byte) uint64 {
	n := f.next
	f.next++
	_ = b.Set(frameKey(n), entry, nil)
	f.recent.add(n, entry)
	return n
}

// applyAppend accepts the frames that continue their stream. A frame that was
// accepted before succeeds; anything else that does not continue it is refused.
func (f *fsm) applyAppend(b *pebble.Batch, data []byte) result {
	a, err := change.ParseAppend(data)
	if err != nil {
		return result{err: err}
	}
	at := f.points[a.Stream]
	st := f.state.Streams[a.Stream]
	if st == nil {
		return result{point: at, err: fail.New(fail.NotFound, "append to", a.Stream.String(), "no such stream")}
	}
	if a.Lease != st.Lease {
		return result{point: at, err: fail.New(fail.Fenced, "append to", "group "+st.Group,
			fmt.Sprintf("lease %d of epoch %d was superseded by %d of epoch %d", a.Lease.Number, a.Lease.Epoch, st.Lease.Number, st.Lease.Epoch)).
			WithHint("another agent, or a newer session of this one, has taken the stream over")}
	}
	for i := range a.Items {
		it := &a.Items[i]
		h, hash, err := change.ParseHeader(it.Header)
		if err != nil {
			f.keepPoint(b, a.Stream, at)
			return result{point: at, err: err}
		}
		here := change.Point{LSN: h.LastLSN, Hash: hash}
		if here == at {
			continue // the last one again
		}
		if h.LastLSN < at.LSN && h.Stream == a.Stream {
			continue // a repeat from before; its successor's chain vouches for it
		}
		if h.Stream != a.Stream {
			return result{point: at, err: fail.New(fail.Damaged, "append to", "group "+st.Group, "a frame of another stream")}
		}
		if err := h.Follows(at); err != nil {
			kind := fail.Fenced // another history
			if h.FirstLSN > at.LSN+1 {
				kind = fail.Retry // something before it did not arrive
			}
			f.keepPoint(b, a.Stream, at)
			return result{point: at, err: fail.Wrap(kind, "append to", "group "+st.Group, err)}
		}
		f.index(b, frameEntry(it))
		at = here
	}
	f.keepPoint(b, a.Stream, at)
	return result{point: at}
}

func (f *fsm) keepPoint(b *pebble.Batch, id change.StreamID, at change.Point) {
	f.points[id] = at
	_ = b.Set(pointKey(id), putPoint(at), nil)
}

// frameEntry encodes an indexed frame: tag, the agent's WAL index, header, and
// the body unless it is held by reference.
func frameEntry(it *change.AppendItem) []byte {
	e := make([]byte, 0, 9+len(it.Header)+len(it.Body))
	e = append(e, tagAppend)
	e = binary.LittleEndian.AppendUint64(e, it.Ref)
	e = append(e, it.Header...)
	return append(e, it.Body...)
}

func (f *fsm) applyUploaded(b *pebble.Batch, data []byte) result {
	var u Uploaded
	if err := json.Unmarshal(data, &u); err != nil {
		return result{err: fail.Wrap(fail.Damaged, "apply", "Uploaded", err)}
	}
	t := f.targets[u.Target]
	if t == nil || u.Index < t.Index || u.Position < t.Position || u.Index >= f.next {
		return result{err: fail.New(fail.Refused, "apply", "Uploaded", fmt.Sprintf("%+v after %+v", u, t))}
	}
	t.Position, t.Index, t.Token = u.Position, u.Index, u.Token
	f.putTarget(b, u.Target)
	for id, p := range u.Streams {
		f.durable[u.Target][id] = p
		_ = b.Set(durableKey(u.Target, id), putPoint(p), nil)
	}
	f.dropUploaded(b)
	return result{}
}

func (f *fsm) putTarget(b *pebble.Batch, name string) {
	js, _ := json.Marshal(f.targets[name])
	_ = b.Set(append(append([]byte{}, keyTarget...), name...), js, nil)
}

// dropUploaded forgets the entries that every target has.
func (f *fsm) dropUploaded(b *pebble.Batch) {
	low := f.next
	for _, t := range f.targets {
		low = min(low, t.Index+1)
	}
	// One by one: each range tombstone would burden every later iterator.
	for ; f.floor < low; f.floor++ {
		_ = b.Delete(frameKey(f.floor), nil)
	}
}

// applyTargets sets the list of targets. A new one starts from the beginning of
// the journal, which must still be there.
func (f *fsm) applyTargets(b *pebble.Batch, data []byte) result {
	var p targetPut
	if err := json.Unmarshal(data, &p); err != nil {
		return result{err: fail.Wrap(fail.Damaged, "apply", "targets", err)}
	}
	want := map[string]bool{}
	for _, name := range p.Targets {
		want[name] = true
		if f.targets[name] != nil {
			continue
		}
		if f.floor > 1 {
			return result{err: fail.New(fail.Refused, "add target", name, "the journal no longer holds its beginning").
				WithHint("targets can be added only before anything was uploaded; keep the ones that there are")}
		}
		f.targets[name] = &Target{}
		f.durable[name] = map[change.StreamID]change.Point{}
		f.putTarget(b, name)
	}
	for name := range f.targets {
		if !want[name] {
			delete(f.targets, name)
			delete(f.durable, name)
			_ = b.Delete(append(append([]byte{}, keyTarget...), name...), nil)
			prefix := append(append(append([]byte{}, keyDurable...), name...), '/')
			_ = b.DeleteRange(prefix, prefixEnd(prefix), nil)
		}
	}
	f.dropUploaded(b)
	return result{}
}

func prefixEnd(p []byte) []byte {
	end := append([]byte{}, p...)
	end[len(end)-1]++
	return end
}

// durableLSN is what every one of the targets holds of a stream.
func (f *fsm) durableLSN(id change.StreamID, targets []string) uint64 {
	if len(targets) == 0 {
		return 0
	}
	low := ^uint64(0)
	for _, t := range targets {
		low = min(low, f.durable[t][id].LSN)
	}
	return low
}
